"""Record the types and shapes of intermediate values.

Before -> after::

    y = Relu(x)          # x: float[N, 3], y: unknown      ->      y: float[N, 3]

Preconditions, per value:
    1. It is the output of a node and not a graph output: the interface stays as declared.
    2. Its type or shape is unknown, or differs from what the operators say it is. What only
       the file says is kept.

Numerics: exact; no operator changes.
Scope: main graph and subgraphs.
Leaves alone: bodies of model-local functions.
Reference: https://onnx.ai/onnx/api/shape_inference.html
"""

from __future__ import annotations

import dataclasses
import logging
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import shapes
from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise

__all__ = ["InferShapes"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class InferShapes(Pass):
    """Record the types and shapes of intermediate values."""

    name: ClassVar[str] = "infer-shapes"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Infer and record; one application for the whole model."""
        rewriter = context.rewriter(model, self)
        inferred = shapes.infer(model)
        news: list[tuple[ir.Value, ir.TypeProtocol | None, ir.Shape | None]] = []
        # 1.
        for value, (kind, shape) in inferred.items():
            # 2.
            if value.type != kind or value.shape != shape:
                news.append((value, kind, shape))

        def record(edit: Edit) -> None:
            for value, kind, shape in news:
                edit.set_type(value, kind, shape)
            edit.note(f"recorded the shapes of {len(news)} values")

        modified = rewriter.apply("infer", model.graph.name or "graph", record) is not None
        summary = f"recorded the shapes of {len(news)} of {len(inferred)} values"
        if not news:
            summary = "nothing to do"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, modified=modified, summary=summary)

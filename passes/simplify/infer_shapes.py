"""Record the types and shapes of intermediate values.

Before -> after::

    y = Relu(x)          # x: float[N, 3], y: unknown      ->      y: float[N, 3]

Preconditions, per value:
    1. Its type, its shape or one of its dimensions is unknown. What the file states is kept.

Numerics: exact; no operator changes.
Scope: main graph and subgraphs; graph inputs and outputs stay as they are declared.
Leaves alone: bodies of model-local functions; the whole model where onnx finds a contradiction
in it (the summary then says which).
Reference: https://onnx.ai/onnx/api/shape_inference.html
"""

from __future__ import annotations

import dataclasses
import logging
from typing import ClassVar

import onnx
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
        try:
            inferred = shapes.infer(model)
        except onnx.shape_inference.InferenceError as error:
            reason = " ".join(str(error).split())
            rewriter.skip("infer", model.graph.name or "graph", reason)
            return PassResult(model, modified=False, summary=f"nothing inferred: {reason}")
        news: list[tuple[ir.Value, ir.TypeProtocol | None, ir.Shape | None]] = []
        for value, (kind, found) in inferred.items():
            # 1.
            shape = shapes.merged(value.shape, found)
            if value.type is None or shape != value.shape:
                news.append((value, value.type or kind, shape))

        def record(edit: Edit) -> None:
            for value, kind, shape in news:
                edit.set_type(value, kind, shape)
            edit.note(f"recorded the shapes of {len(news)} values")

        modified = rewriter.apply("infer", model.graph.name or "graph", record) is not None
        summary = f"recorded the shapes of {len(news)} of {len(inferred)} values"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, modified=modified, summary=summary)

"""The model as it was before quantization, for passes that compare the two."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from graphopt.passbase import Context

__all__ = ["FloatTwin", "publish_twin", "take_twin"]

_KEY = "quantize/float-twin"


@dataclasses.dataclass(frozen=True)
class FloatTwin:
    """A copy of a graph; it shares the weights, and holds them while it lives.

    Attributes:
        model: The copy.
        nodes: Operator of the main graph of the model -> the same one of the copy.
    """

    model: ir.Model
    nodes: dict[ir.Node, ir.Node]


def publish_twin(context: Context, model: ir.Model) -> None:
    """Publish a copy of ``model``, which is about to be quantized."""
    copy = model.clone()
    nodes = dict(zip(model.graph, copy.graph, strict=True))
    context.artifacts[_KEY] = FloatTwin(copy, nodes)


def take_twin(context: Context) -> FloatTwin | None:
    """Return the copy that was published last; nobody else gets it."""
    found = context.artifacts.pop(_KEY, None)
    return found if isinstance(found, FloatTwin) else None

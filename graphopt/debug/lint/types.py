"""Whether types and shapes fit together, by onnx's own rules."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.debug.lint.findings import Finding
from graphopt.records import anchor_name

__all__ = ["types"]

_ROUNDS = 50
"""onnx stops at the first wrong type, and goes on past wrong shapes."""
_NODE = re.compile(r"\(op_type:([^,)]*), node name: ([^)]*)\):\s*")
_KIND = re.compile(r"^\[(Type|Shape)InferenceError\]\s*")


def types(model: ir.Model) -> list[Finding]:
    """Return the nodes whose inputs do not fit, or whose outputs are not what is declared.

    A node that was found is taken out, so that onnx gets to the next ones.
    """
    proto = model_io.skeleton(model)
    labels = {f"n{index}": anchor_name(node) for index, node in enumerate(model.graph)}
    for index, node in enumerate(proto.graph.node):
        node.name = f"n{index}"  # so that every node can be told from what onnx says
    found: list[Finding] = []
    for _ in range(_ROUNDS):
        text = _objection(proto)
        if not text:
            break
        guilty = {}
        starts = list(_NODE.finditer(text))
        ends = [*(match.start() for match in starts[1:]), len(text)]
        for match, end in zip(starts, ends, strict=False):
            op_type, name = match.groups()
            guilty[name] = _finding(labels.get(name, name), op_type, text[match.end() : end])
        kept = [node for node in proto.graph.node if node.name not in guilty]
        if len(kept) == len(proto.graph.node):
            return [*found, Finding("types/shape", _sentence(text))]
        found += guilty.values()
        del proto.graph.node[:]
        proto.graph.node.extend(kept)
    return found


def _objection(proto: onnx.ModelProto) -> str:
    try:
        onnx.shape_inference.infer_shapes(
            proto, check_type=True, strict_mode=True, data_prop=True
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        return str(error)
    return ""


def _finding(name: str, op_type: str, said: str) -> Finding:
    kind = _KIND.match(said)
    words = _sentence(_KIND.sub("", said))
    # Of a type that an operator does not take onnx says no kind.
    code = "types/shape" if kind and kind[1] == "Shape" else "types/type"
    return Finding(code, f"node {name!r} ({op_type}): {words}", name=name)


def _sentence(text: str) -> str:
    return f"{' '.join(text.split()).rstrip('.')}."

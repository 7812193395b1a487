"""Small graphs for tests: parse ONNX text, print it back normalized, run it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

HEADER = '<ir_version: 10, opset_import: ["" : {opset}]>\n'


def load(text: str, opset: int = 21) -> ir.Model:
    """Return the model of one graph in ONNX text, checked, with inferred shapes."""
    header = "" if text.lstrip().startswith("<") else HEADER.format(opset=opset)
    proto = onnx.shape_inference.infer_shapes(
        onnx.parser.parse_model(header + text), True, True
    )
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def text_of(model: ir.Model) -> str:
    """Return the text of ``model`` without node names and re-emitted value_info."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.ClearField("name")
    return onnx.printer.to_text(proto)


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of ``model`` in onnxruntime without any optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, dict(feeds))


def check(model: ir.Model) -> None:
    """Check ``model`` with the official checker, shapes included."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)

"""Write a small convolutional network, and samples for it: ``make_model.py MODEL SAMPLES``."""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import helper as h

LAYERS = 12
GAINS = {7: 16.0, 8: 0.6}
"""Layer 7 is the one whose activations go beyond the bound that the others never reach."""


def network() -> onnx.ModelProto:
    """Return ``LAYERS`` times Conv, BatchNormalization, Relu and Clip, and a classifier."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def weight(name: str, data: np.ndarray) -> str:
        weights.append(onnx.numpy_helper.from_array(data.astype(np.float32), name))
        return name

    weight("low", np.array(0.0))
    weight("high", np.array(6.0))
    last, width = "image", 3
    for i in range(LAYERS):
        scale = GAINS.get(i, 1.4) / np.sqrt(9 * width)
        kernel = weight(f"conv{i}.weight", scale * rng.standard_normal((8, width, 3, 3)))
        nodes.append(
            h.make_node("Conv", [last, kernel], [f"conv{i}"], f"conv{i}", pads=[1] * 4)
        )
        norm = [
            weight(f"norm{i}.{name}", data)
            for name, data in (
                ("scale", np.ones(8)),
                ("bias", 0.1 * rng.standard_normal(8)),
                ("mean", 0.1 * rng.standard_normal(8)),
                ("var", np.ones(8)),
            )
        ]
        nodes += [
            h.make_node("BatchNormalization", [f"conv{i}", *norm], [f"norm{i}"], f"norm{i}"),
            h.make_node("Relu", [f"norm{i}"], [f"relu{i}"], f"relu{i}"),
            h.make_node("Clip", [f"relu{i}", "low", "high"], [f"clip{i}"], f"clip{i}"),
        ]
        last, width = f"clip{i}", 8
    nodes += [
        h.make_node("GlobalAveragePool", [last], ["pool"], "pool"),
        h.make_node("Flatten", ["pool"], ["flat"], "flat"),
        h.make_node(
            "Gemm",
            ["flat", weight("fc.weight", rng.standard_normal((8, 10)))],
            ["scores"],
            "fc",
        ),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = h.make_graph(
        nodes,
        "network",
        [h.make_tensor_value_info("image", kind, ["N", 3, 8, 8])],
        [h.make_tensor_value_info("scores", kind, ["N", 10])],
        weights,
    )
    return h.make_model(graph, ir_version=10, opset_imports=[h.make_opsetid("", 21)])


if __name__ == "__main__":
    model = network()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, sys.argv[1])
    images = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
    np.savez(sys.argv[2], image=images)

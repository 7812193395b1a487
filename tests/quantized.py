"""For tests of quantization: models with random weights, what onnxruntime makes of a model."""

from __future__ import annotations

import collections
import pathlib

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort


def load_with_weights(text: str, *names: str, seed: int = 0, opset: int = 21) -> ir.Model:
    """Return the model of ``text`` with the inputs ``names`` turned into random initializers.

    They are float32, of the shape declared, and standard normal.
    """
    rng = np.random.default_rng(seed)
    model = graphs.load(text, opset)
    for name in names:
        (value,) = [value for value in model.graph.inputs if value.name == name]
        assert value.shape is not None
        data = rng.standard_normal(value.shape.numpy()).astype(np.float32)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(data, name=name)
        model.graph.register_initializer(value)
    graphs.check(model)
    return model


def array_of(model: ir.Model, name: str) -> np.ndarray:
    """Return the data of an initializer of the main graph."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def set_array(model: ir.Model, name: str, data: np.ndarray) -> None:
    """Give an initializer of the main graph other data."""
    model.graph.initializers[name].const_value = ir.tensor(data, name=name)


def optimized_operators(model: ir.Model, folder: pathlib.Path) -> dict[str, int]:
    """Return how many nodes of each operator onnxruntime makes of ``model``."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    graph = onnx.load(folder / "optimized.onnx").graph
    return dict(collections.Counter(node.op_type for node in graph.node))


def run_optimized(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of ``model`` in onnxruntime as it is by default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, feeds)


def signal_to_noise_db(found: np.ndarray, real: np.ndarray) -> float:
    """Return the energy of ``real`` over that of the difference, in decibels."""
    noise = float(np.square(found - real, dtype=np.float64).sum())
    return 10 * np.log10(float(np.square(real, dtype=np.float64).sum()) / max(noise, 1e-30))

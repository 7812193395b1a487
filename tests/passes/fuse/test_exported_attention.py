"""Attention as both exporters of PyTorch leave it: what the preset makes of it."""

import collections
import pathlib

import attention_modules as modules
import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphopt.models import exporters
from graphs import run
from torch import nn

from graphopt import model_io, pipeline
from graphopt.manager import PassManager
from graphopt.passbase import Context

RTOL = 1e-5
EXPORTERS = ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)]
LENGTHS = {0: "batch", 1: "length"}
PAST = {0: "batch", 2: "past"}
TOTAL = {0: "batch", 2: "total"}
PLAIN = exporters.Interface(("x",), ("y",), {"x": LENGTHS, "y": LENGTHS})
STEP = exporters.Interface(
    ("x", "past_key", "past_value"),
    ("y", "key", "value"),
    {"x": LENGTHS, "past_key": PAST, "past_value": PAST, "y": LENGTHS, "key": TOTAL,
     "value": TOTAL},
)  # fmt: skip


def exported(
    module: nn.Module,
    example: list[torch.Tensor],
    interface: exporters.Interface,
    exporter: str,
    folder: pathlib.Path,
) -> pathlib.Path:
    path = folder / "model.onnx"
    exporters.export(module.eval(), example, interface, path, exporter, optimize=False)
    return path


def optimized(path: pathlib.Path, passes: str) -> tuple[ir.Model, collections.Counter[str]]:
    """Return the model after ``passes``, and how often each operator is in it."""
    context = Context()
    with context.closing():
        model, _ = PassManager(pipeline.parse(passes)).run(model_io.load(path), context)
    return model, collections.Counter(node.op_type for node in model.graph)


def assert_close(
    model: ir.Model, path: pathlib.Path, feeds: dict[str, np.ndarray], rtol: float = RTOL
) -> None:
    original = run(model_io.load(path), feeds)
    for one, other in zip(run(model, feeds), original, strict=True):
        assert one.shape == other.shape
        scale = np.abs(other).max(initial=1e-30)
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", [modules.GptJ, modules.Llama])
def test_neighbours_are_rotated_by_one_operator(
    kind: type[nn.Module], exporter: str, tmp_path: pathlib.Path
) -> None:
    torch.manual_seed(0)
    path = exported(kind(), [torch.randn(2, 5, 32)], PLAIN, exporter, tmp_path)
    model, operators = optimized(path, "onnxruntime")
    assert operators["RotaryEmbedding"] == 2
    assert operators["MultiHeadAttention"] == 1
    assert not operators["Mul"]
    rng = np.random.default_rng(0)
    assert_close(model, path, {"x": rng.standard_normal((3, 7, 32), np.float32)})


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("shared", "operator"), [(4, "MultiHeadAttention"), (2, "Attention")])
def test_keys_and_values_from_before_are_taken_in(
    shared: int, operator: str, exporter: str, tmp_path: pathlib.Path
) -> None:
    torch.manual_seed(0)
    past = [torch.randn(2, shared, 3, 8) for _ in range(2)]
    example = [torch.randn(2, 5, 32), *past]
    path = exported(modules.Cached(shared), example, STEP, exporter, tmp_path)
    model, operators = optimized(path, "onnxruntime")
    assert operators == {"MatMul": 4, "Add": 4, operator: 1}
    rng = np.random.default_rng(0)
    # As many steps at once as one likes, and the first one, before which there is nothing.
    for length, earlier in ((1, 6), (4, 3), (5, 0)):
        shapes = dict.fromkeys(("past_key", "past_value"), (3, shared, earlier, 8))
        feeds = {
            name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()
        }
        feeds["x"] = rng.standard_normal((3, length, 32), np.float32)
        assert_close(model, path, feeds)

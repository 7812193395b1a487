"""Shapes, and operations, of a run that is fed certain sizes."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir

import graphopt
from graphopt.analysis.shapes import shapes_of_run
from graphopt.api import Options
from graphopt.report.console import summary_table
from graphopt.report.summary import macs_label, summarize

TEXT = """g (float[N, 3, H, W] x, float[?, 4] z, float[8, 3, 3, 3] w, float[8, 5] v)
        => (float[?, ?] y, float[?, 4] r)
    { c = Conv <strides=[2, 2]> (x, w)
      p = GlobalAveragePool(c)
      f = Flatten(p)
      y = MatMul(f, v)
      r = Relu(z) }"""


def test_every_size_follows_from_what_is_fed() -> None:
    model = graphs.load(TEXT)
    shapes = shapes_of_run(model, {"x": (2, 3, 9, 11), "z": (7, 4)})
    found = {v.name: shape.numpy() for v, shape in shapes.items() if shape is not None}
    assert found == {
        "x": (2, 3, 9, 11), "z": (7, 4), "c": (2, 8, 4, 5), "p": (2, 8, 1, 1), "f": (2, 8),
        "y": (2, 5), "r": (7, 4), "w": (8, 3, 3, 3), "v": (8, 5),
    }  # fmt: skip


def test_operations_are_those_of_the_run() -> None:
    model = graphs.load(TEXT)
    fed = {"x": (2, 3, 9, 11), "z": (7, 4)}
    assert summarize(model, 0, fed).macs == 2 * 8 * 4 * 5 * 27 + 2 * 8 * 5
    assert summarize(model, 0).macs != summarize(model, 0, fed).macs


def test_the_label_says_how_they_are_counted() -> None:
    model = graphs.load(TEXT)
    assert macs_label(model, sampled=True) == "MACs, first sample"
    assert macs_label(model, sampled=False) == "MACs, open sizes 1"
    fixed = graphs.load("g (float[1, 3] x) => (float[1, 3] y) { y = Relu(x) }")
    assert macs_label(fixed, sampled=True) == macs_label(fixed, sampled=False) == "MACs"


def test_a_result_counts_the_first_sample() -> None:
    model = graphs.load(
        "g (float[N, 4] x, float[4, 2] w) => (float[N, 2] y) { y = MatMul(x, w) }"
    )
    w = np.ones((4, 2), np.float32)
    feeds = [{"x": np.ones((rows, 4), np.float32), "w": w} for rows in (3, 5)]
    options = Options(measure=False)
    result = graphopt.optimize(ir.to_proto(model), "simplify", samples=feeds, options=options)
    assert result.origin.fed == {"x": (3, 4), "w": (4, 2)}
    assert result.before.macs == result.after.macs == 3 * 4 * 2
    assert "MACs, first sample" in list(summary_table(result).columns[0].cells)


def test_operations_on_integers_are_counted_as_well() -> None:
    text = """g (float[N, 4] x, int8[4, 3] w) => (int32[?, ?] y)
        { q, scale, zero = DynamicQuantizeLinear(x)
          y = MatMulInteger(q, w, zero) }"""
    assert summarize(graphs.load(text), 0, {"x": (5, 4)}).macs == 5 * 4 * 3

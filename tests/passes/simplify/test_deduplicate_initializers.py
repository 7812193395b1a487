"""Before -> after tests of DeduplicateInitializers."""

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.simplify.deduplicate_initializers import (
    SAMPLE_BYTES,
    DeduplicateInitializers,
)
from graphs import apply, assert_rewrites, assert_unchanged, load

from graphopt.passbase import Context

REWRITES = {
    "two_equal": (
        """g (float[2] x) => (float[2] y) <float[2] a = {1.0, 2.0}, float[2] b = {1.0, 2.0}>
           { h = Add(x, a)
             y = Mul(h, b) }""",
        """g (float[2] x) => (float[2] y) <float[2] a = {1.0, 2.0}, float[2] b = {1.0, 2.0}>
           { h = Add(x, a)
             y = Mul(h, a) }""",
    ),
    "in_one_node": (
        """g (float[2] x) => (float[2] y) <float a = {1.0}, float b = {1.0}>
           { y = Clip(x, a, b) }""",
        """g (float[2] x) => (float[2] y) <float a = {1.0}, float b = {1.0}>
           { y = Clip(x, a, a) }""",
    ),
    "nan_equals_itself": (
        """g (float[1] x) => (float[1] y) <float[1] a = {nan}, float[1] b = {nan}>
           { h = Add(x, a)
             y = Mul(h, b) }""",
        """g (float[1] x) => (float[1] y) <float[1] a = {nan}, float[1] b = {nan}>
           { h = Add(x, a)
             y = Mul(h, a) }""",
    ),
    "of_the_main_graph_in_a_branch": (
        """g (bool c, float[1] x) => (float[1] y) <float[1] a = {2.0}>
           { h = Mul(x, a)
             y = If (c) <then_branch = t () => (float[1] p) <float[1] b = {2.0}>
                             { p = Add(h, b) },
                         else_branch = e () => (float[1] q) { q = Exp(x) }> }""",
        """g (bool c, float[1] x) => (float[1] y) <float[1] a = {2.0}>
           { h = Mul(x, a)
             y = If (c) <then_branch = t () => (float[1] p) <float[1] b = {2.0}>
                             { p = Add(h, a) },
                         else_branch = e () => (float[1] q) { q = Exp(x) }> }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    assert_rewrites(DeduplicateInitializers(), *REWRITES[name])


PAIRS = {
    "different_values": "float[2] a = {1.0, 2.0}, float[2] b = {1.0, 3.0}",
    "different_shapes": "float[2] a = {1.0, 1.0}, float[1] b = {1.0}",
    "different_types": "float[2] a = {0.0, 0.0}, double[2] b = {0.0, 0.0}",
    "signs_of_zero": "float[1] a = {0.0}, float[1] b = {-0.0}",
    "strings": 'string[1] a = {"s"}, string[1] b = {"s"}',
}


@pytest.mark.parametrize("name", PAIRS)
def test_leaves_unchanged(name: str) -> None:
    text = f"""g (float[2] x) => (float[2] y, int64[1] s, int64[1] t) <{PAIRS[name]}>
               {{ y = Relu(x)
                  s = Shape(a)
                  t = Shape(b) }}"""
    assert_unchanged(DeduplicateInitializers(), text)


@pytest.mark.parametrize("which", ["a", "b"])
def test_an_overridable_initializer_is_no_constant(which: str) -> None:
    text = f"""g (float[1] x, float[1] {which}) => (float[1] y)
               <float[1] a = {{1.0}}, float[1] b = {{1.0}}>
               {{ h = Add(x, a)
                  y = Mul(h, b) }}"""
    assert_unchanged(DeduplicateInitializers(), text)


def test_sibling_branches_do_not_share() -> None:
    text = """g (bool c, float[1] x) => (float[1] y)
           { y = If (c) <then_branch = t () => (float[1] p) <float[1] a = {2.0}>
                             { p = Add(x, a) },
                         else_branch = e () => (float[1] q) <float[1] b = {2.0}>
                             { q = Mul(x, b) }> }"""
    assert_unchanged(DeduplicateInitializers(), text)


def _with_weights(a: np.ndarray, b: np.ndarray) -> ir.Model:
    model = load(
        """g (float[N, 1] x) => (float[N, M] y) <float a = {1.0}, float b = {1.0}>
           { h = Add(x, a)
             y = Mul(h, b) }"""
    )
    for name, data in (("a", a), ("b", b)):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(data, name=name)
        value.shape = ir.Shape(data.shape)
    model.graph[0].outputs[0].shape = None
    model.graph.outputs[0].shape = ir.Shape(["N", "M"])
    return model


def test_large_weights_are_compared_to_the_last_byte() -> None:
    data = np.arange(4 * SAMPLE_BYTES, dtype=np.float32).reshape(1, -1)
    other = data.copy()
    other[0, data.size // 2] += 1
    assert apply(_with_weights(data, data.copy()), DeduplicateInitializers()).modified
    assert not apply(_with_weights(data, other), DeduplicateInitializers()).modified


def test_large_weights_that_differ_at_an_end_are_not_read() -> None:
    data = np.arange(4 * SAMPLE_BYTES, dtype=np.float32).reshape(1, -1)
    other = data.copy()
    other[0, 0] += 1
    model = _with_weights(data, other)
    read: list[str] = []

    class Counting(ir.Tensor):
        def tobytes(self) -> bytes:
            read.append(self.name or "")
            return super().tobytes()

    for name in ("a", "b"):
        value = model.graph.initializers[name]
        value.const_value = Counting(value.const_value.numpy(), name=name)
    assert not DeduplicateInitializers().run(model, Context()).modified
    assert read == []


def test_empty_tensors_are_equal() -> None:
    empty = np.zeros((1, 0), np.float32)
    assert apply(_with_weights(empty, empty.copy()), DeduplicateInitializers()).modified


def test_tied_weights_stay_tied() -> None:
    text = """g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1.0, 2.0, 3.0, 4.0}>
              { h = MatMul(x, w)
                y = MatMul(h, w) }"""
    assert_unchanged(DeduplicateInitializers(), text)

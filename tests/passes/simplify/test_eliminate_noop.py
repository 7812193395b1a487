"""Before -> after tests of EliminateNoop."""

import pytest
from graphopt.passes.simplify.eliminate_noop import EliminateNoop
from graphs import assert_rewrites, assert_unchanged, load

from graphopt.passbase import Context

WEIGHTS = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] minus = {-1},
    int64[1] big = {9223372036854775807}, int64[3] same = {0, 0, 4}, int64[3] ones = {1, 1, 1},
    int64[6] no_pads = {0, 0, 0, 0, 0, 0}, int64[4] all = {0, 1, 2, 3}, int64[0] none = {},
    float[3] unit = {1.0, 1.0, 1.0}, float half = {0.5}, bool no = {0}, int64 axis = {1},
    int64[1] four = {4}, int64[2] start = {0, 0}, int64[2] shorter = {0, 4},
    int64[4] other = {0, 1, 3, 2}, int64[3] twice = {1, 2, 1}, int64[3] flat = {-1, 2, 2},
    int64[6] some_pads = {0, 1, 0, 0, 0, 0}, float[3] double = {1.0, 2.0, 1.0},
    bool yes = {1}, int64[1] two = {2}"""

NOOPS = {
    "cast": "a = Cast <to=1> (x)",
    "cast_like": "a = CastLike(x, half)",
    "transpose": "a = Transpose <perm=[0, 1, 2]> (x)",
    "reshape_with_copies": "a = Reshape(x, same)",
    "reshape_to_its_own_shape": "s = Shape(x)\n a = Reshape(x, s)",
    "expand_to_its_own_shape": "s = Shape(x)\n a = Expand(x, s)",
    "expand_by_ones": "a = Expand(x, one)",
    "slice_everything": "a = Slice(x, zero, big, axis1, one)",
    "slice_to_the_size": "m = Shape <start=1, end=2> (x)\n a = Slice(x, zero, m, one)",
    "pad": "a = Pad(x, no_pads)",
    "tile": "a = Tile(x, ones)",
    "concat": "a = Concat <axis=1> (x)",
    "sum": "a = Sum(x)",
    "max": "a = Max(x)",
    "split": "a = Split <axis=2, num_outputs=1> (x)",
    "dropout": "a = Dropout(x, half)",
    "dropout_in_inference_mode": "a = Dropout(x, half, no)",
    "gather_all": "a = Gather <axis=2> (x, all)",
    "reduction_of_nothing": "a = ReduceSum <noop_with_empty_axes=1> (x, none)",
    "resize": 'a = Resize <mode="nearest"> (x, , unit)',
}
"""Name -> lines that make ``a`` of ``x``: float[N, M, 4]."""


@pytest.mark.parametrize("name", NOOPS)
def test_rewrites(name: str) -> None:
    *rest, last = NOOPS[name].replace("axis1", "one").split("\n")
    head = f"g (float[N, M, 4] x) => (float[N, M, 4] y) <{WEIGHTS}>"
    before = f"{head} {{ {chr(10).join(rest)}\n {last}\n y = Relu(a) }}"
    after = f"{head} {{ {chr(10).join(rest)}\n y = Relu(x) }}"
    assert_rewrites(EliminateNoop(), before, after)


OTHERS = {
    "cast_to_another_type": "h = Cast <to=11> (x)\n a = Cast <to=1> (h)",
    "cast_like_another_type": "h = CastLike(x, one)\n a = Cast <to=1> (h)",
    "transpose": "a = Transpose <perm=[0, 2, 1]> (x)",
    "reshape": "a = Reshape(x, flat)",
    "reshape_between_symbols": "r = Shape(z)\n a = Reshape(x, r)",
    "expand": "h = ReduceMax(x, one)\n s = Shape(x)\n a = Expand(h, s)",
    "slice_less": "a = Slice(x, one, big, one)",
    "slice_backwards": "a = Slice(x, minus, small, one, minus)",
    "pad": "a = Pad(x, some_pads)",
    "pad_by_what_is_fed": "a = Pad(x, p)",
    "tile": "a = Tile(x, twice)",
    "concat_of_two": "a = Concat <axis=1> (x, x)",
    "sum_of_two": "a = Sum(x, x)",
    "split_in_two": "a, b = Split <axis=2, num_outputs=2> (x)",
    "gather_in_another_order": "a = Gather <axis=2> (x, other)",
    "gather_of_a_symbolic_axis": "a = Gather <axis=1> (x, zero)",
    "pool_of_one_element": "a = MaxPool <kernel_shape=[1]> (x)",
    "reduction_of_all": "a = ReduceSum (x, none)",
    "resize": 'a = Resize <mode="nearest"> (x, , double)',
    "resize_linear": 'a = Resize <mode="linear"> (x, , unit)',
    "clip_of_infinities": "a = Clip(x)",
    "dropout_in_training_mode": "a = Dropout(x, half, yes)",
    "dropout_that_the_caller_may_train": "a = Dropout(x, half, t)",
    "dropout_with_mask": "a, m = Dropout(x, half)\n k = Not(m)",
}


@pytest.mark.parametrize("name", OTHERS)
def test_leaves_unchanged(name: str) -> None:
    small = ", int64[1] small = {-9223372036854775807}"
    text = f"""g (float[N, M, 4] x, float[N, K, 4] z, int64[6] p, bool t) => (float[A, B, C] y)
               <{WEIGHTS}{small}> {{ {OTHERS[name]}\n y = Relu(a) }}"""
    assert_unchanged(EliminateNoop(), text)


def test_old_forms_with_attributes() -> None:
    weights = "<int64[1] s = {1}>"
    lines = {
        "a = Slice <axes=[1], starts=[0], ends=[9223372036854775807]> (x)": 9,
        "a = Pad <pads=[0, 0, 0, 0]> (x)": 10,
        "a = Dropout <ratio=0.5> (x)": 11,
    }
    for line, opset in lines.items():
        before = f"g (float[N, 4] x) => (float[N, 4] y) {weights} {{ {line}\n y = Relu(a) }}"
        after = f"g (float[N, 4] x) => (float[N, 4] y) {weights} {{ y = Relu(x) }}"
        assert_rewrites(EliminateNoop(), before, after, opset=opset)


def test_attribute_bounds_of_clip_have_finite_defaults() -> None:
    text = "g (float[N] x) => (float[N] y) { a = Clip(x)\n y = Relu(a) }"
    assert_unchanged(EliminateNoop(), text, opset=6)


def test_a_graph_output_keeps_its_name_and_type() -> None:
    assert_rewrites(
        EliminateNoop(),
        """g (float[N, 4] x) => (float[M, 4] y)
           { a = Relu(x)
             y = Cast <to=1> (a) }""",
        "g (float[N, 4] x) => (float[M, 4] y) { y = Relu(x) }",
    )


def test_an_input_that_becomes_an_output_keeps_a_node() -> None:
    assert_rewrites(
        EliminateNoop(),
        "g (float[N, 4] x) => (float[N, 4] y) { y = Cast <to=1> (x) }",
        "g (float[N, 4] x) => (float[N, 4] y) { y = Identity(x) }",
    )


def test_two_unnamed_sizes_are_not_the_same() -> None:
    import onnx_ir as ir

    model = load(
        """g (float[N, N] x, float[N, N] z) => (float[N, N] y)
           { t = Shape(z)
             a = Reshape(x, t)
             y = Relu(a) }"""
    )
    for value in model.graph.inputs:
        value.shape = ir.Shape(["?", "?"])
    assert not EliminateNoop().run(model, Context()).modified


def test_inside_a_branch() -> None:
    assert_rewrites(
        EliminateNoop(),
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { a = Cast <to=1> (x)
                                                            p = Relu(a) },
                         else_branch = e () => (float[N] q) { q = Cast <to=1> (x) }> }""",
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { p = Relu(x) },
                         else_branch = e () => (float[N] q) { q = Identity(x) }> }""",
    )

"""FuseRotaryEmbedding where neighbours are rotated together, or both numbers apart."""

import pytest
from graphopt.passes.fuse.fuse_rotary_embedding import FuseRotaryEmbedding
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_same_answers, assert_unchanged, load

from graphopt.rewrite import Fixpoint

RTOL = 1e-6
PASS = Fixpoint((FuseRotaryEmbedding(), EliminateDeadCode()))

SPLIT = """y4 = Reshape(y, heads)
    x = Transpose <perm = [0, 2, 1, 3]> (y4)"""
POSITIONS_FIRST = "x = Reshape(y, heads)"
NEXT = """even = Slice(x, i0, end, i3, i2)
    odd = Slice(x, i1, end, i3, i2)"""
APART_HALVES = """even = Slice(x, i0, i2, i3, i1)
    odd = Slice(x, i2, end, i3, i1)"""
IN_FIVE = """twos = Reshape(x, pairs)
    even = Gather <axis = -1> (twos, first)
    odd = Gather <axis = -1> (twos, second)"""
TURNED = """minus = Neg(odd)
    m5 = Unsqueeze(minus, last)
    e5 = Unsqueeze(even, last)
    r5 = Concat <axis = -1> (m5, e5)
    r = Reshape(r5, flat)
    a = Mul(x, cos)
    b = Mul(r, sin)
    z = Add(a, b)"""
APART = """ac = Mul(even, cos)
    bs = Mul(odd, sin)
    as = Mul(even, sin)
    bc = Mul(odd, cos)
    one = Sub(ac, bs)
    two = Add(bc, as)"""
IN_TURN = """one5 = Unsqueeze(one, last)
    two5 = Unsqueeze(two, last)
    both = Concat <axis = -1> (one5, two5)
    z = Reshape(both, flat)"""
REPEATED = """a4 = Unsqueeze(angles, last)
    j4 = Expand(a4, twice_each)
    j = Reshape(j4, wide)
    c = Cos(j)
    s = Sin(j)"""
HALF_TABLES = "c = Cos(angles) s = Sin(angles)"
BY_HEAD_FIRST = "cos = Unsqueeze(c, i1) sin = Unsqueeze(s, i1)"
BY_POSITION_FIRST = "cos = Unsqueeze(c, i2) sin = Unsqueeze(s, i2)"
CONSTANTS = """int64[4] heads = {0, 0, 3, 4}, int64[1] i0 = {0}, int64[1] i1 = {1},
    int64[1] i2 = {2}, int64[1] i3 = {3}, int64[1] end = {9223372036854775807},
    int64[1] last = {-1}, int64 first = {0}, int64 second = {1}, int64[3] wide = {0, 0, 4},
    int64[5] pairs = {0, 0, 0, 2, 2}, int64[4] flat = {0, 0, 0, 4},
    int64[4] twice_each = {1, 1, 1, 2}"""
NEIGHBOURS = {
    "gpt_j": (POSITIONS_FIRST, f"{REPEATED} {BY_POSITION_FIRST} {NEXT} {TURNED}"),
    "gpt_j_by_head": (SPLIT, f"{REPEATED} {BY_HEAD_FIRST} {NEXT} {TURNED}"),
    "llama": (
        POSITIONS_FIRST,
        f"{HALF_TABLES} {BY_POSITION_FIRST} {IN_FIVE} {APART} {IN_TURN}",
    ),
    "llama_by_head": (SPLIT, f"{HALF_TABLES} {BY_HEAD_FIRST} {IN_FIVE} {APART} {IN_TURN}"),
    "slices_apart": (SPLIT, f"{HALF_TABLES} {BY_HEAD_FIRST} {NEXT} {APART} {IN_TURN}"),
    "halves_apart": (
        SPLIT,
        f"""{HALF_TABLES} {BY_HEAD_FIRST} {APART_HALVES} {APART}
        z = Concat <axis = 3> (one, two)""",
    ),
}


def neighbours(name: str) -> str:
    split, rest = NEIGHBOURS[name]
    shape = "B, 3, S, 4" if split is SPLIT else "B, S, 3, 4"
    return f"""g (float[B, S, 12] y, float[1, S, 2] angles) => (float[{shape}] z)
        <{CONSTANTS}> {{ {split} {rest} }}"""


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_and_parts(name: str) -> None:
    model, original = load(neighbours(name), 23), load(neighbours(name), 23)
    assert apply(model, PASS).modified
    (rotation,) = [node for node in model.graph if node.op_type == "RotaryEmbedding"]
    assert ("interleaved" in rotation.attributes) == (name != "halves_apart")
    assert rotation.attributes["num_heads"].value == 3
    assert not apply(model, PASS).modified
    assert_same_answers(model, original, RTOL)


OTHERS = {
    "difference_twice": ("llama", "two = Add", "two = Sub"),
    "the_other_one_negated": ("llama", "Sub(ac, bs)", "Sub(bs, ac)"),
    "the_same_factor_twice": ("llama", "as = Mul(even, sin)", "as = Mul(even, cos)"),
    "of_another_tensor": (
        "llama",
        "odd = Gather <axis = -1> (twos,",
        "e = Exp(x) more = Reshape(e, pairs) odd = Gather <axis = -1> (more,",
    ),
    "not_in_turn": ("gpt_j", "Concat <axis = -1> (m5, e5)", "Concat <axis = -1> (e5, m5)"),
    "halves_put_back_in_turn": ("slices_apart", NEXT, APART_HALVES),
    "neighbours_put_back_as_halves": (
        "halves_apart",
        APART_HALVES,
        NEXT,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_rotation_is_left_alone(name: str) -> None:
    form, old, new = OTHERS[name]
    text = neighbours(form)
    assert old in text
    assert_unchanged(FuseRotaryEmbedding(), text.replace(old, new), opset=23)


def test_twos_that_differ_are_left_alone() -> None:
    halves = "j = Concat <axis = -1> (angles, angles) c = Cos(j) s = Sin(j)"
    text = neighbours("gpt_j").replace(REPEATED, halves)
    assert_unchanged(FuseRotaryEmbedding(), text, opset=23, reason="not known to be equal")


def test_angles_of_one_position_for_all_are_left_alone() -> None:
    text = neighbours("llama").replace("sin = Unsqueeze(s, i2)", "sin = Unsqueeze(s1, i2)")
    text = text.replace("s = Sin(angles)", "s = Sin(angles) s1 = Slice(s, i0, i1, i1, i1)")
    reason = "not of the batch and the positions"
    assert_unchanged(FuseRotaryEmbedding(), text, opset=23, reason=reason)


@pytest.mark.parametrize("name", ["slices_apart", "halves_apart", "llama"])
def test_what_angles_are_broadcast_over_is_left_alone(name: str) -> None:
    # One of the batch is rotated by the angles of each.
    text = neighbours(name).replace(
        "float[B, S, 12] y, float[1,", "float[1, S, 12] y, float[B,"
    )
    assert_unchanged(FuseRotaryEmbedding(), text, opset=23)

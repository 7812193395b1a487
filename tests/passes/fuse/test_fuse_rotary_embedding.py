"""Before -> after tests of FuseRotaryEmbedding."""

import pytest
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.passes.fuse.fuse_rotary_embedding import FuseRotaryEmbedding
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_same_answers, assert_unchanged, load

from graphopt.rewrite import Fixpoint

RTOL = 1e-6
PASS = Fixpoint((FuseRotaryEmbedding(), EliminateDeadCode()))

CONSTANTS = """int64[4] heads = {0, 0, 3, 4}, int64[1] i0 = {0}, int64[1] i1 = {1},
    int64[1] i2 = {2}, int64[1] i3 = {3}, int64[1] end = {9223372036854775807},
    int64[2] halves = {2, 2}, int64[3] middle = {1, 2, 1}, int64[5] pairs = {0, 0, 3, 2, 2},
    float[4] other = {1, 2, 3, 4}, float[4] twice = {1, 2, 1, 2}"""
ANGLES = """j = Concat <axis = -1> (angles, angles)
    c = Cos(j)
    s = Sin(j)
    cos = Unsqueeze(c, i1)
    sin = Unsqueeze(s, i1)"""
SPLIT = """y4 = Reshape(y, heads)
    x = Transpose <perm = [0, 2, 1, 3]> (y4)"""
HALVES = """low = Slice(x, i0, i2, i3, i1)
    high = Slice(x, i2, end, i3, i1)"""
TURN = """minus = Neg(high)
    r = Concat <axis = -1> (minus, low)
    a = Mul(x, cos)
    b = Mul(r, sin)
    z = Add(a, b)"""
INPUTS = "float[B, S, 12] y, float[1, S, 2] angles"


def graph(lines: str, inputs: str = INPUTS, constants: str = CONSTANTS) -> str:
    return f"g ({inputs}) => (float[B, 3, S, 4] z) <{constants}> {{ {lines} }}"


WHOLE = f"{ANGLES} {SPLIT} {HALVES} {TURN}"
AFTER = """j = Concat <axis = -1> (angles, angles)
    c = Cos(j)
    s = Sin(j)
    cos = Unsqueeze(c, i1)
    sin = Unsqueeze(s, i1)
    n = Shape <end = 1, start = 0> (SOURCE)
    whole = Concat <axis = 0> (n, one, one)
    c3 = Squeeze(cos, one)
    c2 = Slice(c3, zero, half, last, one)
    cn = Expand(c2, whole)
    s3 = Squeeze(sin, one)
    s2 = Slice(s3, zero, half, last, one)
    sn = Expand(s2, whole)"""
MADE = "int64[1] one = {1}, int64[1] zero = {0}, int64[1] last = {-1}, int64[1] half = {2}"


def operators(text: str) -> list[str]:
    return [node.op_type for node in load(text, 23).graph]


def test_before_heads_are_split() -> None:
    model, original = load(graph(WHOLE), 23), load(graph(WHOLE), 23)
    assert apply(model, PASS).modified
    after = graph(
        f"""{AFTER.replace("SOURCE", "y")}
        t = RotaryEmbedding <num_heads = 3> (y, cn, sn)
        t4 = Reshape(t, apart)
        z = Transpose <perm = [0, 2, 1, 3]> (t4)""",
        constants=f"{MADE}, int64[1] i1 = {{1}}, int64[4] apart = {{0, 0, 3, 4}}",
    )
    assert [node.op_type for node in model.graph] == operators(after)
    rotation = next(node for node in model.graph if node.op_type == "RotaryEmbedding")
    assert rotation.inputs[0] is model.graph.inputs[0]
    assert rotation.attributes["num_heads"].value == 3
    assert not apply(model, PASS).modified
    assert_same_answers(model, original, RTOL)


HEADED = "float[B, 3, S, 4] x, float[1, S, 2] angles"


def test_without_a_split_of_heads() -> None:
    before = graph(f"{ANGLES} {HALVES} {TURN}", HEADED)
    model, original = load(before, 23), load(before, 23)
    assert apply(model, PASS).modified
    after = graph(
        f"{AFTER.replace('SOURCE', 'x')} z = RotaryEmbedding(x, cn, sn)",
        HEADED,
        f"{MADE}, int64[1] i1 = {{1}}",
    )
    assert [node.op_type for node in model.graph] == operators(after)
    assert_same_answers(model, original, RTOL)


SPELLINGS = {
    "split": WHOLE.replace(HALVES, "low, high = Split <axis = -1> (x, halves)"),
    "commuted": WHOLE.replace("Mul(x, cos)", "Mul(cos, x)").replace("Add(a, b)", "Add(b, a)"),
    "angles_of_the_batch": WHOLE,
    "neighbours_brought_apart_before": WHOLE.replace(
        "y4 = Reshape(y, heads)",
        """y5 = Reshape(y, pairs)
        y6 = Transpose <perm = [0, 1, 2, 4, 3]> (y5)
        y4 = Reshape(y6, heads)""",
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling(name: str) -> None:
    inputs = INPUTS.replace("1, S, 2", "B, S, 2") if "batch" in name else INPUTS
    text = graph(SPELLINGS[name], inputs)
    model, original = load(text, 23), load(text, 23)
    assert apply(model, PASS).modified
    assert "RotaryEmbedding" in [node.op_type for node in model.graph]
    assert_same_answers(model, original, RTOL)


def test_attention_takes_the_split_in() -> None:
    lines = f"""{WHOLE.replace("z = Add", "q = Add")}
        kt = Transpose <perm = [0, 2, 3, 1]> (y4)
        d = MatMul(q, kt)
        p = Softmax <axis = -1> (d)
        o = MatMul(p, x)
        t = Transpose <perm = [0, 2, 1, 3]> (o)
        z = Reshape(t, merged)"""
    text = graph(lines, constants=f"{CONSTANTS}, int64[3] merged = {{0, 0, 12}}")
    text = text.replace("float[B, 3, S, 4] z", "float[B, S, 12] z")
    model, original = load(text, 23), load(text, 23)
    apply(model, Fixpoint((FuseRotaryEmbedding(), FuseAttention(), EliminateDeadCode())))
    found = [node.op_type for node in model.graph][-2:]
    assert found == ["RotaryEmbedding", "Attention"]
    assert not {"Transpose", "Reshape"} & {node.op_type for node in model.graph}
    assert_same_answers(model, original, 1e-5)


REFUSED = {
    "earlier_opset": (WHOLE, INPUTS, 22, "needs opset 23"),
    "halves_that_differ": (
        WHOLE.replace("(angles, angles)", "(angles, more)"),
        f"{INPUTS}, float[1, S, 2] more",
        23,
        "not known to be equal",
    ),
    "another_factor": (
        WHOLE.replace("Unsqueeze(c, i1)", "Mul(c4, other)").replace(
            "s = Sin", "c4 = Unsqueeze(c, i1)\n s = Sin"
        ),
        INPUTS,
        23,
        "not known to be equal",
    ),
    "angles_by_head": (
        WHOLE.replace("Unsqueeze(c, i1)", "Identity(c)").replace(
            "Unsqueeze(s, i1)", "Identity(s)"
        ),
        "float[B, S, 12] y, float[1, 3, S, 2] angles",
        23,
        "differ by head",
    ),
    "halves_in_order": (
        WHOLE.replace("(minus, low)", "(low, minus)"),
        INPUTS,
        23,
        None,
    ),
    "first_half_negated": (
        WHOLE.replace("Neg(high)", "Neg(low)").replace("(minus, low)", "(minus, high)"),
        INPUTS,
        23,
        None,
    ),
    "every_second": (
        WHOLE.replace("Slice(x, i0, i2, i3, i1)", "Slice(x, i0, end, i3, i2)"),
        INPUTS,
        23,
        None,
    ),
    "angles_of_another_length": (
        WHOLE.replace("Unsqueeze(c, i1)", "Unsqueeze(first, i1)").replace(
            "s = Sin", "first = Slice(c, i0, i1, i1, i1)\n s = Sin"
        ),
        INPUTS,
        23,
        "not of the batch and the positions",
    ),
    "middle_of_three": (
        WHOLE.replace(
            "high = Slice(x, i2, end, i3, i1)", "e, high, f = Split <axis = -1> (x, middle)"
        ),
        INPUTS,
        23,
        None,
    ),
    "of_something_else": (
        WHOLE.replace("Mul(x, cos)", "Mul(e, cos)").replace("minus =", "e = Exp(x)\n minus ="),
        INPUTS,
        23,
        None,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    lines, inputs, opset, reason = REFUSED[name]
    assert_unchanged(FuseRotaryEmbedding(), graph(lines, inputs), opset=opset, reason=reason)


def test_other_types_are_left_alone() -> None:
    text = graph(WHOLE).replace("float", "double")
    assert_unchanged(FuseRotaryEmbedding(), text, opset=23, reason="float32")


def test_keys_joined_with_earlier_ones_are_rotated_together() -> None:
    joined = "x = Concat <axis = 2> (past, new)"
    lines = WHOLE.replace("x = Transpose", "new = Transpose")
    lines = lines.replace(HALVES, f"{joined} {HALVES}")
    inputs = "float[B, 3, 12] y, float[1, 5, 2] angles, float[B, 3, 2, 4] past"
    text = graph(lines, inputs).replace("B, 3, S, 4", "B, 3, 5, 4")
    model, original = load(text, 23), load(text, 23)
    assert apply(model, PASS).modified
    (rotation,) = [node for node in model.graph if node.op_type == "RotaryEmbedding"]
    source = rotation.inputs[0]
    assert source is not None
    assert source.name == "x"
    assert_same_answers(model, original, RTOL)

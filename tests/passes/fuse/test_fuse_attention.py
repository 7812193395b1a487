"""Before -> after tests of FuseAttention."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from attention_graphs import GROUPS, MASKS, SCALES, SPLITS, Spelling, masked_by
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_rewrites, assert_unchanged, load, random_feeds, run, text_of

from graphopt.passbase import Context, Target
from graphopt.rewrite import Fixpoint

RTOL = 1e-5
STANDARD = Fixpoint((FuseAttention(), EliminateDeadCode()))
CONTRIB = Fixpoint((FuseAttention(emit=Target.ONNXRUNTIME), EliminateDeadCode()))

CONSTANTS = """int64[4] heads = {0, 0, 4, 2}, int64[3] merged = {0, 0, 8}, float f = {0.7},
    float zero = {0}, float lowest = {-3.4028234663852886e+38}, float infinite = {-inf},
    float some = {-10000}, float minus = {-0.7}, int64[1] last = {-1}"""
HEADS = """q3 = Reshape(x, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q3)
    k3 = Reshape(y, heads)
    kt = Transpose <perm = [0, 2, 3, 1]> (k3)
    v3 = Reshape(y, heads)
    v = Transpose <perm = [0, 2, 1, 3]> (v3)
    d = MatMul(q, kt)
    s = Mul(d, f)"""
REST = """o = MatMul(p, v)
    t = Transpose <perm = [0, 2, 1, 3]> (o)
    z = Reshape(t, merged)"""
SOFTMAX_A = "p = Softmax <axis = -1> (a)"
PLAIN = "p = Softmax <axis = -1> (s)"
INPUTS = "float[B, S, 8] x, float[B, T, 8] y"


def graph(lines: str, mask: str = "", outputs: str = "") -> str:
    inputs = f"{INPUTS}, {mask}" if mask else INPUTS
    body = f"{HEADS} {lines} {REST}"
    return f"g ({inputs}) => (float[B, S, 8] z{outputs}) <{CONSTANTS}> {{ {body} }}"


def fused(lines: str, constants: str, mask: str = "") -> str:
    inputs = f"{INPUTS}, {mask}" if mask else INPUTS
    weights = f"<{constants}>" if constants else ""
    return f"g ({inputs}) => (float[B, S, 8] z) {weights} {{ {lines} }}"


ATTENTION = "Attention <q_num_heads = 4, kv_num_heads = 4, scale = 0.7>"
MULTI_HEAD = "com.microsoft.MultiHeadAttention <num_heads = 4, scale = 0.7>"


def load_both(text: str, opset: int = 23) -> tuple[ir.Model, ir.Model]:
    return load(text, opset), load(text, opset)


def assert_close(model: ir.Model, original: ir.Model) -> None:
    """Compare on feeds with a query that sees no key; NaN equals NaN."""
    feeds = random_feeds(original)
    mask = feeds.get("m")
    if mask is not None and mask.dtype == bool:
        for blind in (False, True):
            feeds["m"] = mask.copy()
            feeds["m"][..., :1, :] = blind
            _assert_close(model, original, feeds)
    _assert_close(model, original, feeds)


def _assert_close(model: ir.Model, original: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=RTOL * np.nanmax(np.abs(other)))


def test_standard() -> None:
    after = fused(f"z = {ATTENTION} (x, y, y)", "")
    assert_rewrites(STANDARD, graph(PLAIN), after, opset=23, rtol=RTOL)


def test_contributed() -> None:
    model, original = load_both(graph(PLAIN), 21)
    assert apply(model, CONTRIB).modified
    after = load(fused(f"z = {MULTI_HEAD} (x, y, y)", ""), 21, ("com.microsoft",))
    assert text_of(model) == text_of(after)
    assert not apply(model, CONTRIB).modified
    assert_close(model, original)


def test_the_run_may_ask_for_contributed_operators() -> None:
    model = load(graph(PLAIN), 21)
    apply(model, STANDARD, Context(target=Target.ONNXRUNTIME))
    assert [node.op_type for node in model.graph] == ["MultiHeadAttention"]


def test_mask_is_kept_from_meaning_no_key_where_it_does_not() -> None:
    mask = "bool[B, 1, S, T] m"
    before = graph(f"w = Where(m, zero, lowest) a = Add(s, w) {SOFTMAX_A}", mask)
    after = fused(
        f"w = Where(m, zero, lowest) w2 = Max(w, floor) z = {ATTENTION} (x, y, y, w2)",
        "float zero = {0}, float lowest = {-3.4028234663852886e+38}, float floor = {-3e38}",
        mask,
    ).replace("w2", "node_Max_out0")
    model, original = load_both(before)
    assert apply(model, STANDARD).modified
    assert text_of(model) == text_of(load(after, 23))
    assert_close(model, original)


def test_mask_that_changes_nothing_is_dropped() -> None:
    lines = "w = Expand(zero, shape) a = Add(s, w) p = Softmax <axis = -1> (a)"
    before = graph(lines).replace("float f", "int64[4] shape = {1, 1, 1, 1}, float f")
    after = fused(f"z = {ATTENTION} (x, y, y)", "")
    assert_rewrites(STANDARD, before, after, opset=23, rtol=RTOL)


def test_mask_of_several_attentions() -> None:
    lines = f"w = Where(m, zero, some) e = Exp(w) a = Add(s, w) {SOFTMAX_A}"
    before = graph(lines, "bool[B, 4, S, T] m", ", float[B, 4, S, T] e")
    model, original = load_both(before)
    assert apply(model, STANDARD).modified
    assert [node.op_type for node in model.graph] == ["Where", "Exp", "Attention"]
    assert_close(model, original)


def test_result_may_be_of_another_shape() -> None:
    text = graph(PLAIN).replace("float[B, S, 8] z", "float[R, 8] z")
    before = text.replace("merged = {0, 0, 8}", "merged = {-1, 8, 1}").replace(
        "int64[3] merged = {-1, 8, 1}", "int64[2] merged = {-1, 8}"
    )
    model, original = load_both(before)
    assert apply(model, STANDARD).modified
    assert [node.op_type for node in model.graph] == ["Attention", "Reshape"]
    assert_close(model, original)


def spellings() -> list[Spelling]:
    every = itertools.product(MASKS, SPLITS, GROUPS)
    found = [
        Spelling(scale, mask, split, group)
        for (mask, split, group), scale in zip(every, itertools.cycle(SCALES))
        if group == 1 or split == "plain"
    ]
    return [spelling for spelling in found if masked_by(spelling)]


def check_spelling(spelling: Spelling, emit: Target) -> None:
    model, original = load_both(spelling.text())
    apply(model, Fixpoint((FuseAttention(emit), EliminateDeadCode())))
    # The mask is fed, and so may hold anything: only what treats it like Softmax takes it.
    fed = spelling.mask.startswith("additive")
    taken = emit is Target.ONNXRUNTIME and spelling.group == 1
    operators = {node.op_type for node in model.graph}
    assert ("Softmax" in operators) == (fed and not taken)
    assert_close(model, original)


@pytest.mark.parametrize("emit", Target)
@pytest.mark.parametrize("spelling", spellings(), ids=str)
def test_spelling(spelling: Spelling, emit: Target) -> None:
    check_spelling(spelling, emit)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_every_spelling(scale: str) -> None:
    for mask, split, group in itertools.product(MASKS, SPLITS, GROUPS):
        spelling = Spelling(scale, mask, split, group)
        if masked_by(spelling) and (group == 1 or split == "plain"):
            for emit in Target:
                check_spelling(spelling, emit)


REFUSED = {
    "scores_used_twice": (f"e = Exp(s) {PLAIN}", "", "the scores have another use", 23),
    "probabilities_used_twice": (
        f"{PLAIN} e = Exp(p)",
        "",
        "the probabilities have another use",
        23,
    ),
    "another_axis": ("p = Softmax <axis = 2> (s)", "", None, 23),
    "scaled_mask": (
        "b = Add(d, w) a = Mul(b, f) " + SOFTMAX_A,
        "float[1, 1, S, T] w",
        "the mask is scaled",
        23,
    ),
    "mask_that_adds_a_batch": (
        f"a = Add(s, w) {SOFTMAX_A}",
        "float[C, 1, S, T] w",
        None,
        23,
    ),
    "replaced_by_some_number": (
        f"a = Where(m, s, some) {SOFTMAX_A}",
        "bool[B, 1, S, T] m",
        "not beyond all others",
        23,
    ),
    "fed_mask": (
        f"a = Add(s, w) {SOFTMAX_A}",
        "float[B, 1, S, T] w",
        "may be -inf",
        23,
    ),
    "rows_of_another_mask_are_0": (
        """a = Add(s, w) r = Softmax <axis = -1> (a) l = ReduceMax(m, last)
        n = Equal(l, infinite) p = Where(n, zero, r)""",
        "float[1, 1, S, T] w, float[1, 1, S, T] m",
        "another mask",
        23,
    ),
    "no_key_is_nan": (
        f"a = Where(m, s, infinite) {SOFTMAX_A}",
        "bool[B, 1, S, T] m",
        "would get 0",
        23,
    ),
    "earlier_opset": (PLAIN, "", "needs opset 23", 22),
}


@pytest.mark.parametrize("name", REFUSED)
def test_standard_leaves_unchanged(name: str) -> None:
    lines, mask, reason, opset = REFUSED[name]
    text = graph(lines, mask, ", float[B, 4, S, T] e" if " e = " in f" {lines}" else "")
    assert_unchanged(FuseAttention(), text, opset=opset, reason=reason)


@pytest.mark.parametrize("inner", ["b = Add(s, w)", "b = Where(n, infinite, s)"])
def test_finite_number_in_place_of_masked_scores_is_left_unchanged(inner: str) -> None:
    # A query that may look at no key by it looks at all alike, also at the masked ones.
    masks = "float[B, 1, S, T] w, bool[B, 1, S, T] n, bool[B, 1, S, T] m"
    text = graph(f"{inner} a = Where(m, lowest, b) {SOFTMAX_A}", masks)
    context = Context(target=Target.ONNXRUNTIME)
    reason = "masked, and then replaced"
    assert_unchanged(FuseAttention(), text, opset=23, context=context, reason=reason)


@pytest.mark.parametrize("emit", Target)
@pytest.mark.parametrize("guarded", [False, True])
def test_a_number_that_only_a_wider_type_holds_may_be_infinite(
    emit: Target, guarded: bool
) -> None:
    text = Spelling("mul", "guarded").text()
    text = text.replace("bool never = {0}", "double low = {-1e300}, double nil = {0}")
    text = text.replace(
        "f = Where(m, zero, infinite)", "wide = Where(m, nil, low) f = Cast <to = 1> (wide)"
    )
    if not guarded:
        text = text.replace("r = Softmax", "p = Softmax")
        text = text.replace("t = IsNaN(r)", "").replace("p = Where(t, zero, r)", "")
    model, original = load_both(text)
    apply(model, Fixpoint((FuseAttention(emit), EliminateDeadCode())))
    assert_close(model, original)


def test_contributed_does_not_make_nan_of_0() -> None:
    lines = """a = Where(m, s, infinite) r = Softmax <axis = -1> (a)
        n = IsNaN(r) p = Where(n, zero, r)"""
    text = graph(lines, "bool[B, 1, S, T] m")
    # Attention answers 0 there, but needs a later opset.
    context = Context(target=Target.ONNXRUNTIME)
    assert_unchanged(FuseAttention(), text, opset=22, context=context, reason="needs opset")


@pytest.mark.parametrize(
    ("spelling", "old", "new", "reason"),
    [
        (Spelling("mul"), ("half = {0.7}",), ("half = {-0.7}",), "scaled by -0.7"),
        # The keys are never in the order in which the result is.
        (
            Spelling(split="one_transpose"),
            (
                "float[B, S, 8] z",
                "o3 = Transpose <perm = [0, 2, 1, 3]> (o4)",
                "z = Reshape(o3, merged)",
            ),
            ("float[B, 4, S, 2] o4", "", ""),
            "same heads",
        ),
        (Spelling(), ("float",), ("double",), "no such kernel"),
        (
            Spelling(mask="additive_first", split="batched"),
            ("float[4, 4, 4] m",),
            ("float[16, 4, 4] m",),
            "batch and heads in one dimension",
        ),
    ],
    ids=["negative_scale", "heads_apart", "float64", "mask_of_batch_and_heads"],
)
def test_leaves_spelling_unchanged(
    spelling: Spelling, old: tuple[str, ...], new: tuple[str, ...], reason: str
) -> None:
    text = spelling.text().replace("float[B, 4, 8]", "float[4, 4, 8]")
    for before, after in zip(old, new, strict=True):
        assert before in text
        text = text.replace(before, after)
    context = Context(target=Target.ONNXRUNTIME)
    assert_unchanged(FuseAttention(), text, opset=23, context=context, reason=reason)


def test_repeated_keys_need_attention() -> None:
    context = Context(target=Target.ONNXRUNTIME)
    text = Spelling(group=2).text()
    assert_unchanged(FuseAttention(), text, opset=22, context=context, reason="needs opset 23")


def test_keys_repeated_in_another_order_stay_repeated() -> None:
    # Heads 0, 1, 0, 1, where the operators take 0, 0, 1, 1.
    text = Spelling(group=2).text().replace("third = {2}", "third = {1}")
    model, original = load_both(text.replace("{1, 1, 2, 1, 1}", "{1, 2, 1, 1, 1}"))
    apply(model, STANDARD)
    assert [node.op_type for node in model.graph].count("Expand") == 2
    assert_close(model, original)


def test_keys_repeated_head_by_head_are_shared() -> None:
    model, original = load_both(Spelling(group=2).text())
    apply(model, STANDARD)
    assert [node.op_type for node in model.graph] == ["Attention"]
    assert_close(model, original)


ORDER = """int64[4] heads = {0, 0, 4, 4}, int64[3] merged = {2, 6, 16},
    int64[5] widths = {0, 0, 4, 2, 2}, int64[5] rows = {0, 2, 3, 4, 4},
    int64[5] halves = {0, 0, 2, 2, 4}, int64[4] full = {2, 6, 4, 4},
    int64[5] by_half = {2, 2, 2, 6, 4}, int64[5] by_row = {2, 4, 2, 3, 4},
    int64[5] by_width = {2, 4, 6, 2, 2}"""
TURNED = {
    "plain": "{0}c = Reshape({1}, heads)",
    "width": """{0}a = Reshape({1}, widths) {0}b = Transpose <perm = [0, 1, 2, 4, 3]> ({0}a)
        {0}c = Reshape({0}b, heads)""",
    "rows": """{0}a = Reshape({1}, rows) {0}b = Transpose <perm = [0, 2, 1, 3, 4]> ({0}a)
        {0}c = Reshape({0}b, full)""",
    "heads": """{0}a = Reshape({1}, halves) {0}b = Transpose <perm = [0, 1, 3, 2, 4]> ({0}a)
        {0}c = Reshape({0}b, full)""",
}
MERGED = {
    "plain": "t = Transpose <perm = [0, 2, 1, 3]> (o)",
    "width": "r = Reshape(o, by_width) t = Transpose <perm = [0, 2, 1, 4, 3]> (r)",
    "rows": "r = Reshape(o, by_row) t = Transpose <perm = [0, 3, 2, 1, 4]> (r)",
    "heads": "r = Reshape(o, by_half) t = Transpose <perm = [0, 3, 2, 1, 4]> (r)",
}


@pytest.mark.parametrize("emit", Target)
@pytest.mark.parametrize("place", ["q", "k", "v", "z"])
@pytest.mark.parametrize("part", ["width", "rows", "heads"])
def test_parts_of_an_axis_in_another_order_keep_it(
    part: str, place: str, emit: Target
) -> None:
    def turn(name: str) -> str:
        return part if name == place else "plain"

    lines = [
        f"""{TURNED[turn(name)].format(name, source)}
            {name} = Transpose <perm = [0, 2, 1, 3]> ({name}c)"""
        for name, source in ("qx", "ky", "vw")
    ]
    text = f"""g (float[2, 6, 16] x, float[2, 6, 16] y, float[2, 6, 16] w)
        => (float[2, 6, 16] z) <{ORDER}> {{ {" ".join(lines)}
        kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt)
        {PLAIN} o = MatMul(p, v) {MERGED[turn("z")]} z = Reshape(t, merged) }}"""
    model, original = load_both(text)
    assert apply(model, FuseAttention(emit=emit)).modified
    assert_close(model, original)


def test_softmax_along_something_else_is_left_unchanged() -> None:
    text = """g (float[2, 3, 8, 4] q, float[2, 3, 6, 4] k, float[2, 3, 6, 4] v)
        => (float[2, 3, 8, 4] z) <int64[4] ones = {2, 3, 48, 1}, int64[4] rows = {2, 3, 8, 6}>
        { kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) a = Reshape(s, ones)
          b = Softmax <axis = -1> (a)
          p = Reshape(b, rows) z = MatMul(p, v) }"""
    assert_unchanged(FuseAttention(), text, opset=23, reason="not along the keys alone")

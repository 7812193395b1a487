"""Before -> after tests of FuseGroupNormalization."""

import pytest
from graphopt.passes.fuse.fuse_group_normalization import FuseGroupNormalization
from graphs import assert_rewrites, assert_unchanged

HEAD = "g (float[N, 4, 2, W] x) => (float[N, 4, 2, W] z)"
GROUPS = "int64[3] p = {0, 2, -1}, float[2] o = {1.0, 1.0}, float[2] n = {0.0, 0.0}"
VECTORS = (
    """float[4, 1, 1] s = {1.5, -0.5, 2.0, 1.0}, float[4, 1, 1] b = {0.0, 1.0, -2.0, 0.5}"""
)
CORE = "r = Reshape(x, p) i = InstanceNormalization(r, o, n) k = Shape(x) y = Reshape(i, k)"
BEFORE = f"{CORE} m = Mul(y, s) z = Add(m, b)"


def case(body: str, head: str = HEAD, constants: str = f"{GROUPS}, {VECTORS}") -> str:
    return f"{head} <{constants}> {{ {body} }}"


def after(
    scale: str, bias: str, rest: str = "", epsilon: str = "0.00001", out: str = "z"
) -> str:
    made = f"float[4] x_scale = {{{scale}}}, float[4] x_bias = {{{bias}}}"
    return case(
        f"k = Shape(x) {out} = GroupNormalization <num_groups=2, epsilon={epsilon}>"
        f" (x, x_scale, x_bias) {rest}",
        constants=f"{GROUPS}, {VECTORS}, {made}",
    )


S, B = "1.5, -0.5, 2.0, 1.0", "0.0, 1.0, -2.0, 0.5"
ONES, ZEROS = "1.0, 1.0, 1.0, 1.0", "0.0, 0.0, 0.0, 0.0"
REWRITES = {
    "scale_and_bias": (case(BEFORE), after(S, B)),
    "commuted": (case(f"{CORE} m = Mul(s, y) z = Add(b, m)"), after(S, B)),
    "scale": (case(f"{CORE} z = Mul(y, s)"), after(S, ZEROS)),
    "bias": (case(f"{CORE} z = Add(y, b)"), after(ONES, B)),
    "neither": (case(CORE.replace("y =", "z =")), after(ONES, ZEROS)),
    "epsilon": (
        case(BEFORE.replace("Normalization(", "Normalization <epsilon=0.125> (")),
        after(S, B, epsilon="0.125"),
    ),
    "no_vector_of_channels": (
        case(f"{CORE} m = Mul(y, x) z = Add(m, b)"),
        after(ONES, ZEROS, "m = Mul(y, x) z = Add(m, b)", out="y"),
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    before, expected = REWRITES[name]
    assert_rewrites(FuseGroupNormalization(), before, expected, rtol=1e-6)


NO_REWRITES = {
    "float64": (
        case(BEFORE, constants=f"{GROUPS}, {VECTORS}").replace("float", "double"),
        "not in DOUBLE",
        21,
    ),
    "no_channels": (
        case(CORE.replace("y =", "z ="),
             "g (float[N, 0, 3] x) => (float[N, 0, 3] z)",
             "int64[3] p = {0, 0, 3}, float[0] o = {}, float[0] n = {}"),
        "do not divide the channels",
        21,
    ),
    "an_older_opset": (case(BEFORE), "needs opset 21", 20),
    "unknown_channels": (
        case(CORE.replace("y =", "z ="), HEAD.replace("4", "C")), "not known", 21,
    ),
    "groups_in_the_batch": (
        case(CORE.replace("y =", "z ="), constants=f"{GROUPS}".replace("{0,", "{-1,")
             .replace("-1}", "4}")),
        "the batch is split",
        21,
    ),
    "another_shape_behind": (
        case("r = Reshape(x, p) i = InstanceNormalization(r, o, n) z = Reshape(i, p)",
             HEAD.replace("4, 2, W] z", "2, W2] z")),
        "not restored",
        21,
    ),
    "two_dimensions": (
        case(CORE.replace("y =", "z ="),
             "g (float[N, 4] x) => (float[N, 4] z)"),
        "fewer than three",
        21,
    ),
    "a_scale_a_group": (
        case(BEFORE, constants=f"{GROUPS}, {VECTORS}".replace("{1.0, 1.0}", "{1.0, 2.0}")),
        "scale or bias of their own",
        21,
    ),
    "a_bias_a_group": (
        case(BEFORE, constants=f"{GROUPS}, {VECTORS}".replace("{0.0, 0.0}", "{1.0, 2.0}")),
        "scale or bias of their own",
        21,
    ),
    "another_use": (
        case(BEFORE, HEAD.replace("z)", "z, float[N, 2, P] r)")), "'r' has another use", 21,
    ),
    "no_groups": (
        case("i = InstanceNormalization(x, o4, b4) k = Shape(x) z = Reshape(i, k)",
             constants=f"float[4] o4 = {{{ONES}}}, float[4] b4 = {{{ZEROS}}}"),
        None,
        21,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason, opset = NO_REWRITES[name]
    assert_unchanged(FuseGroupNormalization(), text, reason=reason, opset=opset)

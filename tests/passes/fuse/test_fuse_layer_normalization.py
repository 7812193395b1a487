"""Before -> after tests of FuseLayerNormalization."""

import pytest
from graphopt.passes.fuse.fuse_layer_normalization import FuseLayerNormalization
from graphs import assert_rewrites, assert_unchanged

HEAD = "g (float[N, M, 4] x) => (float[N, M, 4] z)"
VECTORS = "float[4] s = {1.5, 0.5, -1.0, 2.0}, float[4] b = {0.25, -1.0, 3.0, 0.0}"
CONSTANTS = f"""int64[1] a = {{-1}}, float two = {{2.0}}, float e = {{0.00001}},
    float o = {{1.0}}, float half = {{0.5}}, float minus = {{-0.5}}, {VECTORS}"""
DEVIATION = "m = ReduceMean(x, a) d = Sub(x, m)"
SQUARE = f"{DEVIATION} q = Pow(d, two) v = ReduceMean(q, a) w = Add(v, e)"
ROOT = f"{SQUARE} r = Sqrt(w)"
PLAIN = f"{ROOT} n = Div(d, r) t = Mul(n, s) z = Add(t, b)"
FUSED = "z = LayerNormalization <axis=-1, epsilon=0.00001> (x, s, b)"

FORMS = {
    "pytorch_old_exporter": PLAIN,
    "square_by_multiplication": PLAIN.replace("Pow(d, two)", "Mul(d, d)"),
    "commuted": PLAIN.replace("Add(v, e)", "Add(e, v)")
    .replace("Mul(n, s)", "Mul(s, n)")
    .replace("Add(t, b)", "Add(b, t)"),
    "root_by_power": PLAIN.replace("Sqrt(w)", "Pow(w, half)"),
    "inverse_by_power": PLAIN.replace("Sqrt(w)", "Pow(w, minus)").replace("Div", "Mul"),
    "reciprocal": f"{ROOT} i = Reciprocal(r) n = Mul(i, d) t = Mul(n, s) z = Add(t, b)",
    "one_by_the_root": f"{ROOT} i = Div(o, r) n = Mul(d, i) t = Mul(n, s) z = Add(t, b)",
    "scaled_inverse": f"{ROOT} i = Reciprocal(r) n = Mul(i, s) t = Mul(d, n) z = Add(t, b)",
    "tensorflow": f"""{ROOT} i = Reciprocal(r) n = Mul(i, s) t = Mul(x, n) k = Mul(m, n)
        l = Sub(b, k) z = Add(t, l)""",
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    assert_rewrites(
        FuseLayerNormalization(),
        f"{HEAD} <{CONSTANTS}> {{ {FORMS[name]} }}",
        f"{HEAD} <{CONSTANTS}> {{ {FUSED} }}",
        rtol=1e-6,
    )


def test_axes_were_an_attribute() -> None:
    by_attribute = PLAIN.replace("ReduceMean(x, a)", "ReduceMean <axes=[2]> (x)")
    by_attribute = by_attribute.replace("ReduceMean(q, a)", "ReduceMean <axes=[-1]> (q)")
    assert_rewrites(
        FuseLayerNormalization(),
        f"{HEAD} <{CONSTANTS}> {{ {by_attribute} }}",
        f"{HEAD} <{CONSTANTS}> {{ {FUSED} }}",
        opset=17,
        rtol=1e-6,
    )


def test_without_scale_and_bias() -> None:
    assert_rewrites(
        FuseLayerNormalization(),
        f"{HEAD} <{CONSTANTS}> {{ {ROOT} z = Div(d, r) }}",
        f"{HEAD} <{CONSTANTS}, float[4] x_scale = {{1.0, 1.0, 1.0, 1.0}}> "
        "{ z = LayerNormalization <axis=-1, epsilon=0.00001> (x, x_scale) }",
        rtol=1e-6,
    )


def test_what_is_no_vector_of_the_axes_stays_behind() -> None:
    assert_rewrites(
        FuseLayerNormalization(),
        f"{HEAD} <{CONSTANTS}> {{ {ROOT} n = Div(d, r) t = Mul(n, two) z = Add(t, x) }}",
        f"{HEAD} <{CONSTANTS}, float[4] x_scale = {{1.0, 1.0, 1.0, 1.0}}> "
        """{ n = LayerNormalization <axis=-1, epsilon=0.00001> (x, x_scale)
             t = Mul(n, two) z = Add(t, x) }""",
        rtol=1e-6,
    )


def test_two_axes() -> None:
    head = "g (float[N, 2, 2] x) => (float[N, 2, 2] z)"
    constants = CONSTANTS.replace("int64[1] a = {-1}", "int64[2] a = {1, -1}")
    constants = constants.replace("float[4]", "float[2, 2]")
    assert_rewrites(
        FuseLayerNormalization(),
        f"{head} <{constants}> {{ {PLAIN} }}",
        f"{head} <{constants}> {{ {FUSED.replace('-1,', '-2,')} }}",
        rtol=1e-6,
    )


def test_leading_dimensions_of_the_vectors_are_dropped() -> None:
    constants = CONSTANTS.replace("float[4] s", "float[1, 1, 4] s")
    assert_rewrites(
        FuseLayerNormalization(),
        f"{HEAD} <{constants}> {{ {PLAIN} }}",
        f"{HEAD} <{constants}, float[4] s_g1 = {{1.5, 0.5, -1.0, 2.0}}> "
        f"{{ {FUSED.replace('s, b', 's_g1, b')} }}",
        rtol=1e-6,
    )


def test_scale_and_bias_may_be_computed() -> None:
    head = HEAD.replace("x)", "x, float[4] s0, float[4] b0)")
    constants = CONSTANTS.replace(f", {VECTORS}", "")
    computed = "s = Add(s0, o) b = Relu(b0)"
    assert_rewrites(
        FuseLayerNormalization(),
        f"{head} <{constants}> {{ {computed} {PLAIN} }}",
        f"{head} <{constants}> {{ {computed} {FUSED} }}",
        rtol=1e-6,
    )


def test_float16_between_casts() -> None:
    head = "g (float16[N, M, 4] x) => (float16[N, M, 4] z)"
    # Their bits: 1, 2, 0.5 and -1.
    constants = CONSTANTS.replace(VECTORS, "float16[4] s = {15360, 16384, 14336, 48128}")
    form = ROOT.replace("x", "y")
    assert_rewrites(
        FuseLayerNormalization(),
        f"""{head} <{constants}> {{ y = Cast <to=1> (x) {form} n = Div(d, r)
            h = Cast <to=10> (n) z = Mul(h, s) }}""",
        f"""{head} <{constants}> {{ y = Cast <to=1> (x)
            z = LayerNormalization <axis=-1, epsilon=0.00001> (x, s) }}""",
        rtol=2e-3,
    )


def test_a_result_in_float16_of_float32() -> None:
    head = "g (float16[N, M, 4] x) => (float16[N, M, 4] z)"
    form = PLAIN.replace("x", "y").replace("z =", "h =")
    assert_rewrites(
        FuseLayerNormalization(),
        f"{head} <{CONSTANTS}> {{ y = Cast <to=1> (x) {form} z = Cast <to=10> (h) }}",
        f"""{head} <{CONSTANTS}> {{ y = Cast <to=1> (x)
            {FUSED.replace("x", "y").replace("ayis", "axis").replace("z =", "h =")}
            z = Cast <to=10> (h) }}""",
        rtol=2e-3,
    )


def case(body: str, head: str = HEAD, constants: str = CONSTANTS) -> str:
    return f"{head} <{constants}> {{ {body} }}"


BIG = "g (float[N, 32768] x) => (float[N, 32768] z)"
NO_REWRITES = {
    "axes_that_are_fed": (
        case(PLAIN, HEAD.replace("x)", "x, int64[1] a)").replace("4] z", "P] z")),
        "axes of its mean are not known, or not kept",
    ),
    "an_unknown_size": (
        case(f"{ROOT} z = Div(d, r)", "g (float[N, M, K] x) => (float[N, M, K] z)"),
        "sizes of its axes are not known",
    ),
    "other_axes": (
        case(f"{ROOT} z = Div(d, r)", constants=CONSTANTS.replace("{-1}", "{1}")),
        "not the last ones",
    ),
    "a_mean_along_other_axes": (
        case(PLAIN.replace("ReduceMean(x, a)", "ReduceMean(x, c)"),
             constants=CONSTANTS + ", int64[1] c = {1}"),
        None,
    ),
    "a_mean_without_the_axis": (
        case(
            f"{DEVIATION} q = Pow(d, two) v = ReduceMean <keepdims=0> (q, a) w = Add(v, e)"
            " r = Sqrt(w) z = Div(d, r)",
            "g (float[4, 4] x) => (float[4, 4] z)",
        ),
        "or not kept",
    ),
    "another_power": (case(PLAIN.replace("(d, two)", "(d, half)")), None),
    "the_root_of_something_else": (case("r = Sqrt(x) z = Div(x, r)"), None),
    "epsilon_is_not_constant": (
        case(PLAIN, HEAD.replace("x)", "x, float e)")),
        None,
    ),
    "a_negative_epsilon": (
        case(PLAIN, constants=CONSTANTS.replace("{0.00001}", "{-0.00001}")),
        "negative",
    ),
    "epsilon_outside_the_root": (
        case(PLAIN.replace("Div(d, r)", "Div(d, r2)").replace(" n =", " r2 = Add(r, e) n =")),
        "does not divide",
    ),
    "it_divides_something_else": (case(f"{ROOT} z = Div(x, r)"), "does not divide"),
    "the_inverse_of_two": (
        case(f"{ROOT} i = Div(two, r) z = Mul(d, i)"), "does not divide",
    ),
    "an_epsilon_that_adds_a_dimension": (
        case(f"{ROOT} z = Div(d, r)", HEAD.replace("float[N, M, 4] z", "float[1, N, M, 4] z"),
             CONSTANTS.replace("float e =", "float[1, 1, 1, 1] e =")),
        "adds a dimension",
    ),
    "another_use": (
        case(PLAIN, HEAD.replace("z)", "z, float[N, M, 1] v)")), "'v' has another use",
    ),
    "float64": (
        case(PLAIN, HEAD.replace("float", "double"), CONSTANTS.replace("float", "double")),
        "not in DOUBLE",
    ),
    "many_ones": (case(f"{ROOT} z = Div(d, r)", BIG), "too many ones"),
    "no_mean": (
        case("q = Mul(x, x) v = ReduceMean(q, a) w = Add(v, e) r = Sqrt(w) z = Div(x, r)"),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(FuseLayerNormalization(), text, reason=reason)


def test_an_older_opset() -> None:
    text = case(PLAIN).replace("ReduceMean(x, a)", "ReduceMean <axes=[2]> (x)")
    text = text.replace("ReduceMean(q, a)", "ReduceMean <axes=[-1]> (q)")
    assert_unchanged(FuseLayerNormalization(), text, opset=16, reason="needs opset 17")

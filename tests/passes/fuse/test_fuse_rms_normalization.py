"""Before -> after tests of FuseRmsNormalization."""

import pytest
from graphopt.passes.fuse.fuse_rms_normalization import FuseRmsNormalization
from graphs import assert_rewrites, assert_unchanged, load

from graphopt.passbase import Context
from graphopt.runtime import Runtime

HEAD = "g (float[N, M, 4] x) => (float[N, M, 4] z)"
CONSTANTS = """int64[1] a = {-1}, float two = {2.0}, float e = {0.00001}, float o = {1.0},
    float half = {0.5}, float minus = {-0.5}, float[4] s = {1.5, 0.5, -1.0, 2.0}"""
SQUARE = "q = Pow(x, two) v = ReduceMean(q, a) w = Add(v, e)"
ROOT = f"{SQUARE} r = Sqrt(w)"
DIVIDED = f"{ROOT} n = Div(x, r) z = Mul(n, s)"
FUSED = "z = RMSNormalization <axis=-1, epsilon=0.00001> (x, s)"

FORMS = {
    "pytorch_old_exporter": f"{ROOT} i = Div(o, r) n = Mul(x, i) z = Mul(s, n)",
    "pytorch_new_exporter": f"{ROOT} i = Reciprocal(r) n = Mul(x, i) z = Mul(s, n)",
    "scaled_inverse": f"{ROOT} i = Reciprocal(r) n = Mul(i, s) z = Mul(n, x)",
    "inverse_by_power": f"{SQUARE} r = Pow(w, minus) n = Mul(x, r) z = Mul(n, s)",
    "root_by_power": f"{SQUARE} r = Pow(w, half) n = Div(x, r) z = Mul(n, s)",
    "square_by_multiplication": DIVIDED.replace("Pow(x, two)", "Mul(x, x)"),
}


def case(body: str, head: str = HEAD, constants: str = CONSTANTS) -> str:
    return f"{head} <{constants}> {{ {body} }}"


@pytest.mark.parametrize("name", [*FORMS, "divided"])
def test_from_opset_23(name: str) -> None:
    form = FORMS.get(name, DIVIDED)
    assert_rewrites(FuseRmsNormalization(), case(form), case(FUSED), opset=23, rtol=1e-6)


@pytest.mark.parametrize("name", [*FORMS])
def test_below_opset_23_it_is_spelled_as_onnxruntime_fuses_it(name: str) -> None:
    more = name == "square_by_multiplication"
    constants = f"{CONSTANTS}, float two_g1 = {{2.0}}" if more else CONSTANTS
    after = DIVIDED.replace("(x, two)", "(x, two_g1)") if more else DIVIDED
    after = after.replace("n = Div", "z_g1 = Div").replace("(n, s)", "(z_g1, s)")
    if "power" in name:
        after = after.replace("r =", "r_g1 =").replace("x, r)", "x, r_g1)")
    assert_rewrites(
        FuseRmsNormalization(),
        case(FORMS[name]),
        case(
            after.replace("n = Div", "z_g1 = Div").replace("(n, s)", "(z_g1, s)"),
            constants=constants,
        ),
        opset=20,
        rtol=1e-6,
    )


def test_without_scale() -> None:
    ones = CONSTANTS + ", float[4] x_scale = {1.0, 1.0, 1.0, 1.0}"
    assert_rewrites(
        FuseRmsNormalization(),
        case(f"{ROOT} z = Div(x, r)"),
        case(FUSED.replace("s)", "x_scale)"), constants=ones),
        opset=23,
        rtol=1e-6,
    )


def test_an_addition_stays_behind() -> None:
    assert_rewrites(
        FuseRmsNormalization(),
        case(DIVIDED.replace("z =", "y =") + " z = Add(y, s)"),
        case(FUSED.replace("z =", "y =") + " z = Add(y, s)"),
        opset=23,
        rtol=1e-6,
    )


def test_float16_between_casts() -> None:
    head = HEAD.replace("float", "float16")
    # Their bits: 1, 2, 0.5 and -1.
    constants = CONSTANTS.replace(
        "float[4] s = {1.5, 0.5, -1.0, 2.0}", "float16[4] s = {15360, 16384, 14336, 48128}"
    )
    form = FORMS["pytorch_new_exporter"].replace("x", "y").replace("n)", "h)")
    form = form.replace("z =", "h = Cast <to=10> (n) z =")
    assert_rewrites(
        FuseRmsNormalization(),
        case(f"y = Cast <to=1> (x) {form}", head, constants),
        case(f"y = Cast <to=1> (x) {FUSED}", head, constants),
        opset=23,
        rtol=2e-3,
    )


@pytest.mark.parametrize("opset", [20, 23])
def test_onnxruntime_fuses_what_is_written(opset: int, runtime: Runtime) -> None:
    model = load(case(FORMS["pytorch_new_exporter"]), opset)
    FuseRmsNormalization().run(model, Context())
    nodes = runtime.optimized_nodes(model)
    assert [node.op_type for node in nodes] == [
        "RMSNormalization" if opset == 23 else "SimplifiedLayerNormalization"
    ]


BIG = "g (float[N, 32768] x) => (float[N, 32768] z)"
NO_REWRITES = {
    "fused_by_onnxruntime": (case(DIVIDED), "onnxruntime fuses it", 22),
    "without_scale_below": (
        case(f"{ROOT} i = Reciprocal(r) z = Mul(x, i)"), "needs opset 23", 22,
    ),
    "two_axes_below": (
        case(
            FORMS["pytorch_new_exporter"],
            "g (float[N, 2, 2] x) => (float[N, 2, 2] z)",
            CONSTANTS.replace("int64[1] a = {-1}", "int64[2] a = {1, 2}")
            .replace("float[4]", "float[2, 2]"),
        ),
        "needs opset 23",
        22,
    ),
    "float64_below": (
        case(FORMS["pytorch_new_exporter"], HEAD.replace("float", "double"),
             CONSTANTS.replace("float", "double")),
        "needs opset 23",
        22,
    ),
    "float64": (
        case(DIVIDED, HEAD.replace("float", "double"), CONSTANTS.replace("float", "double")),
        "not in DOUBLE",
        23,
    ),
    "many_ones": (case(f"{ROOT} z = Div(x, r)", BIG), "too many ones", 23),
    "other_axes": (
        case(f"{ROOT} z = Div(x, r)", constants=CONSTANTS.replace("{-1}", "{1}")),
        "not the last ones",
        23,
    ),
    "another_use": (
        case(DIVIDED, HEAD.replace("z)", "z, float[N, M, 1] v)")), "'v' has another use", 23,
    ),
    "a_layer_normalization": (
        case("m = ReduceMean(x, a) d = Sub(x, m) " + DIVIDED.replace("(x", "(d")), None, 23,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason, opset = NO_REWRITES[name]
    assert_unchanged(FuseRmsNormalization(), text, reason=reason, opset=opset)

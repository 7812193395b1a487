"""Before -> after tests of FuseSkipLayerNormalization."""

import pytest
from graphopt.passes.fuse.fuse_skip_layer_normalization import FuseSkipLayerNormalization
from graphs import apply, assert_same_answers, assert_unchanged, load, text_of

RTOL = 1e-5
PASS = FuseSkipLayerNormalization()
INPUTS = "float[N, M, 4] t, float[N, M, 4] x"
OUTPUTS = "float[N, M, 4] z"
SCALE = "float[4] s = {1.5, 0.5, -1.0, 2.0}"
WEIGHTS = f"{SCALE}, float[4] c = {{0.25, -1.0, 3.0, 0.0}}, float[4] b = {{1, -2, 0.5, 3}}"
NORM = "z = LayerNormalization <axis = -1, epsilon = 0.001> (y, s, c)"
SKIP = "com.microsoft.SkipLayerNormalization <epsilon = 0.001>"


def graph(
    body: str, inputs: str = INPUTS, outputs: str = OUTPUTS, weights: str = WEIGHTS
) -> str:
    return f"g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}"


def assert_fuses(before: str, after: str, opset: int = 21) -> None:
    model, original = load(before, opset), load(before, opset)
    assert apply(model, PASS).modified
    assert text_of(model) == text_of(load(after, opset, ("com.microsoft",)))
    assert not apply(model, PASS).modified
    assert_same_answers(model, original, RTOL)


FORMS = {
    "sum": (f"y = Add(t, x) {NORM}", "z = SKIP (t, x, s, c)"),
    "written_as_sum": (f"y = Sum(t, x) {NORM}", "z = SKIP (t, x, s, c)"),
    "with_a_bias": (f"u = Add(t, b) y = Add(u, x) {NORM}", "z = SKIP (t, x, s, c, b)"),
    "bias_first": (f"u = Add(b, t) y = Add(x, u) {NORM}", "z = SKIP (t, x, s, c, b)"),
    "without_its_bias": (
        f"y = Add(t, x) {NORM.replace(', c)', ')')}",
        "z = SKIP (t, x, s)",
    ),
    "a_bias_but_none_of_its_own": (
        f"u = Add(t, b) y = Add(u, x) {NORM.replace(', c)', ')')}",
        "z = SKIP (t, x, s, , b)",
    ),
    "last_axis_by_number": (
        f"y = Add(t, x) {NORM.replace('-1', '2')}",
        "z = SKIP (t, x, s, c)",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    before, after = FORMS[name]
    assert_fuses(graph(before), graph(after.replace("SKIP", SKIP)))


def test_epsilon_that_is_not_given() -> None:
    assert_fuses(
        graph("y = Add(t, x) z = LayerNormalization(y, s, c)"),
        graph(f"z = {SKIP.replace('0.001', '0.00001')} (t, x, s, c)"),
    )


def test_rows() -> None:
    rows, out = INPUTS.replace("N, M", "N"), OUTPUTS.replace("N, M", "N")
    assert_fuses(
        graph(f"y = Add(t, x) {NORM}", rows, out), graph(f"z = {SKIP} (t, x, s, c)", rows, out)
    )


def test_one_of_the_batch() -> None:
    inputs = INPUTS.replace("float[N, M, 4] t", "float[1, M, 4] t")
    assert_fuses(
        graph(f"y = Add(t, x) {NORM}", inputs), graph(f"z = {SKIP} (x, t, s, c)", inputs)
    )


def test_the_sum_is_used_elsewhere() -> None:
    # What uses it comes before the normalization.
    outputs = f"{OUTPUTS}, float[N, M, 4] r"
    assert_fuses(
        graph(f"y = Add(t, x) r = Relu(y) {NORM}", outputs=outputs),
        graph(f"z, , , y = {SKIP} (t, x, s, c) r = Relu(y)", outputs=outputs),
    )


def test_the_sum_is_an_output() -> None:
    outputs = f"{OUTPUTS}, float[N, M, 4] y"
    assert_fuses(
        graph(f"u = Add(t, b) y = Add(u, x) {NORM}", outputs=outputs),
        graph(f"z, , , y = {SKIP} (t, x, s, c, b)", outputs=outputs),
    )


def test_rms_normalization() -> None:
    norm = "z = RMSNormalization <axis = -1, epsilon = 0.001> (y, s)"
    simplified = "com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.001>"
    only = f"{SCALE}, float[4] b = {{1, -2, 0.5, 3}}"
    assert_fuses(
        graph(f"u = Add(t, b) y = Add(u, x) {norm}", weights=only),
        graph(f"z = {simplified} (t, x, s, b)", weights=only),
        opset=23,
    )


def test_a_bias_that_is_used_elsewhere_stays() -> None:
    outputs = f"{OUTPUTS}, float[N, M, 4] u"
    assert_fuses(
        graph(f"u = Add(t, b) y = Add(u, x) {NORM}", outputs=outputs),
        graph(f"u = Add(t, b) z = {SKIP} (u, x, s, c)", outputs=outputs),
    )


def test_a_bias_that_is_fed_stays() -> None:
    inputs, weights = f"{INPUTS}, float[4] b", WEIGHTS.partition(", float[4] b")[0]
    assert_fuses(
        graph(f"u = Add(t, b) y = Add(u, x) {NORM}", inputs, weights=weights),
        graph(f"u = Add(t, b) z = {SKIP} (u, x, s, c)", inputs, weights=weights),
    )


def test_weights_of_several() -> None:
    assert_fuses(
        graph(
            "y = Add(t, x) v = LayerNormalization(y, s, c) y2 = Add(v, x) "
            "z = LayerNormalization(y2, s, c)"
        ),
        graph(
            f"v = {SKIP.replace('0.001', '0.00001')} (t, x, s, c) "
            f"z = {SKIP.replace('0.001', '0.00001')} (v, x, s, c)"
        ),
    )


def test_in_a_subgraph() -> None:
    def both(body: str) -> str:
        inner = f"""z = If (k) <then_branch = a () => (float[N, M, 4] v)
            {{ {body} }}, else_branch = e () => (float[N, M, 4] w) {{ w = Relu(x) }}>"""
        return graph(inner, f"{INPUTS}, bool k")

    norm = NORM.replace("z =", "v =")
    assert_fuses(both(f"y = Add(t, x) {norm}"), both(f"v = {SKIP} (t, x, s, c)"))


REFUSED = {
    "a_summand_a_row": (
        graph(f"y = Add(t, x) {NORM}", INPUTS.replace("N, M, 4] t", "N, 1, 4] t")),
        "broadcast",
    ),
    "two_that_are_broadcast": (
        graph(f"y = Add(t, x) {NORM}", "float[1, M, 4] t, float[N, 1, 4] x"),
        "broadcast",
    ),
    "four_dimensions": (
        graph(
            f"y = Add(t, x) {NORM}",
            INPUTS.replace("N,", "2, N,"),
            OUTPUTS.replace("N,", "2, N,"),
        ),
        "not known to be rows",
    ),
    "an_unknown_width": (
        graph(
            "y = Add(t, x) z = LayerNormalization(y, s)",
            "float[N, W] t, float[N, W] x, float[W] s",
            "float[N, W] z",
            "float[4] c = {1, 1, 1, 1}",
        ),
        "not known to be rows",
    ),
    "three_summands": (graph(f"y = Sum(t, x, x) {NORM}"), None),
    "two_axes": (
        graph(
            "y = Add(t, x) z = LayerNormalization <axis = 1> (y, s)",
            "float[N, 2, 4] t, float[N, 2, 4] x",
            "float[N, 2, 4] z",
            "float[2, 4] s = {1, 1, 1, 1, 1, 1, 1, 2}",
        ),
        "more than the last axis",
    ),
    "a_scale_that_is_fed": (
        graph(
            f"y = Add(t, x) {NORM}",
            f"{INPUTS}, float[4] s",
            weights=WEIGHTS.partition(", ")[2].partition("}, ")[2],
        ),
        "not an initializer",
    ),
    "the_mean_is_used": (
        graph(
            f"y = Add(t, x) {NORM.replace('z =', 'z, m =')}",
            outputs=f"{OUTPUTS}, float[N, M, 1] m",
        ),
        "mean or the deviation",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    text, reason = REFUSED[name]
    assert_unchanged(PASS, text, reason=reason)


def test_other_types_are_left_alone() -> None:
    text = graph(f"y = Add(t, x) {NORM}").replace("float", "double")
    assert_unchanged(PASS, text, reason="no kernel")


def test_a_sum_outside_of_the_subgraph_stays_there() -> None:
    text = graph(
        f"""y = Add(t, x) z = If (k) <then_branch = a () => (float[N, M, 4] v)
            {{ {NORM.replace("z =", "v =")} }},
            else_branch = e () => (float[N, M, 4] w) {{ w = Relu(x) }}>""",
        f"{INPUTS}, bool k",
    )
    assert_unchanged(PASS, text)

"""Before -> after tests of FuseBiasGelu."""

import pytest
from graphopt.passes.fuse.fuse_bias_gelu import FuseBiasGelu
from graphs import apply, assert_same_answers, assert_unchanged, load, text_of

RTOL = 1e-6
MS = ("com.microsoft",)
HEAD = "g (float[N, M, 4] x) => (float[N, M, 4] z)"
BIAS = "float[4] b = {0.5, -1.0, 2.0, 0.0}"
ERF = "float r = {1.4142135}, float o = {1.0}, float h = {0.5}"
ERF_WRITTEN = "d = Div(u, r) e = Erf(d) p = Add(e, o) m = Mul(u, p) z = Mul(m, h)"


def assert_fuses(before: str, after: str, opset: int = 21) -> None:
    model, original = load(before, opset), load(before, opset)
    assert apply(model, FuseBiasGelu()).modified
    assert text_of(model) == text_of(load(after, opset, MS))
    assert not apply(model, FuseBiasGelu()).modified
    assert_same_answers(model, original, RTOL)


FORMS = {
    "erf": ("u = Add(x, b) z = Gelu(u)", "BiasGelu", ""),
    "commuted": ("u = Add(b, x) z = Gelu(u)", "BiasGelu", ""),
    "tanh": ('u = Add(x, b) z = Gelu <approximate = "tanh"> (u)', "FastGelu", ""),
    "written_out": (f"u = Add(x, b) {ERF_WRITTEN}", "BiasGelu", f", {ERF}"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    body, operator, more = FORMS[name]
    assert_fuses(
        f"{HEAD} <{BIAS}{more}> {{ {body} }}",
        f"{HEAD} <{BIAS}{more}> {{ z = com.microsoft.{operator} (x, b) }}",
    )


def test_written_out_in_an_opset_without_gelu() -> None:
    assert_fuses(
        f"{HEAD} <{BIAS}, {ERF}> {{ u = Add(x, b) {ERF_WRITTEN} }}",
        f"{HEAD} <{BIAS}, {ERF}> {{ z = com.microsoft.BiasGelu (x, b) }}",
        opset=13,
    )


def test_a_bias_that_others_use() -> None:
    head = "g (float[N, M, 4] x) => (float[N, M, 4] z, float[N, M, 4] y)"
    assert_fuses(
        f"{head} <{BIAS}> {{ u = Add(x, b) z = Gelu(u) v = Add(z, b) y = Gelu(v) }}",
        f"""{head} <{BIAS}> {{ z = com.microsoft.BiasGelu (x, b)
            y = com.microsoft.BiasGelu (z, b) }}""",
    )


def test_in_a_subgraph() -> None:
    def graph(body: str) -> str:
        return f"""g (float[N, 4] x, bool c) => (float[N, 4] z) <{BIAS}>
            {{ y = If (c) <then_branch = t () => (float[N, 4] v) {{ {body} }},
               else_branch = f () => (float[N, 4] w) {{ w = Relu(x) }}> z = Relu(y) }}"""

    assert_fuses(
        graph("u = Add(x, b) v = Gelu(u)"), graph("v = com.microsoft.BiasGelu (x, b)")
    )


REFUSED = {
    "a_bias_that_is_fed": ("u = Add(x, b) z = Gelu(u)", ", float[4] b", "", "initializer"),
    "a_bias_that_is_a_number": (
        "u = Add(x, o) z = Gelu(u)",
        "",
        "float o = {1}",
        "initializer",
    ),
    "a_bias_a_row": (
        "u = Add(x, c) z = Gelu(u)",
        "",
        "float[1, 4] c = {1, 2, 3, 4}",
        "initializer",
    ),
    "a_bias_that_widens": (
        "y = Relu(x1) u = Add(y, b) z = Gelu(u)",
        ", float[N, M, 1] x1",
        BIAS,
        "initializer",
    ),
    "no_bias": ("u = Relu(x) z = Gelu(u)", "", BIAS, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    body, inputs, constants, reason = REFUSED[name]
    head = HEAD.replace(" x)", f" x{inputs})")
    weights = f"<{constants}>" if constants else ""
    assert_unchanged(FuseBiasGelu(), f"{head} {weights} {{ {body} }}", reason=reason)


def test_a_sum_that_is_used_elsewhere() -> None:
    head = "g (float[N, M, 4] x) => (float[N, M, 4] z, float[N, M, 4] y)"
    text = f"{head} <{BIAS}> {{ u = Add(x, b) y = Relu(u) z = Gelu(u) }}"
    assert_unchanged(FuseBiasGelu(), text, reason="another use")
    text = text.replace("y = Relu(u)", "").replace(" y)", " u)")
    assert_unchanged(FuseBiasGelu(), text, reason="another use")


def test_a_step_of_a_written_out_gelu_that_is_used_elsewhere() -> None:
    head = "g (float[N, M, 4] x) => (float[N, M, 4] z, float[N, M, 4] d)"
    text = f"{head} <{BIAS}, {ERF}> {{ u = Add(x, b) {ERF_WRITTEN} }}"
    assert_unchanged(FuseBiasGelu(), text, reason="another use")


def test_other_types_are_left_alone() -> None:
    text = f"{HEAD} <{BIAS}> {{ u = Add(x, b) z = Gelu(u) }}".replace("float", "double")
    assert_unchanged(FuseBiasGelu(), text, reason="no kernel")


def test_a_bias_added_outside_of_the_subgraph_stays_there() -> None:
    text = f"""g (float[N, 4] x, bool c) => (float[N, 4] z) <{BIAS}>
        {{ u = Add(x, b)
           z = If (c) <then_branch = t () => (float[N, 4] v) {{ v = Gelu(u) }},
           else_branch = f () => (float[N, 4] w) {{ w = Relu(x) }}> }}"""
    assert_unchanged(FuseBiasGelu(), text)

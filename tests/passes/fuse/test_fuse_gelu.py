"""Before -> after tests of FuseGelu."""

import pytest
from graphopt.passes.fuse.fuse_gelu import FuseGelu
from graphs import assert_rewrites, assert_unchanged

HEAD = "g (float[N, M, 8] x) => (float[N, M, 8] z)"
ERF = """float r = {1.4142135}, float i = {0.70710677}, float o = {1.0}, float h = {0.5},
         float t = {2.0}"""
TANH = """float k = {0.79788456}, float c = {0.044715}, float three = {3.0}, float o = {1.0},
          float h = {0.5}, float ck = {0.0356774081}"""

FIRST = "d = Div(x, r) e = Erf(d) p = Add(e, o) m = Mul(x, p) z = Mul(m, h)"
ERF_FORMS = {
    "pytorch_old_exporter": FIRST,
    "pytorch_new_exporter": FIRST.replace(
        "m = Mul(x, p) z = Mul(m, h)", "m = Mul(h, p) z = Mul(x, m)"
    ),
    "half_of_x_first": "m = Mul(x, h) d = Div(x, r) e = Erf(d) p = Add(e, o) z = Mul(m, p)",
    "times_the_inverse": "d = Mul(x, i) e = Erf(d) p = Add(o, e) m = Mul(p, x) z = Div(m, t)",
    "halved_sum": "d = Mul(i, x) e = Erf(d) a = Mul(e, h) p = Add(a, h) z = Mul(x, p)",
    "expanded": "d = Div(x, r) e = Erf(d) w = Mul(x, h) a = Mul(w, e) z = Add(a, w)",
}
TANH_FORMS = {
    "pytorch_old_exporter": """b = Mul(x, x) d = Mul(x, b) e = Mul(c, d) f = Add(x, e)
        w = Mul(k, f) t = Tanh(w) p = Add(o, t) m = Mul(x, p) z = Mul(h, m)""",
    "pytorch_new_exporter": """d = Pow(x, three) e = Mul(c, d) f = Add(x, e) w = Mul(k, f)
        t = Tanh(w) p = Add(t, o) m = Mul(h, p) z = Mul(x, m)""",
    "transformers": """m = Mul(x, h) d = Pow(x, three) e = Mul(d, c) f = Add(x, e)
        w = Mul(f, k) t = Tanh(w) p = Add(t, o) z = Mul(m, p)""",
    "factored": """b = Mul(x, x) e = Mul(b, c) f = Add(o, e) y = Mul(x, k) w = Mul(y, f)
        t = Tanh(w) p = Add(o, t) y2 = Mul(x, h) z = Mul(y2, p)""",
    "as_onnx_defines_it": """d = Pow(x, three) e = Mul(c, d) f = Sum(x, e) w = Mul(k, f)
        t = Tanh(w) p = Sum(o, t) m = Mul(h, x) z = Mul(m, p)""",
    "multiplied_out": """d = Pow(x, three) e = Mul(d, ck) y = Mul(x, k) w = Add(y, e)
        t = Tanh(w) p = Add(o, t) y2 = Mul(x, h) z = Mul(y2, p)""",
}


@pytest.mark.parametrize("name", ERF_FORMS)
def test_erf(name: str) -> None:
    assert_rewrites(
        FuseGelu(),
        f"{HEAD} <{ERF}> {{ {ERF_FORMS[name]} }}",
        f"{HEAD} <{ERF}> {{ z = Gelu(x) }}",
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", TANH_FORMS)
def test_tanh(name: str) -> None:
    assert_rewrites(
        FuseGelu(),
        f"{HEAD} <{TANH}> {{ {TANH_FORMS[name]} }}",
        f'{HEAD} <{TANH}> {{ z = Gelu <approximate="tanh"> (x) }}',
        rtol=1e-6,
    )


def test_the_argument_may_itself_be_a_product() -> None:
    more = f"{ERF}, float s = {{3.0}}"
    form = FIRST.replace("x", "y")
    assert_rewrites(
        FuseGelu(),
        f"{HEAD} <{more}> {{ y = Mul(x, s) {form} }}",
        f"{HEAD} <{more}> {{ y = Mul(x, s) z = Gelu(y) }}",
        rtol=1e-6,
    )


def test_in_a_subgraph_of_what_is_outside() -> None:
    head = f"g (float[N, 8] x, bool b) => (float[N, 8] z) <{ERF}>"
    inner = "y = If (b) <then_branch = t () => (float[N, 8] u) { %s }, else_branch = f () => "
    inner += "(float[N, 8] v) { v = Relu(x) }> z = Relu(y)"
    assert_rewrites(
        FuseGelu(),
        f"{head} {{ {inner % FIRST.replace('z =', 'u =')} }}",
        f"{head} {{ {inner % 'u = Gelu(x)'} }}",
        rtol=1e-6,
    )


def test_float16_constants_are_rounded() -> None:
    head = "g (float16[N, 8] x) => (float16[N, 8] z)"
    half = (
        "float16 r = {15784}, float16 o = {15360}, float16 h = {14336}"  # bits: 1.414, 1, 0.5
    )
    assert_rewrites(
        FuseGelu(),
        f"{head} <{half}> {{ {FIRST} }}",
        f"{head} <{half}> {{ z = Gelu(x) }}",
        rtol=2e-3,
    )


NO_REWRITES = {
    "older_opset": (f"{HEAD} <{ERF}> {{ {FIRST} }}", "needs opset 20", 19),
    "another_use": (
        f"{HEAD.replace(' z)', ' z, float[N, M, 8] e)')} <{ERF}> {{ {FIRST} }}",
        "not only used in 0.5 x (1 + e)",
        20,
    ),
    "another_use_of_the_argument": (
        f"{HEAD} <{ERF}> {{ {FIRST.replace('z =', 'n =')} z = Add(n, d) }}",
        "'d' has another use",
        20,
    ),
    "another_sum": (
        f"{HEAD} <{ERF}> {{ {FIRST.replace('Add(e, o)', 'Add(e, h)')} }}",
        "0.5 x (1 + e)",
        20,
    ),
    "another_argument": (
        f"{HEAD} <{ERF}> {{ {FIRST.replace('Div(x, r)', 'Div(x, t)')} }}",
        None,
        20,
    ),
    "another_factor": (
        f"""g (float[N, M, 8] x, float[N, M, 8] y) => (float[N, M, 8] z) <{ERF}>
        {{ {FIRST.replace("Mul(x, p)", "Mul(y, p)")} }}""",
        "0.5 x (1 + e)",
        20,
    ),
    "a_fed_constant": (
        f"g (float[N, M, 8] x, float r) => (float[N, M, 8] z) <{ERF}> {{ {FIRST} }}",
        None,
        20,
    ),
    "a_constant_that_adds_a_dimension": (
        f"""g (float[N, M, 8] x) => (float[1, N, M, 8] z)
        <{ERF.replace("float h = {0.5}", "float[1, 1, 1, 1] h = {0.5}")}> {{ {FIRST} }}""",
        "0.5 x (1 + e)",
        20,
    ),
    "float64": (
        f"g (double[N, M, 8] x) => (double[N, M, 8] z) <{TANH.replace('float', 'double')}>"
        f"{{ {TANH_FORMS['transformers']} }}",
        "no kernel for DOUBLE",
        20,
    ),
    "a_recurrence": (f"{HEAD} {{ y = Tanh(x) z = Mul(x, y) }}", None, 20),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason, opset = NO_REWRITES[name]
    assert_unchanged(FuseGelu(), text, reason=reason, opset=opset)

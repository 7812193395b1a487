"""Before -> after tests of EliminateUnusedOutputs."""

import pytest
from graphopt.passes.simplify.eliminate_unused_outputs import EliminateUnusedOutputs
from graphs import assert_rewrites, assert_unchanged

W = "{" + ", ".join(["0.1", "-0.2", "0.3", "0.4"] * 4) + "}"
WEIGHTS = "float[1, 2, 2] v = {1.0, 2.0, 3.0, 4.0}, float[1, 2, 2] u = {0.1, 0.2, 0.3, 0.4}, "
WEIGHTS += f"float[1, 8, 2] w = {W}, float[1, 8, 2] r = {W}, float[3] s = {{1.0, 2.0, 3.0}}"
INPUTS = "float[3, N, 2] x, float[N, 3] z, float[N, 1, 6] p, int64[6] i"

# Line before, line after, output of the graph.
REWRITES = {
    "lstm_last_state": (
        "y, h, c = LSTM <hidden_size=2> (x, w, r)",
        ", h = LSTM <hidden_size=2> (x, w, r)",
        "float[1, N, 2] h",
    ),
    "lstm_states": (
        "y, h, c = LSTM <hidden_size=2> (x, w, r)",
        "y = LSTM <hidden_size=2> (x, w, r)",
        "float[3, 1, N, 2] y",
    ),
    "lstm_cell": (
        "y, h, c = LSTM <hidden_size=2> (x, w, r)",
        ", , c = LSTM <hidden_size=2> (x, w, r)",
        "float[1, N, 2] c",
    ),
    "rnn": (
        "y, h = RNN <hidden_size=2> (x, v, u)",
        ", h = RNN <hidden_size=2> (x, v, u)",
        "float[1, N, 2] h",
    ),
    "dropout": ("y, m = Dropout(z)", "y = Dropout(z)", "float[N, 3] y"),
    "normalization": (
        "y, m, d = LayerNormalization(z, s)",
        "y = LayerNormalization(z, s)",
        "float[N, 3] y",
    ),
    "normalization_with_a_mean": (
        "y, m, d = LayerNormalization(z, s)",
        "y, m = LayerNormalization(z, s)",
        "float[N, 3] y, float[N, 1] m",
    ),
    "unique": (
        "y, f, b, c = Unique(i)",
        "y, , , c = Unique(i)",
        "int64[K] y, int64[K] c",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    before, after, outputs = REWRITES[name]
    names = [part.split()[-1] for part in outputs.replace("], ", "]|, ").split("|, ")]
    last = "\n".join(f"{n}2 = Identity({n})" for n in names)
    declared = outputs
    for n in names:
        declared = declared.replace(f"] {n}", f"] {n}2")
    head = f"g ({INPUTS}) => ({declared}) <{WEIGHTS}>"
    assert_rewrites(
        EliminateUnusedOutputs(),
        f"{head} {{ {before}\n {last} }}",
        f"{head} {{ {after}\n {last} }}",
    )


REFUSED = {
    "1_used": ("y, m = Dropout(z)", "float[N, 3] y, bool[N, 3] m", None),
    "2_not_optional": ("y, j = TopK(z, k)", "float[N, 2] y", None),
    "4_nothing_is_used": ("a, m = Dropout(z)\n y = Neg(z)", "float[N, 3] y", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    lines, outputs, reason = REFUSED[name]
    text = f"g ({INPUTS}) => ({outputs}) <{WEIGHTS}, int64[1] k = {{2}}> {{ {lines} }}"
    assert_unchanged(EliminateUnusedOutputs(), text, reason=reason)


def test_3_the_outputs_of_a_training_normalization_stay() -> None:
    text = """g (float[N, 3] z) => (float[N, 3] y) <float[3] s = {1.0, 2.0, 3.0}>
              { y, m, v = BatchNormalization <training_mode=1> (z, s, s, s, s) }"""
    assert_unchanged(EliminateUnusedOutputs(), text)


def test_3_the_indices_of_a_pool_stay() -> None:
    text = f"g ({INPUTS}) => (float[N, 1, 5] y) {{ y, j = MaxPool <kernel_shape=[2]> (p) }}"
    assert_unchanged(EliminateUnusedOutputs(), text)


def test_3_the_present_of_an_attention_stays() -> None:
    text = """g (float[1, 2, 3, 4] q, float[1, 2, 5, 4] p) => (float[1, 2, 3, 4] y)
              { y, k, v = Attention(q, q, q, , p, p) }"""
    assert_unchanged(EliminateUnusedOutputs(), text, opset=23)

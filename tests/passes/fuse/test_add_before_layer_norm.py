"""Before -> after tests of AddBeforeLayerNorm."""

import pytest
from graphopt.passes.fuse.add_before_layer_norm import AddBeforeLayerNorm
from graphs import assert_rewrites, assert_unchanged

HEAD = """g (float[N, M, 2] x, float[N, M, 2] r) => (float[N, M, 2] z)
          <float[2] s = {1.5, 0.5}, float[2] b = {0.25, -1.0}>"""


def test_rewrites() -> None:
    assert_rewrites(
        AddBeforeLayerNorm(),
        f"{HEAD} {{ y = Add(x, r)\n z = LayerNormalization(y, s, b) }}",
        f"{HEAD} {{ y = Sum(x, r)\n z = LayerNormalization(y, s, b) }}",
    )


def test_an_addition_with_other_uses_and_a_bias() -> None:
    rest = "n = LayerNormalization(y, s)\n z = Add(n, y)"
    assert_rewrites(
        AddBeforeLayerNorm(),
        f"{HEAD} {{ h = Add(x, b)\n y = Add(h, r)\n {rest} }}",
        f"{HEAD} {{ h = Add(x, b)\n y = Sum(h, r)\n {rest} }}",
    )


NO_REWRITES = {
    "no_normalization": f"{HEAD} {{ y = Add(x, r)\n z = Relu(y) }}",
    "a_computed_scale": """g (float[N, 2] x, float[2] p) => (float[N, 2] z)
        { y = Add(p, p)
          z = LayerNormalization(x, y) }""",
    "half_precision": """g (float16[N, 2] x, float16[2] p) => (float16[N, 2] z)
        { y = Add(x, x)
          z = LayerNormalization(y, p) }""",
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    assert_unchanged(AddBeforeLayerNorm(), NO_REWRITES[name])

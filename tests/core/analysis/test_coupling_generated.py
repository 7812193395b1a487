"""On random networks: what is cut equals what is masked, whatever indices go."""

import numpy as np
import onnx_ir as ir
import pytest
from generated import generate
from networks import assert_masked_equals_cut, cut, groups_of, sizes

TOLERANCE = 2e-5
"""Other sums are added up in another order; the networks are up to 20 layers deep."""


def check(seed):
    """Check one network; return how many groups it had to offer."""
    rng = np.random.default_rng(seed)
    available = sizes(groups_of(generate(seed)))
    removed = {}
    for name, size in available.items():
        count = int(rng.integers(0, size))
        if count:
            removed[name] = sorted(rng.choice(size, count, replace=False).tolist())
    if removed:
        assert_masked_equals_cut(lambda: generate(seed), removed, TOLERANCE, seed=seed)
    return len(available)


@pytest.mark.parametrize("chunk", range(15))
def test_cut_equals_masked(chunk):
    found = [check(seed) for seed in range(20 * chunk, 20 * chunk + 20)]
    # The networks have something to cut.
    assert sum(found) > 20


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(100))
def test_cut_equals_masked_on_many(chunk):
    found = [check(seed) for seed in range(1000 + 25 * chunk, 1025 + 25 * chunk)]
    assert sum(found) > 40


@pytest.mark.parametrize("seed", range(40))
def test_keeping_everything_gives_the_same_bytes(seed):
    model = generate(seed)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert ir.to_proto(cut(model, {})).SerializeToString(deterministic=True) == before

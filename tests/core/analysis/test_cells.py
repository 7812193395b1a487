"""The algebra of cells: axes that were unified have equal rows, whatever is removed."""

import numpy as np
import pytest

from graphopt.analysis.coupling.cells import ALWAYS, Cells, concatenate


def alive(cells, rows, dead):
    """Return which indices are alive when the atoms ``dead`` are not."""
    return ~np.isin(cells.resolve(rows), dead).any(axis=1)


def families(cells, rows):
    """Return the free atoms of an axis, column by column, as runs of first appearance."""
    rows = cells.resolve(rows)
    numbers: dict[int, int] = {}
    return [[numbers.setdefault(int(atom), len(numbers)) for atom in row] for row in rows]


def test_unified_axes_are_the_same_index_by_index():
    cells = Cells()
    a, b, c = cells.fresh(4), cells.fresh(4), cells.fresh(4)
    cells.unify(a, b)
    cells.unify(b, c[::-1])

    assert np.array_equal(cells.resolve(a), cells.resolve(c)[::-1])
    assert len(np.unique(cells.resolve(a))) == 4


def test_split_makes_heads_of_a_flat_axis_wherever_it_is_used():
    cells = Cells()
    flat = cells.fresh(6)
    elsewhere = flat[[5, 0]]
    heads, width = cells.split(flat, 2)

    assert heads.shape == (3, 1)
    assert width.shape == (2, 1)
    dead = cells.resolve(heads)[1]
    assert alive(cells, flat, dead).tolist() == [True, True, False, False, True, True]
    assert alive(cells, elsewhere, cells.resolve(width)[1]).tolist() == [False, True]


def test_merge_and_split_are_inverse():
    cells = Cells()
    heads, width = cells.fresh(3), cells.fresh(4)
    again_heads, again_width = cells.split(cells.merge(heads, width), 4)

    assert np.array_equal(again_heads, heads)
    assert np.array_equal(again_width, width)


def test_two_factorizations_meet_in_the_common_one():
    cells = Cells()
    flat, other = cells.fresh(24), cells.fresh(24)
    cells.split(flat, 2)  # [12, 2]
    cells.split(other, 6)  # [4, 6]
    cells.unify(flat, other)

    rows = cells.resolve(flat)
    assert rows.shape == (24, 3)
    assert [len(np.unique(rows[:, j])) for j in range(3)] == [4, 3, 2]
    assert np.array_equal(rows, cells.resolve(other))


def test_concatenated_parts_keep_their_own_atoms():
    cells = Cells()
    heads, width, plain = cells.fresh(2), cells.fresh(3), cells.fresh(5)
    whole, other = concatenate([cells.merge(heads, width), plain]), cells.fresh(11)
    cells.unify(whole, other)

    assert alive(cells, other, cells.resolve(heads)[0]).tolist() == [False] * 3 + [True] * 8
    assert alive(cells, other, cells.resolve(plain)[4]).tolist() == [True] * 10 + [False]


def test_parts_that_are_split_together_share_the_faster_factor_only():
    cells = Cells()
    query, key = cells.fresh(6), cells.fresh(4)
    heads, width = cells.split(concatenate([query, key]), 2)

    dead = cells.resolve(width)[1]
    assert alive(cells, query, dead).tolist() == [True, False] * 3
    assert alive(cells, key, dead).tolist() == [True, False] * 2
    free = cells.resolve(heads)[:, 0]
    assert alive(cells, query, free[1]).tolist() == [True, True, False, False, True, True]


def test_a_product_beside_a_plain_part_is_split_exactly():
    cells = Cells()
    heads, width, plain = cells.fresh(2), cells.fresh(3), cells.fresh(6)
    slow, fast = cells.split(concatenate([cells.merge(heads, width), plain]), 3)

    assert len(slow) == 4
    assert alive(cells, slow, cells.resolve(heads)[1]).tolist() == [True, False, True, True]
    assert np.array_equal(cells.resolve(fast), cells.resolve(width))
    assert alive(cells, plain, cells.resolve(width)[0]).tolist() == [False, True, True] * 2


def test_freezing_reaches_everything_that_is_the_same():
    cells = Cells()
    flat, other = cells.fresh(6), cells.fresh(6)
    heads, width = cells.split(flat, 2)
    cells.unify(other, flat)
    cells.freeze(width, "softmax")

    assert set(cells.reasons(cells.resolve(width)[:, 0])) == {"softmax"}
    assert np.array_equal(cells.resolve(other)[:, 0], np.repeat(cells.resolve(heads)[:, 0], 2))


def test_a_frozen_axis_freezes_its_equal_with_its_reason():
    cells = Cells()
    flat = cells.fresh(6)
    heads, width = cells.split(flat, 2)
    cells.unify(flat, cells.frozen(6, "graph output 'y'"))

    for rows in (heads, width):
        assert set(cells.reasons(cells.resolve(rows)[:, 0])) == {"graph output 'y'"}


def test_freezing_before_or_after_a_definition_is_the_same():
    cells = Cells()
    flat = cells.fresh(6)
    cells.freeze(flat, "graph input")
    heads, width = cells.split(flat, 2)

    assert cells.is_frozen(cells.resolve(heads)).all()
    assert cells.is_frozen(cells.resolve(width)).all()


def test_an_index_that_contains_itself_becomes_one_atom():
    cells = Cells()
    a, b = cells.fresh(2), cells.fresh(3)
    merged = cells.merge(a, b)
    cells.unify(merged[:3], b)  # a[0] and b[i]  ==  b[i]

    assert len({tuple(row) for row in cells.resolve(merged[:3]).tolist()}) == 1


def test_the_result_does_not_depend_on_the_order_of_unions():
    results = []
    for order in ([0, 1, 2], [2, 1, 0]):
        cells = Cells()
        axes = [cells.fresh(5) for _ in range(4)]
        for k in order:
            cells.unify(axes[k], axes[k + 1])
        results.append([cells.resolve(axis).tolist() for axis in axes])
    assert results[0] == results[1]


@pytest.mark.parametrize("seed", range(300))
def test_random_programs_keep_their_equations(seed):
    rng = np.random.default_rng(seed)
    cells = Cells()
    axes = [cells.fresh(int(n)) for n in rng.choice([2, 3, 4, 6, 8, 12], 4)]
    same, products = [], []
    for _ in range(12):
        kind = rng.choice(["unify", "split", "merge", "concatenate", "pick", "freeze"])
        a, b = (axes[int(k)] for k in rng.integers(len(axes), size=2))
        if kind == "unify":
            twin = [axis for axis in axes if len(axis) == len(a) and axis is not a]
            if twin:
                other = twin[int(rng.integers(len(twin)))]
                cells.unify(a, other)
                same.append((a, other))
        elif kind == "split":
            stride = int(rng.choice([d for d in range(1, len(a) + 1) if len(a) % d == 0]))
            slow, fast = cells.split(a, stride)
            products.append((a, slow, fast))
            axes += [slow, fast]
        elif kind == "merge" and len(a) * len(b) <= 96:
            merged = cells.merge(a, b)
            products.append((merged, a, b))
            axes.append(merged)
        elif kind == "concatenate" and len(a) + len(b) <= 96:
            axes.append(concatenate([a, b]))
        elif kind == "pick":
            axes.append(a[rng.integers(len(a), size=len(a))])
        elif kind == "freeze" and rng.random() < 0.3:
            cells.freeze(a[:1], "picked")
    atoms = np.unique(np.concatenate([cells.resolve(axis).ravel() for axis in axes]))
    free = atoms[~cells.is_frozen(atoms) & (atoms != ALWAYS)]
    for _ in range(8):
        dead = free[rng.random(len(free)) < rng.choice([0.1, 0.3, 0.7])]
        for a, b in same:
            assert np.array_equal(alive(cells, a, dead), alive(cells, b, dead))
        for whole, slow, fast in products:
            grid = alive(cells, slow, dead)[:, None] & alive(cells, fast, dead)[None]
            assert np.array_equal(alive(cells, whole, dead), grid.ravel())

"""Before -> after tests of EliminateSequences."""

import pytest
from graphopt.passes.simplify.eliminate_sequences import MAX_PARTS, EliminateSequences
from graphs import assert_rewrites, assert_unchanged

INPUTS = "float[N, 6] x, float[N, 6] z, int64 fed, int64[2] sizes, float[N, 100] wide"
WEIGHTS = """int64 i0 = {0}, int64 i1 = {1}, int64 back = {-1}, int64 two = {2},
    int64 four = {4}, int64[3] parts = {1, 2, 3}, int64[3] less = {1, 2, 2}, int64 i3 = {3}"""


def graph(lines: str, outputs: str = "float[N, P] y", more: str = "") -> str:
    return f"g ({INPUTS}) => ({outputs}) <{WEIGHTS}{more}> {{ {lines} }}"


SPLITS = {
    "a_size": (
        """s = SplitToSequence <axis=1> (x, two)
           a = SequenceAt(s, back)
           b = SequenceAt(s, i0)
           y = Concat <axis=1> (a, b)""",
        "b, s_1, a = Split <axis=1> (x, s_sizes)\n y = Concat <axis=1> (a, b)",
        "2, 2, 2",
        4,
    ),
    "a_size_that_does_not_come_out_even": (
        """s = SplitToSequence <axis=-1> (x, four)
           a = SequenceAt(s, i1)
           b = SequenceAt(s, i0)
           y = Concat <axis=1> (a, b)""",
        "b, a = Split <axis=1> (x, s_sizes)\n y = Concat <axis=1> (a, b)",
        "4, 2",
        6,
    ),
    "sizes": (
        """s = SplitToSequence <axis=1, keepdims=0> (x, parts)
           a = SequenceAt(s, i1)
           b = SequenceAt(s, two)
           y = Concat <axis=1> (a, b)""",
        "s_0, a, b = Split <axis=1> (x, s_sizes)\n y = Concat <axis=1> (a, b)",
        "1, 2, 3",
        5,
    ),
    "ones": (
        """s = SplitToSequence <axis=1> (x)
           a = SequenceAt(s, i1)
           b = SequenceAt(s, i1)
           y = Concat <axis=1> (a, b)""",
        "s_0, b, s_2, s_3, s_4, s_5 = Split <axis=1> (x, s_sizes)\ny = Concat <axis=1> (b, b)",
        "1, 1, 1, 1, 1, 1",
        2,
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_split(name: str) -> None:
    before, after, sizes, width = SPLITS[name]
    outputs = f"float[N, {width}] y"
    count = sizes.count(",") + 1
    more = f", int64[{count}] s_sizes = {{{sizes}}}"
    assert_rewrites(EliminateSequences(), graph(before, outputs), graph(after, outputs, more))


def test_split_without_its_axis() -> None:
    before = """s = SplitToSequence <axis=1, keepdims=0> (x)
                a = SequenceAt(s, back)
                y = Neg(a)"""
    after = "a = Gather <axis=1> (x, position)\n y = Neg(a)"
    outputs, more = "float[N] y", ", int64 position = {5}"
    original, expected = graph(before, outputs), graph(after, outputs, more)
    assert_rewrites(EliminateSequences(), original, expected.replace("position", "_position"))


def test_sizes_are_an_attribute_before_version_13() -> None:
    head = "g (float[N, 6] x) => (float[N, P] y) <int64 two = {2}, int64 i0 = {0}> {"
    assert_rewrites(
        EliminateSequences(),
        f"""{head} s = SplitToSequence <axis=1> (x, two)
                   a = SequenceAt(s, i0)
                   y = Neg(a) }}""",
        f"""{head} a, s_1, s_2 = Split <axis=1, split=[2, 2, 2]> (x)
                   y = Neg(a) }}""",
        opset=12,
    )


CONSTRUCTED = {
    "at": ("a = SequenceAt(s, back)\n y = Neg(a)", "y = Neg(z)", "float[N, 6] y", ""),
    "concat": (
        "y = ConcatFromSequence <axis=-1> (s)",
        "y = Concat <axis=-1> (x, z)",
        "float[N, 12] y",
        "",
    ),
    "length": (
        "n = SequenceLength(s)\n y = Neg(n)",
        "y = Neg(n)",
        "int64 y",
        ", int64 n = {2}",
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_construct(name: str) -> None:
    lines, after, outputs, more = CONSTRUCTED[name]
    construct = "s = SequenceConstruct(x, z)"
    assert_rewrites(
        EliminateSequences(),
        graph(f"{construct}\n {lines}", outputs),
        graph(f"{construct}\n {after}", outputs, more),
    )


@pytest.mark.parametrize(
    "split", ["SplitToSequence <axis=1> (x, parts)", "SplitToSequence <axis=-1> (x)"]
)
def test_split_and_concat(split: str) -> None:
    outputs = "float[N, 6] y"
    lines = f"s = {split}"
    assert_rewrites(
        EliminateSequences(),
        graph(f"{lines}\n a = ConcatFromSequence <axis=1> (s)\n y = Neg(a)", outputs),
        graph(f"{lines}\n y = Neg(x)", outputs),
    )


def test_length_of_a_split() -> None:
    split = "s = SplitToSequence <axis=1> (x, four)"
    assert_rewrites(
        EliminateSequences(),
        graph(f"{split}\n n = SequenceLength(s)\n y = Neg(n)", "int64 y"),
        graph(f"{split}\n y = Neg(n)", "int64 y", ", int64 n = {2}"),
    )


REFUSED = {
    "3_a_number_without_its_axis": (
        "s = SplitToSequence <axis=1, keepdims=0> (x, two)\n y = SequenceAt(s, i0)",
        "squeezes",
    ),
    "1_a_symbolic_axis": (
        "s = SplitToSequence <axis=0> (x, two)\n y = SequenceAt(s, i0)",
        "sizes of the parts",
    ),
    "1_fed_sizes": (
        "s = SplitToSequence <axis=1> (x, sizes)\n y = SequenceAt(s, i0)",
        "not the whole",
    ),
    "1_sizes_of_less": (
        """k = Identity(less)
           s = SplitToSequence <axis=1> (x, k)
           y = SequenceAt(s, i0)""",
        "not the whole",
    ),
    "1_nothing_to_split_by": (
        """k = Identity(i0)
           s = SplitToSequence <axis=1> (x, k)
           y = SequenceAt(s, i0)""",
        "too many",
    ),
    "2_a_fed_position": (
        "s = SplitToSequence <axis=1> (x, two)\n y = SequenceAt(s, fed)",
        "position",
    ),
    "2_a_position_outside": (
        "s = SplitToSequence <axis=1> (x, two)\n y = SequenceAt(s, i3)",
        "position",
    ),
    "2_a_fed_position_in_a_construction": (
        "s = SequenceConstruct(x, z)\n y = SequenceAt(s, fed)",
        "position",
    ),
    "2_a_position_outside_of_a_construction": (
        "s = SequenceConstruct(x, z)\n y = SequenceAt(s, two)",
        "position",
    ),
    "3_a_use_of_the_whole": (
        """s = SplitToSequence <axis=1> (x, two)
           t = SequenceErase(s, i0)
           y = SequenceAt(t, i0)""",
        "as a whole",
    ),
    "4_a_new_axis": (
        "s = SequenceConstruct(x, z)\n y = ConcatFromSequence <axis=1, new_axis=1> (s)",
        "new axis",
    ),
    "4_another_axis": (
        "s = SplitToSequence <axis=1> (x, two)\n y = ConcatFromSequence <axis=0> (s)",
        "another axis",
    ),
    "5_many_parts": (
        "s = SplitToSequence <axis=1> (wide)\n y = SequenceAt(s, i0)",
        "too many",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    lines, reason = REFUSED[name]
    rank = 3 if name == "4_a_new_axis" else 2
    outputs = f"float[{', '.join('ABC'[:rank])}] y"
    assert_unchanged(EliminateSequences(), graph(lines, outputs), reason=reason)


def test_4_parts_without_their_axis() -> None:
    lines = """s = SplitToSequence <axis=1, keepdims=0> (x)
               y = ConcatFromSequence <axis=0> (s)"""
    assert_unchanged(EliminateSequences(), graph(lines, "float[A] y"), reason="another axis")


def test_5_a_long_construction_stays() -> None:
    items = ", ".join(["x"] * (MAX_PARTS + 1))
    lines = f"s = SequenceConstruct({items})\n y = SequenceAt(s, i0)"
    assert_unchanged(EliminateSequences(), graph(lines))


def test_a_sequence_that_is_an_output_stays() -> None:
    lines = "s = SplitToSequence <axis=1> (x, two)\n y = SequenceAt(s, i0)"
    text = graph(lines, "float[N, P] y, seq(float[N, P]) s")
    assert_unchanged(EliminateSequences(), text)


def test_inside_a_branch() -> None:
    head = "g (bool c, float[N, 6] x) => (float[N, 2] y) <int64 two = {2}, int64 i0 = {0}"
    outer = "y = If (c) <then_branch = t () => (float[N, 2] p) { %s },"
    rest = (
        "else_branch = e() => (float[N, 2] q) {w, v, q = Split <axis=1, num_outputs=3>(x) }>"
    )
    split = "s = SplitToSequence <axis=1> (x, two)"
    assert_rewrites(
        EliminateSequences(),
        f"{head}> {{ {split}\n {outer % 'p = SequenceAt(s, i0)'} {rest} }}",
        f"""{head}, int64[3] s_sizes = {{2, 2, 2}}>
            {{
               p_g1, s_1, s_2 = Split <axis=1> (x, s_sizes)
               {outer % "p = Identity(p_g1)"} {rest} }}""",
    )

"""The text of pipelines: what is written is what is run."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt import pipeline, registry
from graphopt.errors import PipelineError
from graphopt.passbase import Pass
from graphopt.pipeline import check_order, format_pipeline, parse, without_last_optional
from graphopt.rewrite import Fixpoint

PASSES = """
import dataclasses
import enum
from typing import ClassVar, Literal
from graphopt.passbase import Pass, PassResult, Promise
from graphopt.rewrite import RulePass

class Colour(enum.Enum):
    RED = "red"
    DEEP_BLUE = "deep blue"

class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2

@dataclasses.dataclass(frozen=True)
class Everything(Pass):
    name: ClassVar[str] = "everything"
    promise: ClassVar[Promise] = Promise.EXACT
    max_bytes: int = 1024
    ratio: float = 0.5
    is_fast: bool = False
    text: str = "plain"
    maybe: str | None = None
    maybe_number: int | None = 7
    kind: Literal["a", "b", "none"] = "a"
    bits: Literal[4, 8] = 8
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    patterns: tuple[str, ...] | None = None

    def run(self, model, context):
        return PassResult(model, modified=False)

@dataclasses.dataclass(frozen=True)
class Required(Pass):
    name: ClassVar[str] = "required"
    promise: ClassVar[Promise] = Promise.EXACT
    size: int

    def run(self, model, context):
        return PassResult(model, modified=False)

@dataclasses.dataclass(frozen=True)
class Strict(Required):
    name: ClassVar[str] = "strict"

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"size must be >= 0, got {self.size}")

@dataclasses.dataclass(frozen=True)
class Ruled(RulePass):
    name: ClassVar[str] = "ruled"
    promise: ClassVar[Promise] = Promise.EXACT
    depth: int = 1

    def rules(self, context):
        return []

@dataclasses.dataclass(frozen=True)
class Late(Ruled):
    name: ClassVar[str] = "late"
    after: ClassVar[frozenset[str]] = frozenset({"required", "everything"})
"""
NAMES = {
    "everything": "Everything",
    "required": "Required",
    "strict": "Strict",
    "ruled": "Ruled",
    "late": "Late",
}


@pytest.fixture
def passes(plugin) -> dict[str, type[Pass]]:
    plugin(PASSES, NAMES)
    return {name: registry.find(name) for name in NAMES}


TEXTS = [
    "",
    "plain",
    "two words",
    " edges ",
    "none",
    "None",
    'say "no"',
    "a,b",
    "{x=1}",
    "a\\b",
]
TEXTS += ["[y]", "(z)", "new\nline", "ü", "1K", "true", "\\", '"', "é\u2003", "a=b"]


def random_pass(rng: random.Random, passes: dict[str, type[Pass]]) -> Pass:
    if rng.random() < 0.2:
        ruled = passes["ruled"]
        return Fixpoint(tuple(ruled(rng.randint(0, 3)) for _ in range(rng.randint(1, 3))))
    kind = passes["everything"]
    choices = {
        "max_bytes": [0, -5, 1 << 40, 1023],
        "ratio": [0.1, -1e-30, 1e300, float("inf"), 3.0, 0.1 + 0.2],
        "is_fast": [True, False],
        "text": TEXTS,
        "maybe": [None, *TEXTS],
        "maybe_number": [None, 0],
        "kind": ["a", "b", "none"],
        "bits": [4, 8],
        "colour": list(kind.__dataclass_fields__["colour"].default.__class__),
        "level": list(kind.__dataclass_fields__["level"].default.__class__),
        "names": [(), ("x",), tuple(rng.choices(TEXTS, k=3))],
        "sizes": [(), (5,), (1, -2, 3)],
        "patterns": [None, (), ("none", "*.weight")],
    }
    chosen = rng.sample(sorted(choices), k=rng.randint(0, 4))
    return kind(**{name: rng.choice(choices[name]) for name in chosen})


def test_ten_thousand_generated_pipelines_round_trip(passes) -> None:
    rng = random.Random(0)
    texts = set()
    for _ in range(10_000):
        wanted = [random_pass(rng, passes) for _ in range(rng.randint(1, 4))]
        text = format_pipeline(wanted)
        texts.add(text)
        assert parse(text) == wanted, text
        assert format_pipeline(parse(text)) == text
    assert len(texts) > 5_000


@settings(
    deadline=None,
    # The passes of the fixture are values; and a busy machine makes texts slowly.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=st.text(), parts=st.lists(st.text()))
def test_any_text_can_be_an_option(passes, text: str, parts: list[str]) -> None:
    wanted = passes["everything"](maybe=text, names=tuple(parts))
    assert parse(format_pipeline([wanted])) == [wanted]


def test_options_are_read_with_their_types(passes) -> None:
    (everything,) = parse(
        "everything{max-bytes=2M, ratio=1e-3, is-fast=TRUE, maybe=none, maybe-number=none,"
        " kind=b, bits=4, colour=deep blue, level=2, names=(a, b,), sizes=3, patterns=()}"
    )
    kind = passes["everything"]
    fields = kind.__dataclass_fields__
    assert everything == kind(
        max_bytes=2 << 20,
        ratio=1e-3,
        is_fast=True,
        maybe=None,
        maybe_number=None,
        kind="b",
        bits=4,
        colour=type(fields["colour"].default)("deep blue"),
        level=type(fields["level"].default)(2),
        names=("a", "b"),
        sizes=(3,),
        patterns=(),
    )


def test_an_underscore_and_spaces_are_accepted(passes) -> None:
    assert parse(" everything { max_bytes = 3 } , ruled ") == [
        passes["everything"](max_bytes=3),
        passes["ruled"](),
    ]


def test_only_options_that_differ_are_written(passes) -> None:
    everything = passes["everything"](max_bytes=1024, ratio=np.float64(0.25))
    assert format_pipeline([everything]) == "everything{ratio=0.25}"
    assert format_pipeline([passes["everything"]()]) == "everything"
    assert format_pipeline([passes["required"](3)]) == "required{size=3}"


def test_brackets_drive_rule_passes_together(passes) -> None:
    ruled = passes["ruled"]
    assert parse("[ruled,[ruled{depth=2}]],ruled") == [
        Fixpoint((ruled(), ruled(2))),
        ruled(),
    ]


@pytest.mark.parametrize("preset", pipeline.PRESETS)
def test_presets_parse_round_trip_and_are_in_order(preset: str) -> None:
    chosen = parse(preset)
    assert chosen
    assert parse(format_pipeline(chosen)) == chosen
    check_order(chosen)


def test_no_pass_has_the_name_of_a_preset() -> None:
    assert not set(pipeline.PRESETS) & set(registry.names())


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "empty", "Try 'default'."),
        ("  ", "empty", "Try 'default'."),
        ("everythin", "unknown-pass", "Did you mean 'everything'?"),
        ("defualt", "unknown-pass", "Did you mean 'default'?"),
        ("everything{max-byte=1}", "unknown-option", "Did you mean 'max-bytes'?"),
        ("everything{max-bytes=x}", "bad-option", "'x' is not an integer"),
        ("everything{max-bytes=M}", "bad-option", "'M' is not an integer"),
        ("everything{max-bytes=1.5}", "bad-option", "'1.5' is not an integer"),
        ("everything{ratio=half}", "bad-option", "'half' is not a number"),
        ("everything{is-fast=yes}", "bad-option", "'yes' is neither true nor false"),
        ("everything{kind=c}", "bad-option", "'c' is not one of a, b, none"),
        ("everything{bits=5}", "bad-option", "'5' is not one of 4, 8"),
        ("everything{colour=green}", "bad-option", "'green' is not one of red, deep blue"),
        ("everything{ratio=(1,2)}", "bad-option", "takes one value, not a list"),
        ("everything{sizes=(1,x)}", "bad-option", "'x' is not an integer"),
        ("everything{ratio=1,ratio=2}", "syntax", "'ratio' is given twice"),
        ("everything{ratio}", "syntax", "expected '=' after 'ratio', at character 17"),
        ("everything{=1}", "syntax", "expected an option, found '='"),
        ("everything{ratio=}", "syntax", "expected a value, found '}'"),
        ("everything{ratio=1", "syntax", "expected ',' or '}'"),
        ("everything{text=\"open}", "syntax", "the quote is not closed"),
        ("everything{names=(a", "syntax", "expected ',' or ')'"),
        ("everything}", "syntax", "expected ',' or the end, found '}'"),
        ("everything,", "syntax", "expected a pass, found the end"),
        (",everything", "syntax", "expected a pass, found ','"),
        ("[ruled", "syntax", "expected ',' or ']'"),
        ("[]", "syntax", "expected a pass, found ']'"),
        ("[everything]", "syntax", "'everything' has no rules"),
        ("[" * 5000, "syntax", "nested too deeply"),
        ("default{ratio=1}", "syntax", "the preset 'default' takes no options"),
        ("required", "bad-option", "required: "),
        ("strict{size=-1}", "bad-option", "size must be >= 0, got -1"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(passes, text: str, code: str, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        parse(text)
    assert caught.value.code == f"pipeline/{code}"
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_pass_that_must_come_later_is_refused_before_the_first(passes) -> None:
    with pytest.raises(PipelineError, match="Put 'everything' first"):
        check_order(parse("ruled,late,everything"))
    with pytest.raises(PipelineError, match="Put 'everything' first"):
        check_order(parse("[ruled,late],everything"))
    check_order(parse("everything,late,required{size=1},late")[:2])
    check_order(parse("everything,late,everything"))  # once before is enough
    check_order(parse("late,ruled"))


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("auto", ""),
        ("int8-static", "{schemes=(static)}"),
        ("int8-dynamic", "{schemes=(dynamic)}"),
        ("half", "{schemes=(dynamic)}"),
    ],
)
def test_presets_that_quantize_search_where_there_is_a_target(
    preset: str, options: str
) -> None:
    *before, last = parse(f"{preset},eliminate-dead-code", has_target=True)[:-1]
    assert format_pipeline([last]) == f"quantize-auto{options}"
    given = parse(preset)
    assert before == given[: len(before)]
    assert not any(pass_.name.startswith("quantize") for pass_ in before)


@pytest.mark.parametrize("text", ["default", "prune", "default,quantize-static"])
def test_other_pipelines_do_what_they_say_target_or_not(text: str) -> None:
    assert parse(text, has_target=True) == parse(text)


class TestWithout:
    def test_passes_are_left_out_by_name_in_brackets_too(self) -> None:
        text = "infer-shapes,[fold-constants,eliminate-identity],eliminate-noop,infer-shapes"
        left = pipeline.without(pipeline.parse(text), ["infer-shapes", "eliminate-identity"])
        assert pipeline.format_pipeline(left) == "[fold-constants],eliminate-noop"

    def test_brackets_that_are_empty_go(self) -> None:
        text = "[fold-constants],eliminate-noop"
        left = pipeline.without(pipeline.parse(text), ["fold-constants"])
        assert pipeline.format_pipeline(left) == "eliminate-noop"

    def test_no_name_leaves_all(self) -> None:
        passes = pipeline.parse("default")
        assert pipeline.without(passes, []) == passes

    @pytest.mark.parametrize(
        ("names", "code", "said"),
        [
            (["fold-constant"], "not-in-pipeline", "Did you mean 'fold-constants'?"),
            (["fold-constants", "eliminate-noop"], "empty", "no pass of the pipeline is left"),
        ],
    )
    def test_a_mistake_is_named(self, names: list[str], code: str, said: str) -> None:
        with pytest.raises(PipelineError) as caught:
            pipeline.without(pipeline.parse("[fold-constants],eliminate-noop"), names)
        assert caught.value.code == f"pipeline/{code}"
        assert said in str(caught.value)


def test_exact_passes_in_brackets_stay_when_a_close_one_does_not_pay() -> None:
    passes = pipeline.parse("[eliminate-identity,fuse-conv-batchnorm,eliminate-dead-code]")

    left = without_last_optional(passes)

    assert left is not None
    text, rest = left
    assert text == "fuse-conv-batchnorm"
    assert pipeline.format_pipeline(rest) == "[eliminate-identity,eliminate-dead-code]"
    assert without_last_optional(rest) is None

"""The manager: order, samples, instruments, steps, and failures that name the pass."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from typing import ClassVar

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import ModelError, PassError, PipelineError, SamplesError
from graphopt.manager import PassManager
from graphopt.model_io.collector import OBJECTS, collection_rare
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.records import nodes_in
from graphopt.samples import Samples

TEXT = "g (float[4] x) => (float[4] y) { y = Relu(x) }"


@dataclasses.dataclass(frozen=True)
class Marks(Pass):
    """Sets ``times`` attributes, one application each."""

    name: ClassVar[str] = "marks"
    promise: ClassVar[Promise] = Promise.EXACT

    times: int = 1

    def run(self, model: ir.Model, context: Context) -> PassResult:
        rewriter = context.rewriter(model, self)
        (node,) = model.graph
        first = len(node.attributes)
        for index in range(self.times):
            name = f"mark{first + index}"
            rewriter.apply("mark", node, lambda e, n=name: e.set_attribute(node, n, 1))
        return PassResult(model, modified=self.times > 0, summary=f"{self.times} marks")


@dataclasses.dataclass(frozen=True)
class Fails(Marks):
    name: ClassVar[str] = "fails"

    error: type[BaseException] = ZeroDivisionError

    def run(self, model: ir.Model, context: Context) -> PassResult:
        super().run(model, context)
        raise self.error("on", "purpose") if self.error is ModelError else self.error("oh no")


@dataclasses.dataclass(frozen=True)
class Measures(Marks):
    name: ClassVar[str] = "measures"
    needs_samples: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Late(Marks):
    name: ClassVar[str] = "late"
    after: ClassVar[frozenset[str]] = frozenset({"marks"})


@dataclasses.dataclass(frozen=True)
class Replaces(Pass):
    name: ClassVar[str] = "replaces"
    promise: ClassVar[Promise] = Promise.LOSSY

    def run(self, model: ir.Model, context: Context) -> PassResult:
        return PassResult(graphs.load(TEXT.replace("Relu", "Abs")), modified=True)


def test_steps_say_which_rewrites_a_pass_made_and_how_long_it_took() -> None:
    model = graphs.load(TEXT)
    passes = [Marks(2), Marks(0), Marks(3)]
    _, steps = PassManager(passes).run(model, Context())
    assert [step.rewrites for step in steps] == [range(1, 3), range(3, 3), range(3, 6)]
    assert [step.index for step in steps] == [0, 1, 2]
    assert [step.pass_ for step in steps] == passes
    assert [step.label for step in steps] == [
        "marks{times=2}",
        "marks{times=0}",
        "marks{times=3}",
    ]
    assert all(step.wall_s > 0 and step.cpu_s >= 0 for step in steps)
    assert steps[0].started_s + steps[0].wall_s <= steps[1].started_s


def test_instruments_are_called_between_passes_in_order() -> None:
    calls: list[tuple[str, str | None, str | None, int]] = []

    def instrument(who: str):
        def call(previous, model, next_):
            seen = len(next(iter(model.graph)).attributes)
            calls.append((who, previous and previous.label, next_ and next_.name, seen))

        return call

    PassManager([Marks(), Late()], [instrument("a"), instrument("b")]).run(
        graphs.load(TEXT), Context()
    )
    expected = [(None, "marks", 0), ("marks", "late", 1), ("late", None, 2)]
    assert calls == [(who, *call) for call in expected for who in "ab"]


def test_the_model_that_a_pass_returns_is_the_one_that_goes_on() -> None:
    seen = []
    model, _ = PassManager(
        [Replaces(), Marks()],
        [lambda p, model, n: seen.append(next(iter(model.graph)).op_type)],
    ).run(graphs.load(TEXT), Context())
    assert seen == ["Relu", "Abs", "Abs"]
    assert next(iter(model.graph)).attributes.keys() == {"mark0"}


def test_a_wrong_order_is_refused_at_once() -> None:
    with pytest.raises(PipelineError, match="'late' stands before 'marks'"):
        PassManager([Late(), Marks()])


def test_missing_samples_are_noticed_before_the_first_pass_runs() -> None:
    model = graphs.load(TEXT)
    with pytest.raises(SamplesError, match="measures measures the model on samples"):
        PassManager([Marks(), Measures()]).run(model, Context())
    assert not next(iter(model.graph)).attributes
    context = Context(samples=Samples.from_feeds([{"x": np.zeros(4, np.float32)}]))
    PassManager([Marks(), Measures()]).run(model, context)


def test_a_pass_that_fails_is_named_with_its_last_rewrite() -> None:
    with pytest.raises(PassError) as caught:
        PassManager([Marks(), Fails(2)]).run(graphs.load(TEXT), Context())
    text = str(caught.value)
    assert "fails failed with ZeroDivisionError: oh no, after rewrite #3 fails/mark" in text
    assert caught.value.exit_code == 70
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_rewrite_that_fails_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class FailsInside(Marks):
        name: ClassVar[str] = "fails-inside"

        def run(self, model: ir.Model, context: Context) -> PassResult:
            (node,) = model.graph

            def rewrite(edit) -> None:
                edit.note("divide by nothing")
                edit.set_attribute(node, "alpha", 1 / 0)

            context.rewriter(model, self).apply("divide", node, rewrite)
            raise AssertionError("unreachable")

    with pytest.raises(PassError) as caught:
        PassManager([Marks(), FailsInside()]).run(graphs.load(TEXT), Context())
    assert "#2 fails-inside/divide at 'y': divide by nothing." in str(caught.value)


@pytest.mark.parametrize("error", [ModelError, KeyboardInterrupt, SystemExit])
def test_errors_of_the_user_and_interrupts_pass_through(error: type[BaseException]) -> None:
    with pytest.raises(error):
        PassManager([Fails(0, error)]).run(graphs.load(TEXT), Context())


def test_the_collector_is_as_it_was_behind_a_pass_that_fails() -> None:
    class Fails(Pass):
        name: ClassVar[str] = "fails"
        promise: ClassVar[Promise] = Promise.EXACT

        def run(self, model: ir.Model, context: Context) -> PassResult:
            assert gc.get_threshold()[0] == OBJECTS
            raise RuntimeError

    before = gc.get_threshold()
    with pytest.raises(PassError):
        PassManager([Fails()]).run(
            graphs.load("g (float[1] x) => (float[1] y) { y = Abs(x) }"), Context()
        )
    assert gc.get_threshold() == before


def test_two_threads_leave_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    first, second = collection_rare(), collection_rare()
    with contextlib.ExitStack() as stack:
        stack.callback(gc.set_threshold, *before)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert gc.get_threshold() == before


def test_nodes_of_subgraphs_follow_the_node_that_holds_them() -> None:
    model = graphs.load(
        """g (bool c, float[1] x) => (float[1] y)
           { a = Abs(x)
             b = If (c) <then_branch = t () => (float[1] u) { u = Neg(a) },
                         else_branch = e () => (float[1] v) { w = Exp(a)  v = Relu(w) }>
             y = Sin(b) }"""
    )
    expected = list(ir.traversal.RecursiveGraphIterator(model.graph))
    assert [node.op_type for node in expected] == ["Abs", "If", "Neg", "Exp", "Relu", "Sin"]
    assert list(nodes_in(model.graph)) == expected

"""The driver: rules are tried where something changed, until nothing is left to do."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import ClassVar

import graphs
import onnx_ir as ir
import pytest
import random_models

from graphopt.edit import Edit
from graphopt.errors import PassError
from graphopt.ledger import Ledger
from graphopt.passbase import Context, PassResult, Promise
from graphopt.rewrite import Fixpoint, Reason, Rule, RulePass, drive


@dataclasses.dataclass(frozen=True)
class Rules(RulePass):
    """A pass made of the rules it is given."""

    name: ClassVar[str] = "rules"
    promise: ClassVar[Promise] = Promise.EXACT

    given: tuple[Rule, ...] = ()

    def rules(self, context: Context) -> Sequence[Rule]:
        return self.given


@dataclasses.dataclass(frozen=True)
class OtherRules(Rules):
    name: ClassVar[str] = "other-rules"


def identity(node: ir.Node, facts):
    """y = Identity(x) -> x, where that is possible without a new node."""
    x, y = node.inputs[0], node.outputs[0]
    if y.is_graph_output() and (x.producer() is None or x.is_graph_output()):
        return Reason("it names an output")
    if y.is_graph_output() and x.producer().graph is not node.graph:
        return Reason("it names an output")

    def rewrite(edit: Edit) -> None:
        edit.replace(y, x)
        edit.remove(node)

    return rewrite


def double_negation(node: ir.Node, facts):
    """Neg(Neg(x)) -> Identity(x)."""
    inner = node.inputs[0].producer()
    if inner is None or inner.op_type != "Neg":
        return None

    def rewrite(edit: Edit) -> None:
        (new,) = edit.node("Identity", inner.inputs, before=node, like=node.outputs)
        edit.replace(node.outputs[0], new)
        edit.remove(node)

    return rewrite


def dead(node: ir.Node, facts):
    if any(value.uses() or value.is_graph_output() for value in node.outputs):
        return None
    return lambda edit: edit.remove(node)


def unnegate_absolute(node: ir.Node, facts):
    """Abs(Neg(x)) -> Abs(x)."""
    inner = node.inputs[0].producer()
    if inner is None or inner.op_type != "Neg":
        return None
    return lambda edit: edit.set_input(node, 0, inner.inputs[0])


IDENTITY = Rule("identity", ("Identity",), identity)
NEGATION = Rule("double-negation", ("Neg",), double_negation)
DEAD = Rule("dead", (), dead)
ABSOLUTE = Rule("unnegate-absolute", ("Abs",), unnegate_absolute)
ALL = (IDENTITY, NEGATION, ABSOLUTE, DEAD)


def bytes_of(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


def test_rules_enable_each_other_until_nothing_is_left() -> None:
    model = graphs.load(
        """g (float[4] x) => (float[4] y) {
            a = Neg(x) b = Identity(a) c = Neg(b) d = Identity(c) y = Relu(d) }"""
    )
    result = drive(model, [Rules(ALL)], Context())
    assert result.modified
    assert graphs.text_of(model) == graphs.text_of(
        graphs.load("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_result_computes_the_same_and_a_second_run_does_nothing(seed: int) -> None:
    model = random_models.model(random.Random(seed))
    feeds = graphs.random_feeds(model, seed)
    before, text = graphs.run(model, feeds), bytes_of(model)
    result = drive(model, [Rules(ALL)], Context())
    assert result.modified == (bytes_of(model) != text)
    graphs.check(model)
    random_models.assert_consistent(model)
    graphs.assert_same_bits(graphs.run(model, feeds), before)
    after = bytes_of(model)
    again = drive(model, [Rules(ALL)], Context())
    assert not again.modified
    assert bytes_of(model) == after


@pytest.mark.parametrize("seed", range(25))
def test_a_limit_makes_exactly_the_first_rewrites_of_the_whole_run(seed: int) -> None:
    passes = [Rules((IDENTITY, NEGATION)), OtherRules((ABSOLUTE, DEAD))]
    whole, context = random_models.model(random.Random(seed)), Context()
    drive(whole, passes, context)
    entries = context.ledger.applications
    seen = set()
    for limit in range(len(entries) + 1):
        model, limited = (
            random_models.model(random.Random(seed)),
            Context(ledger=Ledger(limit)),
        )
        result = drive(model, passes, limited)
        assert limited.ledger.applications == entries[:limit]
        assert [entry.number for entry in entries[:limit]] == list(range(1, limit + 1))
        assert result.modified == (limit > 0)
        graphs.check(model)
        seen.add(bytes_of(model))
    assert bytes_of(model) == bytes_of(whole)
    assert len(seen) == len(entries) + 1  # each rewrite changes the file


def visits(model: ir.Model, *rules: Rule) -> list[str]:
    """Drive a rule that only watches together with ``rules``; return the nodes it saw."""
    seen: list[str] = []

    def watch(node: ir.Node, facts):
        seen.append(node.outputs[0].name)

    drive(model, [Rules((Rule("watch", (), watch), *rules))], Context())
    return seen


def test_only_neighbours_of_a_change_are_visited_again() -> None:
    chain = " ".join(f"v{i} = Relu(v{i - 1})" for i in range(1, 40))
    model = graphs.load(
        f"g (float[4] x) => (float[4] y) {{ v0 = Relu(x) {chain} i = Identity(v39)"
        " a = Relu(i) y = Exp(a) }"
    )
    every = [f"v{i}" for i in range(40)]
    assert visits(model, IDENTITY) == [
        *[*every, "i", "a", "y"],  # all
        *["v39", "a"],  # what fed the Identity, and what it feeds now
        *[*every, "a", "y"],  # all that are left, to be sure
    ]


def test_without_a_change_every_node_is_visited_once() -> None:
    model = graphs.load("g (float[4] x) => (float[4] y) { a = Relu(x) b = Exp(a) y = Abs(b) }")
    assert visits(model) == ["a", "b", "y"]


def test_a_value_that_lost_a_use_gets_its_other_user_looked_at_again() -> None:
    model = graphs.load(
        """g (float[4] x) => (float[4] y) {
            s = Neg(x) y = Relu(s) gone = Exp(s) }"""
    )
    seen: list[tuple[str, int]] = []

    def only_use(node: ir.Node, facts):
        seen.append((node.outputs[0].name, len(node.inputs[0].uses())))

    drive(model, [Rules((Rule("only-use", ("Relu",), only_use), DEAD))], Context())
    assert seen == [("y", 2), ("y", 1), ("y", 1)]  # the last is the final look at all nodes


def test_nodes_of_subgraphs_are_rewritten_and_those_of_removed_ones_forgotten() -> None:
    model = graphs.load(
        """g (float[4] x, bool c) => (float[4] y) {
            n = Neg(x)
            unused = If (c) <
                then_branch = t () => (float[4] r) { r = Neg(n) },
                else_branch = e () => (float[4] q) { q = Identity(n) }
            >
            k = If (c) <
                then_branch = t () => (float[4] u) { u = Neg(n) },
                else_branch = e () => (float[4] w) { v = Identity(n) w = Exp(v) }
            >
            y = Relu(k) }"""
    )
    context = Context()
    drive(model, [Rules((DEAD, IDENTITY, NEGATION))], context)
    assert [(entry.rule, entry.anchor) for entry in context.ledger.applications] == [
        ("dead", "unused"),
        ("double-negation", "u"),
        ("identity", "v"),
    ]
    random_models.assert_consistent(model)


def test_rules_are_tried_by_operator_and_in_order() -> None:
    model = graphs.load(
        "g (float[4] x) => (float[4] y) { a = Relu(x) b = com.mine.Relu(a) y = Abs(b) }",
        domains=("com.mine",),
    )
    seen: list[tuple[str, str]] = []

    def watcher(name: str, *op_types: str) -> Rule:
        def watch(node: ir.Node, facts):
            seen.append((name, node.outputs[0].name))

        return Rule(name, op_types, watch)

    first, second = watcher("first", "com.mine::Relu", "Abs"), watcher("second")
    third = watcher("third", "Relu")
    drive(model, [Rules((first, second)), OtherRules((third,))], Context())
    assert seen == [
        *[("second", "a"), ("third", "a")],
        *[("first", "b"), ("second", "b")],
        *[("first", "y"), ("second", "y")],
    ]


def test_reasons_are_kept_until_the_rule_applies_after_all() -> None:
    model = graphs.load(
        "g (float[4] x) => (float[4] y) { a = Neg(x) b = Relu(a) y = Identity(b) }"
    )
    sights = itertools.count()

    def at_second_sight(node: ir.Node, facts):
        if next(sights) == 0:
            return Reason("not at first sight")
        return lambda edit: edit.set_attribute(node, "alpha", 1.0)

    for node in model.graph:
        node.name = node.op_type
    rules = Rules((Rule("relu", ("Relu",), at_second_sight),))
    context = Context()
    drive(model, [rules], context)
    assert [skip.reason for skip in context.ledger.skips] == ["not at first sight"]
    drive(model, [rules], context)
    assert not context.ledger.skips
    assert [entry.rule for entry in context.ledger.applications] == ["relu"]


def test_what_a_guard_undid_is_named_and_not_tried_again() -> None:
    model = graphs.load(
        """g (float[4] x) => (float[4] y) {
            a = Identity(x) b = Relu(a) c = Identity(b) y = Exp(c) }"""
    )
    text = graphs.text_of(model)

    def guard(model, entry):
        return "refused" if entry.anchor == "a" or "c" in entry.anchor else ""

    for node in model.graph:
        node.name = node.outputs[0].name
    context = Context(guards=[guard])
    result = drive(model, [Rules((IDENTITY,))], context)
    assert not result.modified
    assert graphs.text_of(model) == text
    assert [(e.anchor, e.undone) for e in context.ledger.applications] == [
        ("a", "refused"),
        ("c", "refused"),
    ]


def test_rules_that_undo_each_other_are_stopped() -> None:
    model = graphs.load("g (float[4] x) => (float[4] y) { a = Relu(x) y = Exp(a) }")

    def swap(new: str) -> Rule:
        def match(node: ir.Node, facts):
            def rewrite(edit: Edit) -> None:
                (value,) = edit.node(new, node.inputs, before=node, like=node.outputs)
                edit.replace(node.outputs[0], value)
                edit.remove(node)

            return rewrite

        return Rule(f"to-{new.lower()}", ("Relu" if new == "Abs" else "Abs",), match)

    with pytest.raises(PassError, match="undo each other") as caught:
        drive(model, [Rules((swap("Abs"), swap("Relu")))], Context())
    assert caught.value.code == "pass/diverges"


def test_the_last_step_of_a_pass_may_make_more_rules_match() -> None:
    @dataclasses.dataclass(frozen=True)
    class Finishing(Rules):
        name: ClassVar[str] = "finishing"

        def finish(self, model, rewriter) -> None:
            for node in list(model.graph):
                if node.op_type == "Exp":
                    rewriter.apply("exp", node, self.to_identity(node))

        @staticmethod
        def to_identity(node):
            def rewrite(edit: Edit) -> None:
                (new,) = edit.node("Identity", node.inputs, before=node, like=node.outputs)
                edit.replace(node.outputs[0], new)
                edit.remove(node)

            return rewrite

    model = graphs.load("g (float[4] x) => (float[4] y) { a = Exp(x) y = Relu(a) }")
    drive(model, [Finishing((IDENTITY,))], Context())
    assert graphs.text_of(model) == graphs.text_of(
        graphs.load("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    )


def test_a_fixpoint_names_each_pass_in_the_ledger_and_the_summary() -> None:
    model = graphs.load(
        """g (float[4] x) => (float[4] y) {
            a = Neg(x) b = Identity(a) c = Neg(b) d = Exp(c) y = Relu(x) }"""
    )
    context = Context()
    fixpoint = Fixpoint((Rules((IDENTITY, NEGATION)), OtherRules((DEAD,))))
    result: PassResult = fixpoint.run(model, context)
    counts = collections.Counter(entry.pass_name for entry in context.ledger.applications)
    assert counts.keys() == {"rules", "other-rules"}
    for name, count in counts.items():
        assert f"{name} {count}" in result.summary


def test_no_passes_do_nothing() -> None:
    model = graphs.load("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    assert not drive(model, [], Context()).modified


def chain(size: int, fan_out: bool) -> ir.Model:
    """Return ``size`` pairs of Relu and Identity in a row, or all on one value."""
    x = ir.Value(name="x", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.FLOAT))
    start = ir.Node("", "Relu", [x], name="start")
    start.outputs[0].name = "start"
    nodes, last = [start], start.outputs[0]
    for i in range(size):
        one = ir.Node("", "Identity", [start.outputs[0] if fan_out else last], name=f"n{i}")
        inputs = [last, one.outputs[0]] if fan_out else one.outputs
        two = ir.Node("", "Add" if fan_out else "Relu", inputs, name=f"m{i}")
        one.outputs[0].name, two.outputs[0].name = f"v{i}", f"w{i}"
        nodes += [one, two]
        last = two.outputs[0]
    graph = ir.Graph([x], [last], nodes=nodes, opset_imports={"": 21}, name="chain")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("fan_out", [False, True], ids=["chain", "fan-out"])
def test_the_visits_grow_with_the_graph_and_not_with_its_square(fan_out: bool) -> None:
    def visits(size: int) -> int:
        seen = itertools.count()

        def look(node: ir.Node, facts) -> None:
            next(seen)

        drive(chain(size, fan_out), [Rules((Rule("look", (), look), *ALL))], Context())
        return next(seen)

    assert visits(800) < 4.1 * visits(200)

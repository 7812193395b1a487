"""Transactions: what an edit did is undone exactly, and written down when it stands."""

from __future__ import annotations

import random

import graphs
import numpy as np
import onnx_ir as ir
import pytest
import random_models

from graphopt.edit import Edit
from graphopt.errors import PassError
from graphopt.ledger import Application, Ledger
from graphopt.names import Names
from graphopt.rewriter import Rewriter


class StopError(Exception):
    """Raised by a rewrite on purpose."""


def rewriter(model: ir.Model, *guards) -> Rewriter:
    return Rewriter(model, "test", Ledger(), guards)


def bytes_of(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


def node_of(model: ir.Model, output: str) -> ir.Node:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if output in (value.name for value in node.outputs):
            return node
    raise KeyError(output)


def value_of(model: ir.Model, name: str) -> ir.Value:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        values += node.outputs
    return next(value for value in values if value.name == name)


def random_step(edit: Edit, rng: random.Random) -> None:
    """Make one change of any kind, sensible or not: all of them must be undone."""
    nodes = list(ir.traversal.RecursiveGraphIterator(edit.model.graph))
    values = [value for node in nodes for value in node.outputs]
    weights = [v for g in edit.model.graphs() for v in g.initializers.values()]
    anywhere = [*values, *weights, *edit.model.graph.inputs]
    node, value = rng.choice(nodes), rng.choice(anywhere)
    data = np.array([rng.random()] * rng.randint(1, 4), np.float32)
    match rng.randrange(9):
        case 0:
            inputs = [value, None, rng.choice(anywhere), None]
            like = [rng.choice(values)] if rng.random() < 0.5 else []
            edit.node("Clip", inputs, before=node, like=like, attributes={"a": 1, "b": [1.5]})
        case 1:
            edit.constant(data, rng.choice(["c", "w1", ""]), near=node)
        case 2:
            edit.set_tensor(rng.choice(weights), data)
        case 3:
            gone = rng.choice(weights)
            if not gone.is_graph_input():
                edit.remove_initializer(gone)
        case 4:
            edit.replace(rng.choice(values), value)
        case 5:
            edit.set_type(value, ir.TensorType(ir.DataType.INT8), ir.Shape([rng.choice("NM")]))
        case 6:
            index = rng.randrange(len(node.inputs) + 2)
            edit.set_input(node, index, rng.choice([value, None]))
        case 7:
            name = rng.choice([*node.attributes, "alpha", "new"])
            new = rng.choice([None, 3, 0.25, "text", [1, 2], ir.AttrInt64s(name, [1])])
            edit.set_attribute(node, name, new)
        case 8:
            edit.remove(*rng.sample(nodes, k=min(len(nodes), 2)))


@pytest.mark.parametrize("seed", range(400))
def test_every_edit_is_undone_to_the_byte(seed: int) -> None:
    rng = random.Random(seed)
    steps, guarded = rng.randint(1, 12), rng.random() < 0.5
    model = random_models.model(rng)
    before = bytes_of(model)
    random_models.assert_consistent(model)

    def rewrite(edit: Edit) -> None:
        for _ in range(steps):
            random_step(edit, rng)
        if not guarded:
            raise StopError

    refuse = [lambda model, entry: "not today"] if guarded else []
    editor = rewriter(model, *refuse)
    try:
        assert editor.apply("rule", "anchor", rewrite) is None
    except (StopError, PassError):
        assert not editor.ledger.applications
    else:
        undone = [entry.undone for entry in editor.ledger.applications]
        assert undone in (["not today"], [])  # nothing in the ledger if nothing was changed
        assert not any(entry.values_replaced for entry in editor.ledger.applications)
    assert bytes_of(model) == before
    random_models.assert_consistent(model)
    hints = ["v1", "c", "w1", "fresh"] * 2
    again = Names(model)
    assert [editor.names.fresh(hint) for hint in hints] == [again.fresh(h) for h in hints]


@pytest.mark.parametrize("seed", range(200))
def test_an_accepted_edit_leaves_a_consistent_graph_and_a_true_entry(seed: int) -> None:
    rng = random.Random(seed)
    model = random_models.model(rng)
    outputs = [value.name for value in model.graph.outputs]
    before = nodes_by_output(model)
    weights = weight_names(model)

    def rewrite(edit: Edit) -> None:
        for _ in range(rng.randint(1, 4)):
            nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
            node = rng.choice(nodes)
            (new,) = edit.node("Relu", [model.graph.inputs[0]], before=node, like=[])
            if rng.random() < 0.5:
                data = edit.constant(np.full(4, rng.random(), np.float32), "c", near=node)
                (new,) = edit.node("Add", [new, data], before=node)
            # Subgraphs see the outer value; the other way round is no valid replacement.
            if node.graph is model.graph and len(node.outputs) == 1:
                edit.replace(node.outputs[0], new)
                edit.remove(node)

    editor = rewriter(model)
    edit = editor.apply("rule", "anchor", rewrite)
    assert edit is not None
    random_models.assert_consistent(model)
    assert [value.name for value in model.graph.outputs] == outputs
    after = nodes_by_output(model)
    names = [name for keys in after for name in keys]
    assert len(names) == len(set(names))
    (entry,) = editor.ledger.applications
    assert {n.outputs for n in entry.nodes_removed} >= before.keys() - after.keys()
    assert {n.outputs for n in entry.nodes_added} >= after.keys() - before.keys()
    came = {weight.name for weight in entry.weights_added}
    went = {weight.name for weight in entry.weights_removed}
    assert went - came == weights - weight_names(model)
    assert came - went == weight_names(model) - weights
    assert edit.touched.keys() | edit.relieved.keys()


def nodes_by_output(model: ir.Model) -> dict[tuple[str, ...], ir.Node]:
    return {
        tuple(value.name for value in node.outputs): node
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
    }


def weight_names(model: ir.Model) -> set[str]:
    return {name for graph in model.graphs() for name in graph.initializers}


CHAIN = """g (float[4] x) => (float[4] y) <float[4] w={1,2,3,4}>
{ a = Add(x, w)  b = Relu(a)  y = Neg(b) }"""


def test_replacing_an_output_keeps_its_name_type_and_place() -> None:
    model = graphs.load(CHAIN)
    y, b = value_of(model, "y"), value_of(model, "b")

    def rewrite(edit: Edit) -> None:
        edit.replace(y, b)
        edit.remove(y.producer())

    editor = rewriter(model)
    editor.apply("drop-neg", y.producer(), rewrite)
    assert graphs.text_of(model) == graphs.text_of(
        graphs.load(
            """g (float[4] x) => (float[4] y) <float[4] w={1,2,3,4}>
            { a = Add(x, w)  y = Relu(a) }"""
        )
    )
    (entry,) = editor.ledger.applications
    assert entry.values_replaced == {"b": "y"}
    assert entry.nodes_removed[0].inputs == ("b",)
    assert entry.nodes_removed[0].outputs == ("y",)


def test_a_substitute_takes_over_the_names_types_and_shapes_of_the_outputs() -> None:
    model = graphs.load(
        """g (float[4] x) => (float[4] y, int64[2] i) <int64[1] k={2}, int64[2] p={0,2}>
        { [top] v, i = TopK (x, k)  [sum] y = Pad(v, p) }"""
    )
    node = value_of(model, "i").producer()
    rewriter(model).apply(
        "smallest",
        node,
        lambda edit: edit.substitute(node, "TopK", node.inputs, {"largest": 0}),
    )
    assert graphs.text_of(model) == graphs.text_of(
        graphs.load(
            """g (float[4] x) => (float[4] y, int64[2] i) <int64[1] k={2}, int64[2] p={0,2}>
            { [top] v, i = TopK <largest = 0> (x, k)  [sum] y = Pad(v, p) }"""
        )
    )


@pytest.mark.parametrize("source", ["x", "w"])
def test_an_output_that_becomes_an_input_or_a_weight_gets_an_identity(source: str) -> None:
    model = graphs.load(CHAIN)
    y = value_of(model, "y")

    def rewrite(edit: Edit) -> None:
        edit.remove(*model.graph)
        edit.replace(y, value_of(model, source))

    editor = rewriter(model)
    editor.apply("all", "graph", rewrite)
    weight = " <float[4] w={1,2,3,4}>"
    assert graphs.text_of(model) == graphs.text_of(
        graphs.load(f"g (float[4] x) => (float[4] y){weight} {{ y = Identity({source}) }}")
    )
    assert editor.ledger.applications[0].values_replaced == {"y": source}


def test_two_outputs_that_become_one_value_keep_both_names() -> None:
    model = graphs.load("g (float[4] x) => (float[4] y, float[4] z) {y = Relu(x) z = Relu(x)}")
    y, z = value_of(model, "y"), value_of(model, "z")

    def rewrite(edit: Edit) -> None:
        edit.replace(z, y)
        edit.remove(z.producer())

    rewriter(model).apply("merge", z.producer(), rewrite)
    assert graphs.text_of(model) == graphs.text_of(
        graphs.load("g (float[4] x) => (float[4] y, float[4] z) {y = Relu(x) z = Identity(y)}")
    )


def test_a_node_can_be_put_behind_a_value_even_an_output() -> None:
    model = graphs.load("g (float[4] x) => (float[4] y) {a = Relu(x) y = Neg(a)}")

    def behind(name: str):
        value = value_of(model, name)

        def rewrite(edit: Edit) -> None:
            (new,) = edit.node("Abs", [value], after=value.producer(), like=[value])
            edit.replace(value, new)

        return rewrite

    editor = rewriter(model)
    editor.apply("abs", "a", behind("a"))
    editor.apply("abs", "y", behind("y"))
    assert graphs.text_of(model) == graphs.text_of(
        graphs.load(
            """g (float[4] x) => (float[4] y)
            {a = Relu(x) a_g1 = Abs(a) y_replaced = Neg(a_g1) y = Abs(y_replaced)}"""
        )
    )


IF = """g (float[4] x, bool c) => (float[4] y) {
    a = Relu(x)
    b = Neg(a)
    y = If (c) <
        then_branch = t () => (float[4] r) { s = Add(a, b)  r = Abs(s) },
        else_branch = e () => (float[4] q) <float[4] w={1,2,3,4}> { q = Mul(a, w) }
    >
}"""


def test_values_are_replaced_inside_subgraphs_too() -> None:
    model = graphs.load(IF)
    b = value_of(model, "b")

    def rewrite(edit: Edit) -> None:
        edit.replace(b, value_of(model, "a"))
        edit.remove(b.producer())

    rewriter(model).apply("drop", b.producer(), rewrite)
    expected = IF.replace("    b = Neg(a)\n", "").replace("Add(a, b)", "Add(a, a)")
    assert graphs.text_of(model) == graphs.text_of(graphs.load(expected))
    random_models.assert_consistent(model)


def test_an_output_of_a_subgraph_that_becomes_an_outer_value_gets_an_identity() -> None:
    model = graphs.load(IF)
    r = value_of(model, "r")

    def rewrite(edit: Edit) -> None:
        edit.replace(r, value_of(model, "a"))
        edit.remove(r.producer())

    rewriter(model).apply("drop", r.producer(), rewrite)
    expected = IF.replace("r = Abs(s)", "r = Identity(a)")
    assert graphs.text_of(model) == graphs.text_of(graphs.load(expected))


def test_removing_a_node_frees_what_its_subgraphs_used() -> None:
    model = graphs.load(IF)
    y, a, b = (value_of(model, name) for name in "yab")
    inner = value_of(model, "s").producer()

    def rewrite(edit: Edit) -> None:
        edit.replace(y, a)
        edit.remove(y.producer())

    editor = rewriter(model)
    edit = editor.apply("drop-if", y.producer(), rewrite)
    assert not b.uses()
    assert inner.graph is None
    assert {a.producer(), b.producer()} <= edit.relieved.keys()
    (entry,) = editor.ledger.applications
    assert [n.op_type for n in entry.nodes_removed] == ["If", "Add", "Abs", "Mul"]
    assert [w.name for w in entry.weights_removed] == ["w"]
    random_models.assert_consistent(model)


def test_a_subgraph_that_an_attribute_no_longer_holds_uses_nothing() -> None:
    model = graphs.load(IF)
    node, b = node_of(model, "y"), value_of(model, "b")
    other = ir.Node("", "Identity", [value_of(model, "a")], name="other")
    other.outputs[0].name = "other"
    graph = ir.Graph([], other.outputs, nodes=[other], name="t")
    attr = ir.AttrGraph("then_branch", graph)
    editor = rewriter(model)
    editor.apply("swap", node, lambda edit: edit.set_attribute(node, "then_branch", attr))
    assert not b.uses()
    assert [n.op_type for n in editor.ledger.applications[0].nodes_removed] == ["Add", "Abs"]
    random_models.assert_consistent(model)


@pytest.mark.parametrize("name", ["a", "y"])
def test_removing_what_is_still_used_changes_nothing(name: str) -> None:
    model = graphs.load(CHAIN)
    before = bytes_of(model)
    editor = rewriter(model)
    with pytest.raises(PassError, match=r"rule 'drop' at .* removes"):
        editor.apply("drop", "n", lambda edit: edit.remove(node_of(model, name)))
    assert bytes_of(model) == before
    assert not editor.ledger.applications


def test_removing_an_initializer_that_is_still_used_changes_nothing() -> None:
    model = graphs.load(CHAIN)
    before = bytes_of(model)
    weight = value_of(model, "w")
    with pytest.raises(PassError, match="'w', but a Add still uses it"):
        rewriter(model).apply("drop", "n", lambda edit: edit.remove_initializer(weight))
    assert bytes_of(model) == before


def test_an_initializer_may_go_together_with_its_last_user() -> None:
    model = graphs.load(CHAIN)
    a, x, w = (value_of(model, name) for name in "axw")

    def rewrite(edit: Edit) -> None:
        edit.replace(a, x)
        edit.remove(a.producer())
        edit.remove_initializer(w)

    editor = rewriter(model)
    editor.apply("drop", a.producer(), rewrite)
    assert not model.graph.initializers
    assert [w.size_bytes for w in editor.ledger.applications[0].weights_removed] == [16]


def test_new_data_of_a_weight_is_in_the_entry_and_touches_its_users() -> None:
    model = graphs.load(CHAIN)
    w = value_of(model, "w")
    editor = rewriter(model)
    edit = editor.apply("cut", "w", lambda edit: edit.set_tensor(w, np.ones(2, np.float16)))
    (entry,) = editor.ledger.applications
    assert (entry.weights_removed[0].dtype, entry.weights_removed[0].shape) == ("FLOAT", (4,))
    assert (entry.weights_added[0].dtype, entry.weights_added[0].shape) == ("FLOAT16", (2,))
    assert w.dtype == ir.DataType.FLOAT16
    assert w.shape == ir.Shape([2])
    assert node_of(model, "a") in edit.touched


def test_shapes_are_not_shared_between_values() -> None:
    model = graphs.load(CHAIN)
    a = value_of(model, "a")
    made: list[ir.Value] = []

    def rewrite(edit: Edit) -> None:
        made.extend(edit.node("Abs", [a], before=node_of(model, "b"), like=[a]))

    rewriter(model).apply("add", "b", rewrite)
    made[0].shape[0] = 7
    assert a.shape == ir.Shape([4])


@pytest.mark.parametrize(
    "nothing",
    [
        lambda edit: None,
        lambda edit: edit.set_input(node_of(edit.model, "b"), 0, value_of(edit.model, "a")),
        lambda edit: edit.set_type(value_of(edit.model, "a"), FLOAT4, ir.Shape([4])),
        lambda edit: edit.set_attribute(node_of(edit.model, "b"), "alpha", None),
        lambda edit: edit.replace(value_of(edit.model, "a"), value_of(edit.model, "a")),
        lambda edit: edit.remove(),
    ],
    ids=["nothing", "same-input", "same-type", "no-attribute", "same-value", "no-node"],
)
def test_an_edit_that_changes_nothing_takes_no_number(nothing) -> None:
    model = graphs.load(CHAIN)
    before = bytes_of(model)
    editor = rewriter(model)
    assert editor.apply("idle", "n", nothing) is None
    assert len(editor.ledger) == 0
    assert bytes_of(model) == before


FLOAT4 = ir.TensorType(ir.DataType.FLOAT)


def test_a_guard_sees_the_edit_and_its_entry_and_a_refused_rule_is_not_tried_again() -> None:
    model = graphs.load(CHAIN)
    y, b = value_of(model, "y"), value_of(model, "b")
    seen: list[tuple[int, list[str], str]] = []

    def guard(model: ir.Model, entry: Application) -> str:
        removed = [node.op_type for node in entry.nodes_removed]
        producer = model.graph.outputs[0].producer().op_type
        seen.append((entry.number, removed, producer))
        return "wrong numbers"

    def rewrite(edit: Edit) -> None:
        edit.replace(y, b)
        edit.remove(y.producer())

    editor = rewriter(model, guard)
    assert editor.apply("drop", y.producer(), rewrite) is None
    assert editor.apply("drop", y.producer(), rewrite) is None
    assert seen == [(1, ["Neg"], "Relu")]
    (entry,) = editor.ledger.applications
    assert entry.undone == "wrong numbers"
    assert "[undone: wrong numbers]" in entry.summary()
    assert editor.ledger.applied() == []


def test_a_guard_that_fails_undoes_the_edit() -> None:
    model = graphs.load(CHAIN)
    before = bytes_of(model)

    def guard(model: ir.Model, entry: Application) -> str:
        raise StopError

    editor = rewriter(model, guard)
    node = node_of(model, "b")
    with pytest.raises(StopError):
        editor.apply("rule", node, lambda edit: edit.set_attribute(node, "alpha", 1.0))
    assert bytes_of(model) == before
    assert len(editor.ledger) == 0


def test_an_observer_sees_the_model_after_each_edit_that_stands() -> None:
    model = graphs.load(CHAIN)
    seen: list[tuple[str, int]] = []

    def observe(model: ir.Model, entry: Application) -> None:
        graphs.check(model)
        seen.append((entry.anchor, len(model.graph)))

    def drop(edit: Edit) -> None:
        node = node_of(model, edit.entry.anchor)
        edit.replace(node.outputs[0], node.inputs[0])
        edit.remove(node)

    guards = [lambda model, entry: "no" if entry.anchor == "b" else ""]
    editor = Rewriter(model, "test", Ledger(), guards, observers=[observe])
    for name in "aby":
        editor.apply("drop", name, drop)
    assert seen == [("a", 2), ("y", 1)]


def test_the_limit_stops_before_the_rewrite_is_even_made() -> None:
    model = graphs.load(CHAIN)
    editor = Rewriter(model, "test", Ledger(limit=0))

    def rewrite(edit: Edit) -> None:
        raise AssertionError("must not run")

    assert editor.apply("rule", "n", rewrite) is None


def test_nodes_without_a_name_are_told_apart_by_their_outputs() -> None:
    model = graphs.load(CHAIN)
    editor = rewriter(model)
    for node in model.graph:
        node.name = ""
        editor.skip("rule", node, f"reason of {node.op_type}")
    assert [(skip.anchor, skip.reason) for skip in editor.ledger.skips] == [
        ("a", "reason of Add"),
        ("b", "reason of Relu"),
        ("y", "reason of Neg"),
    ]
    node = node_of(model, "b")
    editor.apply("rule", node, lambda edit: edit.set_attribute(node, "alpha", 1.0))
    assert editor.ledger.applications[0].anchor == "b"
    assert [skip.anchor for skip in editor.ledger.skips] == ["a", "y"]

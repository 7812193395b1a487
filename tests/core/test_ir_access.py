"""What is private in onnx_ir does what its public functions do."""

import onnx_ir as ir

from graphopt import ir_access


def graph() -> ir.Graph:
    x = ir.Value(name="x")
    first = ir.Node("", "Relu", [x], name="first")
    second = ir.Node(
        "", "Concat", [first.outputs[0], x, first.outputs[0], None], name="second"
    )
    return ir.Graph([x], [second.outputs[0]], nodes=[first, second], name="g")


def test_uses_are_counted() -> None:
    x = graph().inputs[0]
    assert ir_access.use_count(x) == len(x.uses()) == 2


def test_an_input_of_a_node_and_an_output_of_the_graph_are_used() -> None:
    first, second = graph()
    assert ir_access.is_used(first.outputs[0])
    assert ir_access.is_used(second.outputs[0])
    assert not ir_access.is_used(ir.Value(name="alone"))


def test_attributes_are_those_of_the_node() -> None:
    first = graph()[0]
    assert ir_access.attributes_of(first) == {}
    first.attributes["alpha"] = ir.AttrFloat32("alpha", 0.5)
    assert ir_access.attributes_of(first) == dict(first.attributes)


def test_an_input_is_replaced_as_by_the_node_itself() -> None:
    pairs = []
    for replace in (ir_access.replace_input, ir.Node.replace_input_with):
        first, second = graph()
        x = first.inputs[0]
        replace(second, 2, x)
        replace(second, 0, None)
        replace(second, 3, first.outputs[0])
        pairs.append(
            (
                [None if v is None else v.name for v in second.inputs],
                [(user.name, index) for user, index in x.uses()],
                [(user.name, index) for user, index in first.outputs[0].uses()],
            )
        )
    assert pairs[0] == pairs[1]


def test_a_node_is_taken_out_as_by_the_graph_itself() -> None:
    both = [graph(), graph()]
    (_, ours), (_, theirs) = both
    ir_access.take_out(ours)
    for index in range(len(theirs.inputs)):
        theirs.replace_input_with(index, None)
    both[1].remove(theirs)
    for one, node in zip(both, (ours, theirs), strict=True):
        assert [left.name for left in one] == ["first"]
        assert node.graph is None
        assert not any(node.inputs)
        assert not one[0].outputs[0].uses()
        assert len(one.inputs[0].uses()) == 1
    ir_access.take_out(ours)  # it is in no graph

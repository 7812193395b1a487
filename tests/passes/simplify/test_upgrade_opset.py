"""UpgradeOpset: what is converted, taken over whole, and what is refused."""

import pathlib

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphopt.passes.simplify.upgrade_opset import UpgradeOpset

from graphopt import model_io
from graphopt.errors import PipelineError
from graphopt.passbase import Context

MIXED = """g (float[N, 1, 4] x) => (float[N, 4] y, float[N, 4] z)
    <float[4] b = {1, 2, 3, 4}>
    { s = Squeeze<axes=[1]>(x)
      a = Add(s, b)
      r = ReduceSum<axes=[1], keepdims=1>(a)
      y = Sub(a, r)
      u = Unsqueeze<axes=[0]>(y)
      m = Softmax<axis=1>(u)
      z = Squeeze<axes=[0]>(m) }"""


def test_attributes_become_inputs() -> None:
    model = graphs.load(
        "g (float[N, 1, 3] x) => (float[N, 3] y) { y = Squeeze<axes=[1]>(x) }", opset=12
    )
    graphs.apply(model, UpgradeOpset(to=13))

    (constant, squeeze) = model.graph
    assert constant.op_type == "Constant"
    assert squeeze.op_type == "Squeeze"
    assert not squeeze.attributes
    assert squeeze.inputs[1] is constant.outputs[0]
    assert model.opset_imports[""] == 13


@pytest.mark.parametrize("to", [13, 17, 21])
def test_answers_names_and_order_stay(to: int) -> None:
    model, original = graphs.load(MIXED, opset=12), graphs.load(MIXED, opset=12)

    assert graphs.apply(model, UpgradeOpset(to=to)).modified

    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    feeds = graphs.random_feeds(model)
    for one, other in zip(graphs.run(model, feeds), graphs.run(original, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert not graphs.apply(model, UpgradeOpset(to=to)).modified


def test_one_application_that_can_be_denied() -> None:
    model = graphs.load(MIXED, opset=12)
    context = Context()
    context.ledger.limit = 0

    assert not graphs.apply(model, UpgradeOpset(to=13), context).modified
    assert model.opset_imports[""] == 12


def test_large_constants_keep_their_data(tmp_path: pathlib.Path) -> None:
    weight = np.arange(6000, dtype=np.float32).reshape(60, 100)
    node = onnx.helper.make_node(
        "Constant", [], ["w"], value=onnx.numpy_helper.from_array(weight)
    )
    graph = onnx.helper.make_graph(
        [
            node,
            onnx.helper.make_node("Squeeze", ["x"], ["s"], axes=[0]),
            onnx.helper.make_node("MatMul", ["s", "w"], ["y"]),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2, 60])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 100])],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 12)])
    onnx.save(proto, tmp_path / "model.onnx")
    model = model_io.load(tmp_path / "model.onnx")

    assert graphs.apply(model, UpgradeOpset(to=13)).modified

    (constant,) = (n for n in model.graph if n.outputs[0].name == "w")
    np.testing.assert_array_equal(constant.attributes["value"].as_tensor().numpy(), weight)


def refused(model: ir.Model, to: int = 13) -> str:
    context = Context()
    before = graphs.text_of(model)
    assert not graphs.apply(model, UpgradeOpset(to=to), context).modified
    assert graphs.text_of(model) == before
    return context.ledger.skips[0].reason if context.ledger.skips else ""


def test_a_newer_model_is_left_alone() -> None:
    # 1.
    assert not refused(
        graphs.load("g (float[N] x) => (float[N] y) { y = Relu(x) }", 14), to=13
    )


def test_an_operator_onnx_cannot_convert_changes_nothing() -> None:
    # 2. What spatial=0 said cannot be said since opset 9.
    model = graphs.load(
        "g (float[1, 2, 3] x, float[2] s, float[2] b, float[2] m, float[2] v)"
        " => (float[1, 2, 3] z)"
        "{ y = BatchNormalization<spatial=0>(x, s, b, m, v)\n z = Relu(y) }",
        opset=8,
    )
    assert "spatial" in refused(model)


def test_operators_in_subgraphs_that_changed_are_refused() -> None:
    # 3.
    model = graphs.load(
        """g (bool c, float[1, 3] x) => (float[3] y)
           { y = If(c) <then_branch = t () => (float[3] a) { a = Squeeze<axes=[0]>(x) },
                        else_branch = e () => (float[3] b) { b = Squeeze<axes=[0]>(x) }> }""",
        opset=12,
    )
    assert "Squeeze in a subgraph" in refused(model)


def test_model_local_functions_are_refused() -> None:
    # 4.
    model = graphs.load(
        """<ir_version: 8, opset_import: ["" : 12, "local" : 1]>
           g (float[N] x) => (float[N] y) { y = local.twice(x) }
           <domain: "local", opset_import: ["" : 12]>
           twice (a) => (b) { b = Add(a, a) }"""
    )
    assert "functions" in refused(model)


def test_an_opset_that_does_not_exist() -> None:
    with pytest.raises(PipelineError, match="no opset 999"):
        UpgradeOpset(to=999)

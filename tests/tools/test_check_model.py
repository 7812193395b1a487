"""Everything that is wrong with a model is found in one go, each with a code and a place."""

from __future__ import annotations

import functools
import json
import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.debug.lint import lint
from graphopt.errors import ModelError
from graphopt.runtime import Runtime

FLOATS = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)


def save(
    path: pathlib.Path, *nodes: onnx.NodeProto, weights=(), inputs=("x",), outputs=("y",)
):
    graph = helper.make_graph(
        nodes,
        "g",
        [FLOATS(name, shape=[2, 3]) for name in inputs],
        [FLOATS(name, shape=None) for name in outputs],
        [numpy_helper.from_array(np.asarray(data), name) for name, data in weights],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def node(op_type: str, inputs: str, outputs: str, name: str = "", **attributes):
    return helper.make_node(op_type, inputs.split(), outputs.split(), name, **attributes)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "model.onnx"


def codes(path: pathlib.Path) -> list[tuple[str, str, str]]:
    return [(one.code, one.graph, one.name) for one in lint(path, None)]


def test_a_sound_model_has_nothing(path) -> None:
    assert codes(save(path, node("Relu", "x", "y", "r"))) == []


def test_every_error_of_the_structure_is_found(path) -> None:
    save(
        path,
        node("Relu", "nowhere", "a", "r1"),
        node("Conw", "x", "b", "c1"),
        node("Relu", "x", "a", "r2"),
        node("Transpose", "x", "t", "t1", perms=[1, 0]),
        node("Transpose", "x", "u", "t2", perm=1.5),
        node("Concat", "x x", "d", "k"),
        node("Add", "x", "e", "s"),
        node("Wide", "x", "f", "w", domain="somewhere"),
        outputs=("gone", "a"),
    )
    assert codes(path) == [
        ("model/duplicate-output", "", "r2"),
        ("model/undefined-input", "", "r1"),
        ("model/operator", "", "c1"),
        ("model/attribute", "", "t1"),
        ("model/attribute-type", "", "t2"),
        ("model/attribute-missing", "", "k"),
        ("model/operator-inputs", "", "s"),
        ("model/opset", "", "w"),
        ("model/undefined-output", "", "gone"),
    ]


def test_hints_name_what_was_meant(path) -> None:
    save(path, node("Conw", "X", "y", "c1"))
    operator, value = lint(path, None)
    assert operator.hint == "Did you mean 'Conv'?"
    assert value.message == "node 'c1' (Conw) has 'X' as input 0, which nothing produces."


def test_subgraphs_are_looked_into(path) -> None:
    def body(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [FLOATS("r", shape=None)])

    save(
        path,
        node("Greater", "x x", "all"),
        node("Squeeze", "all", "c"),
        node(
            *("If", "c", "y", "if1"),
            then_branch=body("t", node("Relu", "gone", "r", "r1")),
            else_branch=body("e", node("Relu", "x", "r", "r2"), node("Relo", "x", "s", "r3")),
        ),
    )
    assert sorted(codes(path)) == [
        ("model/operator", "if1.else_branch", "r3"),
        ("model/undefined-input", "if1.then_branch", "r1"),
    ]


def test_tensors_are_looked_at(path) -> None:
    save(path, node("Sum", "x v w", "y", "s"), weights=[("v", np.ones(3)), ("w", np.ones(3))])
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.raw_data = tensor.raw_data[:-1]
    onnx.save(model, path)
    assert codes(path) == [("model/tensor-size", "", "v"), ("model/tensor-size", "", "w")]


def test_what_only_the_whole_shows_is_found_too(path) -> None:
    save(path, node("Add", "x b", "a", "n1"), node("Relu", "a", "b", "n2"), outputs=("a",))
    assert [one.code for one in lint(path, None) if one.is_error] == ["model/cycle"]


def test_every_type_that_does_not_fit_is_found(path) -> None:
    integers = np.ones((2, 3), np.int64)
    save(
        path,
        node("Add", "x w", "a", "add1"),
        node("MatMul", "x x", "b", "mul1"),
        node("MatMul", "x x", "c"),
        node("Relu", "w", "d", "r1"),
        outputs=("a", "b", "c", "d"),
        weights=[("w", integers)],
    )
    found = lint(path, None)
    assert [(one.code, one.name) for one in found if one.is_error] == [
        ("types/type", "add1"),
        ("types/shape", "mul1"),
        ("types/shape", "c"),
        ("types/type", "r1"),
    ]


def test_every_node_without_a_kernel_is_named(path) -> None:
    # onnxruntime has no kernel of Relu for int16.
    save(
        path,
        node("Cast", "x", "i", "c1", to=TensorProto.INT16),
        node("Relu", "i", "a", "r1"),
        node("Abs", "i", "f", "a1"),
        node("Relu", "f", "b", "r2"),
        outputs=("a", "b"),
    )
    model = onnx.load(path)
    for output in model.graph.output:
        output.type.tensor_type.elem_type = TensorProto.INT16
    onnx.save(model, path)
    with Runtime(60) as runtime:
        found = lint(path, runtime)
    assert [(one.code, one.name) for one in found] == [
        ("runtime/refused", "r1"),
        ("runtime/refused", "r2"),
    ]
    assert "node 'r1' (Relu): " in found[0].message


def test_what_is_rarely_meant_is_a_warning(path) -> None:
    weights = [("v", np.array([np.nan, 1], np.float32)), ("w", np.ones((2, 3), np.float32))]
    save(
        path,
        node("Add", "x w", "y", "n"),
        node("Relu", "x", "unused", "n"),
        inputs=("x", "w", "z"),
        weights=weights,
    )
    found = lint(path, None)
    assert not any(one.is_error for one in found)
    assert sorted(one.code for one in found) == [
        "graph/duplicate-node",
        "graph/not-finite",
        "graph/overridable",
        "graph/unused-initializer",
        "graph/unused-input",
        "graph/unused-node",
    ]


def test_nodes_out_of_order_are_a_warning(path) -> None:
    save(path, node("Relu", "a", "y", "r2"), node("Relu", "x", "a", "r1"))
    (found,) = lint(path, None)
    assert (found.code, found.is_error) == ("graph/order", False)


def test_a_file_that_is_no_model_is_refused(path) -> None:
    path.write_text("hello")
    with pytest.raises(ModelError):
        lint(path, None)


class TestCommandLine:
    def test_people_read_lines(self, run_tool) -> None:
        done = run_tool("check_model", "chain.onnx")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "no errors, no warnings in chain.onnx\n"

    def test_programs_read_json(self, run_tool, tmp_path) -> None:
        save(tmp_path / "bad.onnx", node("Conw", "X", "y", "c1"))
        done = run_tool("check_model", "bad.onnx", "--json")
        assert done.returncode == 1
        data = json.loads(done.stdout)
        assert data["schema"] == "graphopt/check-model/1"
        first = data["findings"][0]
        assert (first["code"], first["name"], first["graph"]) == ("model/operator", "c1", "")

    def test_a_missing_file_is_one_line(self, run_tool) -> None:
        done = run_tool("check_model", "missing.onnx")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("check_model: error [model/missing-file]: ")

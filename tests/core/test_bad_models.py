"""Every way a model file can be wrong gets one line, its own code, and no traceback.

Each case is built here, byte by byte where that is what it takes, and read by
``model_io.load``.
"""

import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import model_io
from graphopt.errors import ModelError

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])


def weight(name: str = "w", size: int = 4) -> TensorProto:
    return numpy_helper.from_array(np.arange(size, dtype=np.float32), name)


def model(
    nodes=None, initializers=None, inputs=(X,), outputs=(Y,), **graph
) -> onnx.ModelProto:
    if nodes is None:
        nodes = [helper.make_node("Add", ["x", "w"], ["y"], name="add")]
    if initializers is None:
        initializers = [weight()]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", list(inputs), list(outputs), initializers, **graph),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    proto.ir_version = 10
    return proto


def refused(source: pathlib.Path | onnx.ModelProto, **options: object) -> ModelError:
    """Return the error with which ``source`` is refused: one line, in at most 2 seconds."""
    started = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        model_io.load(source, **options)
    assert time.perf_counter() - started < 2
    assert "\n" not in str(caught.value)
    if isinstance(source, pathlib.Path):
        assert source.name in caught.value.message
    return caught.value


@pytest.fixture
def write(tmp_path):
    def write(content: bytes | onnx.ModelProto, name: str = "model.onnx") -> pathlib.Path:
        path = tmp_path / name
        if isinstance(content, onnx.ModelProto):
            content = content.SerializeToString()
        path.write_bytes(content)
        return path

    return write


def test_the_model_that_the_cases_are_made_from_is_accepted(write):
    onnx.checker.check_model(model(), full_check=True)
    assert [node.op_type for node in model_io.load(write(model())).graph] == ["Add"]


# Files that are no models.


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"", "model/empty-file", "empty"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "model/not-onnx", "HTML"),
        (b"<html>", "model/not-onnx", "HTML"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 90\n",
            "model/not-onnx",
            "git-LFS pointer",
        ),
        (b"PK\x03\x04" + bytes(60), "model/not-onnx", "zip"),
        (b"\x80\x02}q\x00.", "model/not-onnx", "pickle"),
        (b'{"error": "denied"}', "model/not-onnx", "JSON"),
        (b"\x1f\x8b" + bytes(60), "model/not-onnx", "gzip"),
        (bytes(4096), "model/not-onnx", "byte 0"),
        (b"hello", "model/not-onnx", "not an ONNX file"),
    ],
)
def test_a_file_that_is_no_model_is_named_for_what_it_is(write, content, code, text):
    error = refused(write(content))
    assert error.code == code
    assert text in str(error)


def test_random_bytes_are_refused(write):
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 16, 1000, 100_000):
        for _ in range(50):
            error = refused(write(rng.bytes(size)))
            assert error.code in {"model/not-onnx", "model/truncated", "model/no-graph",
                                  "model/corrupt"}  # fmt: skip


def test_a_model_cut_off_anywhere_is_refused(write):
    whole = model(initializers=[weight(), weight("v", 1000)]).SerializeToString()
    for end in [*range(2, 200), *range(200, len(whole), 97)]:
        error = refused(write(whole[:end]))
        assert error.code in {"model/truncated", "model/no-graph", "model/no-opset"}


def test_a_truncated_model_says_where_it_ends(write):
    whole = model().SerializeToString()
    error = refused(write(whole[:50]))
    assert error.code == "model/truncated"
    assert "ends at byte 50" in error.message


def test_a_folder_is_refused_and_says_what_it_holds(tmp_path, write):
    write(model(), "one.onnx")
    error = refused(tmp_path)
    assert error.code == "model/directory"
    assert "one.onnx" in error.hint


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path, write):
    write(model(), "resnet.onnx")
    error = refused(tmp_path / "resnt.onnx")
    assert error.code == "model/missing-file"
    assert "resnet.onnx" in error.hint


def test_a_missing_folder_is_a_missing_file(tmp_path):
    assert refused(tmp_path / "no" / "model.onnx").code == "model/missing-file"


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    assert refused(tmp_path / "pipe.onnx").code == "model/not-a-file"


def test_damage_inside_the_graph_is_refused(write):
    whole = bytearray(model(initializers=[weight("w", 1000)]).SerializeToString())
    at = whole.index(b"\x0a\x01x")
    whole[at + 1] = 120  # the length of a name, now past the end of its node
    assert refused(write(bytes(whole))).code == "model/corrupt"


@pytest.mark.parametrize("levels", [60, 400])
def test_graphs_nested_too_deeply_are_refused(write, levels):
    def branch(body: bytes) -> bytes:  # GraphProto{node: {attribute: {g: body}}}
        for number in (6, 5, 1):
            body = bytes([number << 3 | 2]) + onnx_varint(len(body)) + body
        return body

    body = b""
    for _ in range(levels):
        body = branch(body)
    graph = bytes([7 << 3 | 2]) + onnx_varint(len(body)) + body
    proto = model()
    proto.ClearField("graph")
    error = refused(write(proto.SerializeToString() + graph))
    assert error.code == "model/nesting"


def onnx_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


# Versions.


def test_no_graph(write):
    proto = model()
    proto.ClearField("graph")
    assert refused(write(proto)).code == "model/no-graph"


def test_no_opset_import(write):
    proto = model()
    del proto.opset_import[:]
    assert refused(write(proto)).code == "model/no-opset"


@pytest.mark.parametrize("version", [0, -1, 99])
def test_an_unknown_opset_names_the_known_ones(write, version):
    proto = model()
    proto.opset_import[0].version = version
    error = refused(write(proto))
    assert error.code == "model/opset"
    assert f"1 to {onnx.defs.onnx_opset_version()}" in error.message


def test_one_domain_in_two_versions(write):
    proto = model()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 20))
    assert refused(write(proto)).code == "model/opset"


@pytest.mark.parametrize("version", [0, 2, 99, -5])
def test_an_unknown_ir_version_names_the_known_ones(write, version):
    proto = model()
    proto.ir_version = version
    error = refused(write(proto))
    assert error.code == "model/ir-version"
    assert f"3 to {onnx.IR_VERSION}" in error.message


def test_a_node_of_a_domain_that_is_not_imported(write):
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    assert refused(write(model([node], []))).code == "model/opset"


# Tensors.


def tensor(**fields: object) -> TensorProto:
    return TensorProto(name="w", **({"data_type": TensorProto.FLOAT} | fields))


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (tensor(dims=[4], raw_data=b"123"), "model/tensor-size"),
        (tensor(dims=[4], raw_data=bytes(17)), "model/tensor-size"),
        (tensor(dims=[2000], raw_data=bytes(7999)), "model/tensor-size"),
        (tensor(dims=[4]), "model/tensor-size"),
        (tensor(dims=[1 << 40]), "model/tensor-size"),
        (tensor(dims=[4], float_data=[1.0]), "model/tensor-size"),
        (tensor(dims=[4], float_data=[1.0] * 2000), "model/tensor-size"),
        (tensor(dims=[4], int64_data=[1] * 4), "model/tensor-data"),
        (tensor(dims=[4], raw_data=bytes(16), float_data=[0] * 4), "model/tensor-data"),
        (tensor(dims=[1], raw_data=b"a", data_type=TensorProto.STRING), "model/tensor-data"),
        (tensor(dims=[-1], raw_data=b""), "model/tensor-dims"),
        (tensor(dims=[1 << 32, 1 << 32], raw_data=b""), "model/tensor-dims"),
        (tensor(dims=[1 << 62] * 30, raw_data=b""), "model/tensor-dims"),
        (tensor(dims=[4], data_type=0, raw_data=bytes(16)), "model/element-type"),
        (tensor(dims=[4], data_type=999, raw_data=bytes(16)), "model/element-type"),
        (tensor(dims=[4], data_type=-1, raw_data=bytes(16)), "model/element-type"),
        (
            tensor(dims=[4], raw_data=bytes(16), segment=TensorProto.Segment(begin=0, end=4)),
            "model/unsupported",
        ),
    ],
)
def test_a_tensor_whose_data_does_not_fit(write, bad, code):
    error = refused(write(model(initializers=[bad])))
    assert error.code == code
    assert "'w'" in error.message


def test_data_in_two_fields_is_refused_not_merged(write):
    # Two raw_data fields: protobuf takes the last one; the scanner must not take either.
    bad = tensor(dims=[2000]).SerializeToString()
    field = b"\x4a" + onnx_varint(8000) + bytes(8000)
    twice = bad + field + field[:-1] + b"\x01"
    proto = model(initializers=[])
    proto.graph.initializer.append(TensorProto.FromString(twice))
    assert model_io.load(write(proto)).graph.initializers["w"].const_value.numpy()[-1] != 0


def test_a_bad_tensor_in_an_attribute_names_its_node(write):
    node = helper.make_node("Constant", [], ["w"], name="const", value=tensor(dims=[4]))
    add = helper.make_node("Add", ["x", "w"], ["y"])
    error = refused(write(model([node, add], [])))
    assert error.code == "model/tensor-size"
    assert "attribute 'value' of node 'const' (Constant)" in error.message


def test_a_bad_tensor_in_a_subgraph_is_found(write):
    inner = helper.make_graph(
        [helper.make_node("Identity", ["v"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", 1, [4])],
        [tensor(dims=[5], raw_data=bytes(16))],
    )
    inner.initializer[0].name = "v"
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    assert refused(write(model([branch], [], [condition]))).code == "model/tensor-size"


@pytest.mark.parametrize("elem_type", [999, -3])
def test_an_input_of_a_type_that_does_not_exist(write, elem_type):
    proto = model()
    proto.graph.input[0].type.tensor_type.elem_type = elem_type
    error = refused(write(proto))
    assert error.code == "model/element-type"
    assert "input 'x'" in error.message


def test_an_input_without_a_type(write):
    proto = model()
    proto.graph.input[0].ClearField("type")
    assert refused(write(proto)).code == "model/untyped-input"


def test_a_sparse_index_out_of_range(write):
    sparse = onnx.SparseTensorProto(
        values=numpy_helper.from_array(np.ones(2, np.float32), "w"),
        indices=numpy_helper.from_array(np.array([0, 4], np.int64)),
        dims=[4],
    )
    error = refused(write(model(initializers=[], sparse_initializer=[sparse])))
    assert error.code == "model/sparse"
    sparse.dims[:] = [1 << 40]
    assert (
        refused(write(model(initializers=[], sparse_initializer=[sparse]))).code
        == "model/sparse"
    )


# Names.


def test_a_duplicate_initializer(write):
    error = refused(write(model(initializers=[weight(), weight()])))
    assert error.code == "model/duplicate-initializer"
    assert "'w'" in error.message


def test_a_duplicate_input(write):
    assert refused(write(model(inputs=[X, X]))).code == "model/duplicate-input"


def test_an_initializer_without_a_name(write):
    proto = model()
    proto.graph.initializer[0].ClearField("name")
    assert refused(write(proto)).code == "model/no-name"


def test_a_value_produced_twice_names_both_nodes(write):
    nodes = [
        helper.make_node("Neg", ["x"], ["y"], name="first"),
        helper.make_node("Abs", ["x"], ["y"], name="second"),
    ]
    error = refused(write(model(nodes)))
    assert error.code == "model/duplicate-output"
    assert "'first'" in error.message
    assert "'second'" in error.message


def test_a_node_that_produces_an_input(write):
    nodes = [helper.make_node("Neg", ["x"], ["x"]), helper.make_node("Neg", ["x"], ["y"])]
    assert refused(write(model(nodes))).code == "model/duplicate-output"


def test_an_undefined_input_names_node_and_input(write):
    nodes = [helper.make_node("Add", ["x", "weight_"], ["y"], name="add")]
    error = refused(write(model(nodes, [weight("weight")])))
    assert error.code == "model/undefined-input"
    assert "node 'add' (Add)" in error.message
    assert "'weight_' as input 1" in error.message
    assert "'weight'" in error.hint


def test_an_undefined_input_in_a_subgraph(write):
    inner = helper.make_graph(
        [helper.make_node("Identity", ["nowhere"], ["z"], name="inside")],
        "then",
        [],
        [helper.make_tensor_value_info("z", 1, [4])],
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    error = refused(write(model([branch], [], [condition])))
    assert error.code == "model/undefined-input"
    assert "'inside'" in error.message


def test_an_output_that_nothing_produces(write):
    other = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])
    error = refused(write(model(outputs=[Y, other])))
    assert error.code == "model/undefined-output"
    assert "'z'" in error.message


def test_a_cycle_is_printed(write):
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="one"),
        helper.make_node("Neg", ["a"], ["b"], name="two"),
        helper.make_node("Abs", ["b"], ["c"], name="three"),
        helper.make_node("Neg", ["c"], ["y"], name="after"),
    ]
    error = refused(write(model(nodes, [])))
    assert error.code == "model/cycle"
    assert "'one' (Add) -> 'two' (Neg) -> 'three' (Abs) -> 'one' (Add)" in error.message


def test_a_node_that_needs_itself_is_a_cycle(write):
    nodes = [helper.make_node("Add", ["x", "y"], ["y"], name="self")]
    error = refused(write(model(nodes, [])))
    assert error.code == "model/cycle"
    assert "'self' (Add) -> 'self' (Add)" in error.message


def test_a_cycle_through_a_subgraph(write):
    inner = helper.make_graph(
        [helper.make_node("Identity", ["y"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", 1, [4])],
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    assert refused(write(model([branch], [], [condition]))).code == "model/cycle"


def test_a_name_that_is_not_text(write):
    content = model().SerializeToString().replace(b"\x0a\x01x", b"\x0a\x01\xff")
    assert refused(write(content)).code == "model/encoding"


# Operators.


def test_an_operator_that_does_not_exist(write):
    node = helper.make_node("Adds", ["x", "w"], ["y"], name="add")
    error = refused(write(model([node])))
    assert error.code == "model/operator"
    assert "'Add'" in error.hint


def test_an_operator_that_was_dropped(write):
    node = helper.make_node("Upsample", ["x", "w"], ["y"])
    assert refused(write(model([node]))).code == "model/operator"


@pytest.mark.parametrize("inputs", [[], ["x"], ["x", "w", "w"]])
def test_a_wrong_number_of_inputs(write, inputs):
    error = refused(write(model([helper.make_node("Add", inputs, ["y"])])))
    assert error.code == "model/operator-inputs"


def test_a_wrong_number_of_outputs(write):
    error = refused(write(model([helper.make_node("Add", ["x", "w"], ["y", "z"])])))
    assert error.code == "model/operator-outputs"


def test_an_attribute_of_the_wrong_type(write):
    node = helper.make_node("Concat", ["x", "x"], ["y"], name="cat", axis="0")
    error = refused(write(model([node])))
    assert error.code == "model/attribute-type"
    assert "'cat'" in error.message
    assert "of type STRING; expected is INT" in error.message


def test_a_required_attribute_that_is_missing(write):
    error = refused(write(model([helper.make_node("Concat", ["x", "x"], ["y"], name="cat")])))
    assert error.code == "model/attribute-missing"
    assert "'axis'" in error.message


def test_an_attribute_that_the_operator_does_not_have(write):
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0, axes=[0])
    error = refused(write(model([node])))
    assert error.code == "model/attribute"
    assert "'axis'" in error.hint


def test_an_attribute_given_twice(write):
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    node.attribute.append(node.attribute[0])
    assert refused(write(model([node]))).code == "model/attribute"


def test_a_graph_attribute_without_a_graph(write):
    node = helper.make_node("If", ["c"], ["y"])
    for name in ("then_branch", "else_branch"):
        node.attribute.add(name=name, type=onnx.AttributeProto.GRAPH)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    assert refused(write(model([node], [], [condition]))).code == "model/attribute-type"


# Functions.


def function(name: str, calls: str) -> onnx.FunctionProto:
    node = helper.make_node(calls, ["a"], ["b"], domain="here" if calls[0] == "F" else "")
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("here", 1)]
    return helper.make_function("here", name, ["a"], ["b"], [node], opsets)


def calling(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    proto = model([helper.make_node("F1", ["x"], ["y"], domain="here")])
    proto.opset_import.append(helper.make_opsetid("here", 1))
    proto.functions.extend(functions)
    return proto


def test_a_function_that_calls_itself(write):
    error = refused(write(calling(function("F1", "F1"))))
    assert error.code == "model/recursive-function"
    assert "F1 -> F1" in error.message


def test_functions_that_call_each_other(write):
    functions = [function("F1", "F2"), function("F2", "F3"), function("F3", "F2")]
    error = refused(write(calling(*functions)))
    assert error.code == "model/recursive-function"
    assert "F2 -> F3 -> F2" in error.message


def test_many_functions_without_a_circle_are_accepted(write):
    functions = [function(f"F{n}", f"F{n + 1}") for n in range(1, 3000)]
    model_io.load(write(calling(*functions, function("F3000", "Neg"))))


def test_a_function_defined_twice(write):
    error = refused(write(calling(function("F1", "Neg"), function("F1", "Abs"))))
    assert error.code == "model/duplicate-function"


def test_an_undefined_input_in_a_function(write):
    bad = function("F1", "Neg")
    bad.node[0].input[0] = "nowhere"
    assert refused(write(calling(bad))).code == "model/undefined-input"


# What looks odd and is valid.


def test_unsorted_nodes_are_sorted_and_noted(write, caplog):
    nodes = [
        helper.make_node("Neg", ["b"], ["y"], name="last"),
        helper.make_node("Abs", ["x"], ["a"], name="first"),
        helper.make_node("Exp", ["a"], ["b"], name="middle"),
    ]
    loaded = model_io.load(write(model(nodes)))
    assert [node.name for node in loaded.graph] == ["first", "middle", "last"]
    assert "not in order" in caplog.text
    onnx.checker.check_model(ir.to_proto(loaded))


def test_a_value_captured_by_a_subgraph_orders_nodes(write):
    inner = helper.make_graph(
        [helper.make_node("Identity", ["late"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", 1, ["N", 4])],
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Neg", ["x"], ["late"]),
    ]
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    loaded = model_io.load(write(model(nodes, [], [X, condition])))
    assert [node.op_type for node in loaded.graph] == ["Neg", "If"]


def test_a_proto_of_the_caller_is_not_changed():
    nodes = [helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Abs", ["x"], ["a"])]
    proto = model(nodes)
    before = proto.SerializeToString()
    assert [node.op_type for node in model_io.load(proto).graph] == ["Abs", "Neg"]
    assert proto.SerializeToString() == before


def test_operators_of_other_domains_are_kept_as_they_are(write):
    node = helper.make_node("Anything", ["x", "", "w"], ["y"], domain="my.domain", size=[1, 2])
    proto = model([node])
    proto.opset_import.append(helper.make_opsetid("my.domain", 7))
    (loaded,) = model_io.load(write(proto)).graph
    assert ir.to_proto(loaded) == node


def test_operators_that_only_onnxruntime_has_in_the_onnx_domain(write):
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "w"], ["y"], axis=-1)
    (loaded,) = model_io.load(write(model([node]))).graph
    assert loaded.op_type == "SimplifiedLayerNormalization"


def test_the_onnx_domain_by_its_long_name(write):
    proto = model([helper.make_node("Add", ["x", "w"], ["y"], domain="ai.onnx")])
    proto.opset_import[0].domain = "ai.onnx"
    loaded = model_io.load(write(proto))
    assert loaded.opset_imports == {"": 21}
    assert loaded.graph[0].domain == ""


def test_a_negative_dimension_is_an_unknown_one(write, caplog):
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    loaded = model_io.load(write(proto))
    assert loaded.graph.inputs[0].shape == ir.Shape([None, 4])
    assert "negative dimension" in caplog.text


@pytest.mark.parametrize(
    "proto",
    [
        model([], [], [X], [X]),  # an empty graph, an input that is an output
        model([helper.make_node("Add", ["x", "w\0"], ["y"])], [weight("w\0")]),
        model(initializers=[numpy_helper.from_array(np.full(4, np.nan, np.float32), "w")]),
        model(initializers=[numpy_helper.from_array(np.zeros((0, 4), np.float32), "w")]),
        model(inputs=[X, helper.make_tensor_value_info("w", 1, [4])]),  # overridable
    ],
    ids=["empty", "nul", "nan", "zero-size", "overridable"],
)
def test_odd_models_are_accepted(write, proto):
    loaded = model_io.load(write(proto))
    assert [value.name for value in loaded.graph.inputs] == [v.name for v in proto.graph.input]


def test_a_refusal_takes_little_memory(tmp_path):
    # 3 GB of a valid-looking graph without an opset: sparse on the disk.
    head = b"\x08\x0a"
    size = 3 << 30
    tensor = b"\x08" + onnx_varint(size) + b"\x10\x02\x42\x01w\x4a" + onnx_varint(size)
    node = b"\x2a" + onnx_varint(len(tensor) + size) + tensor
    path = tmp_path / "big.onnx"
    with open(path, "wb") as file:
        file.write(head + b"\x3a" + onnx_varint(len(node) + size) + node)
        file.truncate(file.tell() + size)
    script = (
        "import resource, sys\n"
        "from graphopt import model_io\n"
        "from graphopt.errors import ModelError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: model_io.load(sys.argv[1])\n"
        "except ModelError as error: print(error.code)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    limits = (8 << 30, 8 << 30)
    out = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limits),
    ).stdout.split()
    assert out[0] == "model/no-opset"
    assert int(out[1]) < 50_000  # kB

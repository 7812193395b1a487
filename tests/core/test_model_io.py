"""Reading and writing: nothing is lost, nothing is copied, nothing is half-written."""

import itertools
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt import model_io
from graphopt.errors import ModelError, OutputError, PassError
from graphopt.model_io import saving, sink
from graphopt.model_io.tensors import MappedTensor, SparseTensor, ends_of

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 64)).astype(np.float32)


def model(*initializers: TensorProto, nodes=None, **graph) -> onnx.ModelProto:
    names = [tensor.name for tensor in initializers]
    if nodes is None:
        nodes = []
        last = "x"
        for index, name in enumerate(names):
            nodes.append(helper.make_node("MatMul", [last, name], [f"h{index}"], name=name))
            last = f"h{index}"
        nodes.append(helper.make_node("Neg", [last], ["y"], name="neg"))
    value = helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, ["N", 64])],
            [value("y", TensorProto.FLOAT, ["N", 64])],
            initializers,
            **graph,
        ),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    proto.ir_version = 10
    return proto


def simple() -> onnx.ModelProto:
    return model(
        numpy_helper.from_array(WEIGHT, "w"),
        numpy_helper.from_array(WEIGHT.T.copy(), "v"),
    )


def run(path: pathlib.Path, seed: int = 0) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(seed).standard_normal((2, 64)).astype(np.float32)
    return session.run(None, {"x": x})[0]


def write(path: pathlib.Path, proto: onnx.ModelProto) -> pathlib.Path:
    path.write_bytes(proto.SerializeToString())
    return path


def without_value_info(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto`` without the types of initializers, which onnx_ir writes out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    names = {tensor.name for tensor in copy.graph.initializer}
    names |= {sparse.values.name for sparse in copy.graph.sparse_initializer}
    kept = [info for info in copy.graph.value_info if info.name not in names]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    return copy


# Weights stay in the file.


def test_large_weights_are_mapped_and_small_ones_parsed(tmp_path):
    small = numpy_helper.from_array(np.arange(4, dtype=np.int64), "small")
    proto = simple()
    proto.graph.initializer.append(small)
    values = model_io.load(write(tmp_path / "m.onnx", proto)).graph.initializers
    assert isinstance(values["w"].const_value, MappedTensor)
    assert isinstance(values["small"].const_value, ir.TensorProtoTensor)
    np.testing.assert_array_equal(values["w"].const_value.numpy(), WEIGHT)
    np.testing.assert_array_equal(values["small"].const_value.numpy(), np.arange(4))


@pytest.mark.parametrize("values", [[1, 2, 3], [[1], [2]], 7, []], ids=str)
def test_a_parsed_tensor_says_what_its_proto_says(tmp_path, values):
    array = np.array(values, np.int64)
    proto = simple()
    proto.graph.initializer.append(numpy_helper.from_array(array, "small"))
    graph = model_io.load(write(tmp_path / "m.onnx", proto)).graph
    tensor = graph.initializers["small"].const_value
    assert (tensor.dtype, tensor.size) == (ir.DataType.INT64, array.size)
    assert (tensor.nbytes, tensor.shape.numpy()) == (array.nbytes, array.shape)


def test_the_ends_of_equal_tensors_are_equal_wherever_they_are(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple())).graph.initializers
    mapped, other = (loaded[name].const_value for name in ("w", "v"))
    ends = WEIGHT.tobytes()[:32] + WEIGHT.tobytes()[-32:]
    transposed = WEIGHT.T.copy().T
    for tensor in (mapped, ir.tensor(WEIGHT), ir.tensor(transposed)):
        assert ends_of(tensor, 32) == ends
    assert ends_of(other, 32) == WEIGHT.T.tobytes()[:32] + WEIGHT.T.tobytes()[-32:]


DTYPES = [
    np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.uint16, np.int32,
    np.uint32, np.int64, np.uint64, np.bool_, np.complex64, np.complex128, ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4,
    ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e8m0fnu,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("prefix", ["", "p", "pp", "ppp"], ids=len)
def test_every_type_at_every_alignment(tmp_path, dtype, prefix):
    # The length of the name moves the data to another byte of the file.
    array = RNG.integers(0, 2, (3, 5, 701)).astype(dtype)
    proto = model(nodes=[helper.make_node("Neg", ["x"], ["y"])])
    proto.graph.initializer.append(ir.to_proto(ir.tensor(array, name=f"{prefix}w")))
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    tensor = loaded.graph.initializers[f"{prefix}w"].const_value
    assert isinstance(tensor, MappedTensor)
    found = tensor.numpy()
    assert found.dtype == array.dtype
    assert found.flags.aligned
    np.testing.assert_array_equal(found.view(np.uint8), array.view(np.uint8))
    assert tensor.tobytes() == proto.graph.initializer[0].raw_data
    for mode in ("never", "always"):
        model_io.save(loaded, tmp_path / "out.onnx", mode)
        again = model_io.load(tmp_path / "out.onnx").graph.initializers[f"{prefix}w"]
        assert again.const_value.tobytes() == tensor.tobytes()


@pytest.mark.parametrize(
    ("data_type", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.COMPLEX64, np.complex64),
        (TensorProto.INT64, np.int64),
        (TensorProto.INT32, np.int32),
        (TensorProto.FLOAT16, np.float16),
    ],
)
def test_data_in_typed_fields(tmp_path, data_type, dtype):
    array = RNG.integers(-9, 9, (40, 50)).astype(dtype)
    array.reshape(-1)[:3] = [0, 1, 2]
    tensor = helper.make_tensor("w", data_type, array.shape, array.reshape(-1))
    assert not tensor.HasField("raw_data")
    proto = model(nodes=[helper.make_node("Neg", ["x"], ["y"])])
    proto.graph.initializer.append(tensor)
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), array)
    model_io.save(loaded, tmp_path / "out.onnx")
    (found,) = onnx.load(tmp_path / "out.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(found), array)


def test_nan_payloads_survive(tmp_path):
    bits = np.full(1000, 0x7F800001, np.uint32)  # a signalling NaN
    proto = model(nodes=[helper.make_node("Neg", ["x"], ["y"])])
    packed = onnx.TensorProto(name="w", data_type=1, dims=[1000], raw_data=bits.tobytes())
    wire = packed.SerializeToString().replace(b"\x4a\xa0\x1f", b"\x22\xa0\x1f")  # float_data
    proto.graph.initializer.add().ParseFromString(wire)
    assert len(proto.graph.initializer[0].float_data) == 1000
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    assert loaded.graph.initializers["w"].const_value.tobytes() == bits.tobytes()


def inner_graph(name: str) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("MatMul", ["x", f"{name}_w"], [name])],
        name,
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64])],
        [numpy_helper.from_array(WEIGHT * len(name), f"{name}_w")],
    )


def branching() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(WEIGHT, "k")),
        helper.make_node("MatMul", ["x", "k"], ["xk"]),
        helper.make_node("ReduceSum", ["xk"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["c"]),
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=inner_graph("one"),
            else_branch=inner_graph("three"),
        ),
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return model(zero, nodes=nodes)


def test_weights_in_subgraphs_and_attributes_are_mapped(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", branching()))
    constant, branch = loaded.graph[0], loaded.graph[-1]
    assert isinstance(constant.attributes["value"].value, MappedTensor)
    for graph in (branch.attributes["then_branch"], branch.attributes["else_branch"]):
        (value,) = graph.value.initializers.values()
        assert isinstance(value.const_value, MappedTensor)
        scale = len(graph.value.name)
        np.testing.assert_array_equal(value.const_value.numpy(), WEIGHT * scale)


@pytest.mark.parametrize("external_data", ["never", "always"])
def test_onnxruntime_reads_what_is_written(tmp_path, external_data):
    for name, proto in (("simple", simple()), ("branching", branching())):
        source = write(tmp_path / f"{name}.onnx", proto)
        target = tmp_path / f"{name}-out.onnx"
        saved = model_io.save(model_io.load(source), target, external_data)
        onnx.checker.check_model(target, full_check=True)
        assert (saved.external_path is None) == (external_data == "never")
        for seed in range(4):
            np.testing.assert_array_equal(run(target, seed), run(source, seed))


def test_a_model_stays_usable_when_its_file_is_replaced_or_removed(tmp_path):
    path = write(tmp_path / "m.onnx", simple())
    loaded = model_io.load(path)
    write(tmp_path / "other", model(numpy_helper.from_array(WEIGHT * 2, "w")))
    os.replace(tmp_path / "other", path)
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), WEIGHT)
    path.unlink()
    model_io.save(loaded, path)
    assert onnx.load(path).graph.initializer[0].raw_data == WEIGHT.tobytes()


def test_a_file_that_is_overwritten_meanwhile_is_noticed(tmp_path):
    path = write(tmp_path / "m.onnx", simple())
    loaded = model_io.load(path)
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelError, match="model/changed"):
        model_io.save(loaded, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_arrays_of_weights_are_read_only(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    for value in loaded.graph.initializers.values():
        with pytest.raises(ValueError, match="read-only"):
            value.const_value.numpy()[0, 0] = 1


MEASURED = """
import resource, sys
from graphopt import model_io
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
model = model_io.load(sys.argv[1])
print(peak() - before)
model_io.save(model, sys.argv[2], sys.argv[3])
print(peak() - before)
"""


def peaks(source: pathlib.Path, target: pathlib.Path, external_data: str) -> list[int]:
    """Return the growth of memory in MB after reading, and after writing as well."""
    command = [sys.executable, "-c", MEASURED, source, target, external_data]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [int(line) // 1024 for line in out.split()]


@pytest.mark.parametrize("external_data", ["never", "always"])
def test_neither_reading_nor_writing_takes_the_memory_of_the_weights(tmp_path, external_data):
    array = RNG.standard_normal((64, 1 << 15)).astype(np.float32)
    proto = model(
        *(numpy_helper.from_array(array, f"w{index}") for index in range(10)),
        nodes=[helper.make_node("Neg", ["x"], ["y"])],
    )
    source = write(tmp_path / "m.onnx", proto)
    assert source.stat().st_size > 80e6
    read, written = peaks(source, tmp_path / "out.onnx", external_data)
    assert read < 12
    assert written < 24  # pieces of 4 MB, and what the allocator keeps of them


def large(folder: pathlib.Path, size: int) -> pathlib.Path:
    """Write a model with external data of ``size`` bytes, which are holes but for the last."""
    proto = model(nodes=[helper.make_node("Neg", ["x"], ["y"])])
    parts = 4
    for index in range(parts):
        tensor = proto.graph.initializer.add(
            name=f"w{index}",
            data_type=TensorProto.UINT8,
            dims=[size // parts],
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", "weights"),
            ("offset", index * (size // parts)),
            ("length", size // parts),
        ):
            tensor.external_data.add(key=key, value=str(value))
    with open(folder / "weights", "wb") as file:
        file.truncate(size - 1)
        file.seek(0, os.SEEK_END)
        file.write(b"\7")
    return write(folder / "m.onnx", proto)


def test_a_model_of_many_gigabytes_is_read_without_its_weights(tmp_path):
    size = 40 << 30
    try:
        path = large(tmp_path, size)
    except OSError:
        size = 3 << 30  # a file system with small limits
        path = large(tmp_path, size)
    started = time.perf_counter()
    loaded = model_io.load(path)
    assert time.perf_counter() - started < 1
    tensor = loaded.graph.initializers["w3"].const_value
    assert tensor.nbytes == size // 4
    assert tensor.numpy()[-1] == 7


def test_weights_that_are_too_large_for_protobuf_get_a_file(tmp_path, monkeypatch, caplog):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    monkeypatch.setattr(saving, "EMBEDDED_LIMIT_BYTES", WEIGHT.nbytes)
    assert model_io.save(loaded, tmp_path / "out.onnx").external_path is not None
    assert model_io.save(loaded, tmp_path / "out.onnx", "never").external_path is not None
    assert "the weights are in out.onnx." in caplog.text
    np.testing.assert_array_equal(run(tmp_path / "out.onnx"), run(tmp_path / "m.onnx"))


def test_constants_of_nodes_that_are_too_large_for_protobuf(tmp_path, monkeypatch):
    node = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(WEIGHT))
    proto = model(nodes=[node, helper.make_node("MatMul", ["x", "k"], ["y"])])
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    monkeypatch.setattr(saving, "MAX_SKELETON_BYTES", WEIGHT.nbytes)
    with pytest.raises(OutputError, match="output/too-large"):
        model_io.save(loaded, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.slow
def test_a_model_of_more_than_2_gb_is_written_without_its_weights_in_memory(tmp_path):
    source = large(tmp_path, (2 << 30) + 400)
    for external_data in ("auto", "never"):
        read, written = peaks(source, tmp_path / "out.onnx", external_data)
        assert read < 12
        assert written < 24
        loaded = model_io.load(tmp_path / "out.onnx")
        tensor = loaded.graph.initializers["w3"].const_value
        assert tensor.numpy()[-1] == 7
        assert not tensor.numpy()[:-1].any()


# Nothing is lost.


def rich() -> onnx.ModelProto:
    proto = simple()
    proto.producer_name, proto.producer_version = "tool", "1.2"
    proto.domain, proto.model_version, proto.doc_string = "my.domain", 7, "what it is"
    proto.opset_import.append(helper.make_opsetid("here", 3))
    helper.set_model_props(proto, {"a": "1", "b": "two"})
    graph = proto.graph
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="g", value="h")
    graph.value_info.append(
        helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["N", 64], doc_string="hidden")
    )
    graph.input[0].doc_string = "an input"
    graph.input[0].type.denotation = "TENSOR"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.node[0].doc_string = "a node"
    graph.node[0].metadata_props.add(key="n", value="m")
    graph.initializer[0].doc_string = "a weight"
    graph.initializer[0].metadata_props.add(key="t", value="u")
    small = numpy_helper.from_array(np.arange(3), "small")
    small.metadata_props.add(key="t", value="u")
    graph.initializer.append(small)
    annotation = graph.quantization_annotation.add(tensor_name="h0")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    body = [helper.make_node("Selu", ["a"], ["b"])]
    body[0].attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        "here", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 21)], ["slope"]
    )
    function.doc_string = "a function"
    proto.functions.append(function)
    graph.node[2].CopyFrom(helper.make_node("Act", ["h1"], ["y"], domain="here", slope=0.5))
    info = proto.training_info.add()
    info.algorithm.CopyFrom(helper.make_graph([], "step", [], []))
    info.initialization_binding.add(key="w", value="w0")
    return proto


def test_everything_in_the_proto_survives(tmp_path):
    proto = rich()
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    for source in (loaded, loaded.clone(), model_io.load(proto)):
        model_io.save(source, tmp_path / "out.onnx")
        found = without_value_info(onnx.load(tmp_path / "out.onnx"))
        assert found == without_value_info(proto)


def sparse(name: str = "", positions: int = 1) -> onnx.SparseTensorProto:
    indices = (
        np.array([3, 100, 4000]) if positions == 1 else np.array([[0, 3], [1, 36], [62, 32]])
    )
    return onnx.SparseTensorProto(
        values=numpy_helper.from_array(np.array([1, 2, 3], np.float32), name),
        indices=numpy_helper.from_array(indices),
        dims=[64, 64],
    )


@pytest.mark.parametrize("positions", [1, 2])
def test_sparse_initializers_are_seen_as_dense_and_stay_sparse(tmp_path, positions):
    nodes = [helper.make_node("MatMul", ["x", "s"], ["y"])]
    proto = model(nodes=nodes, sparse_initializer=[sparse("s", positions)])
    source = write(tmp_path / "m.onnx", proto)
    loaded = model_io.load(source)
    tensor = loaded.graph.initializers["s"].const_value
    expected = np.zeros((64, 64), np.float32)
    expected.reshape(-1)[[3, 100, 4000]] = [1, 2, 3]
    np.testing.assert_array_equal(tensor.numpy(), expected)
    model_io.save(loaded, tmp_path / "out.onnx")
    assert without_value_info(onnx.load(tmp_path / "out.onnx")) == proto
    np.testing.assert_array_equal(run(tmp_path / "out.onnx"), run(source))


def test_sparse_constants_stay_sparse(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["s"], sparse_value=sparse()),
        helper.make_node("MatMul", ["x", "s"], ["y"]),
    ]
    proto = model(nodes=nodes)
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    assert isinstance(loaded.graph[0].attributes["value"].value, SparseTensor)
    model_io.save(loaded, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto


def test_types_with_maps_survive(tmp_path):
    # What scikit-learn's classifiers end in.
    nodes = [
        helper.make_node(
            "ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
        ),
        helper.make_node("Neg", ["x"], ["y"]),
    ]
    proto = model(nodes=nodes)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    proto.graph.output.append(
        helper.make_value_info(
            "z",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(
                    TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
                )
            ),
        )
    )
    model_io.save(model_io.load(write(tmp_path / "m.onnx", proto)), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto


def test_sequence_and_optional_inputs_survive(tmp_path):
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 4])
    proto = model(nodes=[helper.make_node("Neg", ["x"], ["y"])])
    for name, kind in (
        ("seq", helper.make_sequence_type_proto(tensor)),
        ("opt", helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor))),
    ):
        proto.graph.input.append(helper.make_value_info(name, kind))
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    model_io.save(loaded, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto
    with pytest.raises(ModelError, match="model/input-type"):
        model_io.input_specs(loaded)


def test_string_tensors_survive(tmp_path):
    words = np.array(["", "a", "\u00e9\u4e2d", "b" * 5000], object)
    proto = model(nodes=[helper.make_node("Neg", ["x"], ["y"])])
    proto.graph.initializer.append(numpy_helper.from_array(words, "words"))
    model_io.save(model_io.load(write(tmp_path / "m.onnx", proto)), tmp_path / "out.onnx")
    assert without_value_info(onnx.load(tmp_path / "out.onnx")) == proto


# The bytes.


def test_the_bytes_are_those_of_the_plain_serializer(tmp_path):
    for proto in (simple(), branching(), rich()):
        proto.ClearField("training_info")  # which onnx_ir does not write
        for tensor in proto.graph.initializer:
            tensor.ClearField("metadata_props")  # which it writes twice
        loaded = model_io.load(write(tmp_path / "m.onnx", proto))
        model_io.save(loaded, tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx").read_bytes() == ir.to_proto(loaded).SerializeToString()


@pytest.mark.parametrize("external_data", ["never", "always"])
def test_the_same_model_is_the_same_bytes(tmp_path, external_data):
    source = write(tmp_path / "m.onnx", rich())
    contents = []
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
        model_io.save(model_io.load(source), tmp_path / folder / "out.onnx", external_data)
        contents.append({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()})
        source = tmp_path / folder / "out.onnx"  # written once more from what was written
    assert contents[0] == contents[1] == contents[2]


@st.composite
def tensors(draw) -> TensorProto:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 40), max_size=3))
    seed = draw(st.integers(0, 99))
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    return ir.to_proto(ir.tensor(array))


@given(
    initializers=st.lists(tensors(), max_size=4),
    constants=st.lists(tensors(), max_size=3),
    inner=st.lists(tensors(), max_size=2),
    external_data=st.sampled_from(["never", "always"]),
)
@settings(max_examples=60, deadline=None)
def test_any_model_survives_being_written_and_read(
    tmp_path_factory, initializers, constants, inner, external_data
):
    folder = tmp_path_factory.mktemp("any")
    for index, tensor in enumerate(initializers):
        tensor.name = f"w{index}"
    for index, tensor in enumerate(inner):
        tensor.name = f"v{index}"
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 64])],
        inner,
    )
    nodes = [
        helper.make_node("Constant", [], [f"k{index}"], value=tensor)
        for index, tensor in enumerate(constants)
    ]
    nodes.append(helper.make_node("Cast", ["x"], ["c0"], to=TensorProto.BOOL))
    nodes.append(helper.make_node("If", ["c0"], ["y"], then_branch=body, else_branch=body))
    proto = model(nodes=nodes)
    proto.graph.initializer.extend(initializers)
    source = write(folder / "m.onnx", proto)
    model_io.save(model_io.load(source), folder / "one.onnx", external_data)
    model_io.save(model_io.load(folder / "one.onnx"), folder / "two.onnx", "never")
    loaded = model_io.load(source)
    assert (folder / "two.onnx").read_bytes() == ir.to_proto(loaded).SerializeToString()
    found = onnx.load(folder / "one.onnx").graph
    assert [numpy_helper.to_array(t).tobytes() for t in found.initializer] == [
        numpy_helper.to_array(t).tobytes() for t in initializers
    ]


def test_damaged_models_are_refused_or_read_and_never_crash(tmp_path):
    """Random damage: a model, or one line of refusal; what is read can be written."""
    rng = np.random.default_rng(1)
    whole = [proto.SerializeToString() for proto in (rich(), branching())]
    accepted = 0
    for round_ in range(400):
        content = bytearray(whole[round_ % 2])
        graph_only = len(content) - 33_000 if round_ % 4 < 2 else len(content)
        for _ in range(int(rng.integers(1, 4))):
            content[int(rng.integers(0, max(graph_only, 1)))] = int(rng.integers(0, 256))
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        error = None
        try:
            loaded = model_io.load(path)
            model_io.save(loaded, tmp_path / "out.onnx")
            accepted += 1
        except (ModelError, OutputError) as caught:
            error = caught
        assert "\n" not in str(error)
    assert accepted > 20


# External data.


def test_the_form_of_the_input_is_kept_by_default(tmp_path):
    source = write(tmp_path / "m.onnx", simple())
    embedded = model_io.save(model_io.load(source), tmp_path / "a.onnx")
    assert embedded.external_path is None
    model_io.save(model_io.load(source), tmp_path / "b.onnx", "always")
    external = model_io.save(model_io.load(tmp_path / "b.onnx"), tmp_path / "c.onnx")
    assert external.external_path is not None
    assert external.size_bytes == sum(
        path.stat().st_size for path in (external.path, external.external_path)
    )


def test_tied_weights_are_written_once(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    values = loaded.graph.initializers
    values["v"].const_value = values["w"].const_value
    saved = model_io.save(loaded, tmp_path / "out.onnx", "always")
    assert saved.external_path.stat().st_size == WEIGHT.nbytes
    again = model_io.load(tmp_path / "out.onnx").graph.initializers
    np.testing.assert_array_equal(again["v"].const_value.numpy(), WEIGHT)


def test_large_tensors_start_at_a_page(tmp_path):
    proto = simple()
    proto.graph.initializer.append(
        numpy_helper.from_array(np.ones(1 << 18, np.float32), "large")
    )
    loaded = model_io.load(write(tmp_path / "m.onnx", proto))
    model_io.save(loaded, tmp_path / "out.onnx", "always")
    for tensor in onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert int(entries["offset"]) % (4096 if tensor.name == "large" else 64) == 0


def test_the_previous_data_file_is_removed_and_no_other(tmp_path):
    path = write(tmp_path / "m.onnx", simple())
    first = model_io.save(model_io.load(path), path, "always").external_path
    strangers = ["m.onnx.data", "m.onnx.0123456789abcdef.data", "x.onnx.0123456789abcdef.data"]
    for name in strangers:
        (tmp_path / name).write_bytes(b"mine")
    loaded = model_io.load(path)
    loaded.graph.initializers["w"].const_value = ir.tensor(WEIGHT * 2, name="w")
    second = model_io.save(loaded, path).external_path
    assert second != first
    assert sorted(os.listdir(tmp_path)) == sorted(["m.onnx", second.name, *strangers])
    third = model_io.save(model_io.load(path), path, "never")
    assert third.external_path is None
    assert sorted(os.listdir(tmp_path)) == sorted(["m.onnx", *strangers])
    found = onnx.load(path).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(found[0]), WEIGHT * 2)
    np.testing.assert_array_equal(numpy_helper.to_array(found[1]), WEIGHT.T)


def test_external_data_of_the_input_may_be_overwritten_by_the_output(tmp_path):
    source = tmp_path / "m.onnx"
    onnx.save(simple(), source, save_as_external_data=True, location="m.onnx.data")
    loaded = model_io.load(source)
    model_io.save(loaded, tmp_path / "m.onnx.data", "never")
    assert (
        onnx.load(tmp_path / "m.onnx.data").graph.initializer[0].raw_data == WEIGHT.tobytes()
    )


# Whole or not at all.


def test_input_and_output_may_be_the_same_file(tmp_path):
    path = write(tmp_path / "m.onnx", simple())
    before = run(path)
    for external_data in ("never", "always", "auto", "never"):
        model_io.save(model_io.load(path), path, external_data)
        np.testing.assert_array_equal(run(path), before)
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_what_is_staged_is_byte_for_byte_what_is_committed(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    target = tmp_path / "out.onnx"
    with model_io.staged(target, "always") as stage:
        stage.write(loaded)
        assert not target.exists()
        expected = run(stage.path)
        staged = stage.path.read_bytes(), stage.external_path.read_bytes()
        inode = stage.path.stat().st_ino
        saved = stage.commit()
    assert (saved.path.read_bytes(), saved.external_path.read_bytes()) == staged
    assert target.stat().st_ino == inode
    np.testing.assert_array_equal(run(target), expected)


def test_what_is_not_committed_leaves_nothing(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    with model_io.staged(tmp_path / "m.onnx", "always") as stage:
        stage.write(loaded)
    # A process that was started in the background may ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = pytest.raises(KeyboardInterrupt)
    with interrupted, model_io.staged(tmp_path / "new.onnx") as stage:
        stage.write(loaded)
        os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == simple().SerializeToString()


def test_a_stage_can_be_written_again(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    with model_io.staged(tmp_path / "out.onnx", "always") as stage:
        stage.write(loaded)
        loaded.graph.initializers["w"].const_value = ir.tensor(WEIGHT * 3, name="w")
        stage.write(loaded)
        saved = stage.commit()
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["m.onnx", "out.onnx", saved.external_path.name]
    )
    weights = model_io.load(tmp_path / "out.onnx").graph.initializers
    np.testing.assert_array_equal(weights["w"].const_value.numpy(), WEIGHT * 3)


def refused(path: pathlib.Path, loaded: ir.Model, code: str) -> None:
    with pytest.raises(OutputError) as caught:
        model_io.save(loaded, path)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert str(path) in caught.value.message


def test_outputs_that_cannot_be_written(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "folder", loaded, "output/directory")
    refused(tmp_path / "pipe", loaded, "output/not-a-file")
    refused(tmp_path / "none" / "out.onnx", loaded, "output/no-folder")
    refused(tmp_path / "m.onnx" / "out.onnx", loaded, "output/no-folder")
    refused(pathlib.Path("/dev/null"), loaded, "output/not-a-file")
    refused(pathlib.Path("/proc/out.onnx"), loaded, "output/failed")
    refused(tmp_path / ("n" * 300), loaded, "output/failed")
    assert sorted(os.listdir(tmp_path)) == ["folder", "m.onnx", "pipe"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_as_output_is_replaced_and_its_target_kept(tmp_path, caplog):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    (tmp_path / "out.onnx").symlink_to("m.onnx")
    loaded.graph.initializers["w"].const_value = ir.tensor(WEIGHT * 2, name="w")
    model_io.save(loaded, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").is_symlink()
    assert "out.onnx was a link to m.onnx: the link is replaced" in caplog.text
    assert (tmp_path / "m.onnx").read_bytes() == simple().SerializeToString()


def test_permissions_are_the_usual_ones_or_those_of_the_old_file(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    mask = os.umask(0)
    os.umask(mask)
    model_io.save(loaded, tmp_path / "new.onnx")
    assert stat.S_IMODE((tmp_path / "new.onnx").stat().st_mode) == 0o666 & ~mask
    (tmp_path / "m.onnx").chmod(0o640)
    model_io.save(loaded, tmp_path / "m.onnx")
    assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o640


@pytest.mark.parametrize("external_data", ["never", "always"])
@pytest.mark.parametrize("call", ["write", "copy_file_range", "pread", "fsync", "replace"])
def test_a_full_disk_at_any_moment_leaves_the_old_model(
    tmp_path, monkeypatch, call, external_data
):
    """Every single call that writes fails once; the old files stay as they are."""
    path = tmp_path / "m.onnx"
    write(path, simple())
    model_io.save(model_io.load(path), path, external_data)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = getattr(os, call)
    failures = 0
    for fail_at in range(1, 20):
        loaded = model_io.load(path)
        loaded.graph.initializers["v"].const_value = ir.tensor(WEIGHT * 2, name="v")
        calls = 0

        def failing(*args, fail_at=fail_at):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(28, os.strerror(28))
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            code = ""
            try:
                model_io.save(loaded, path, external_data)
            except OutputError as error:
                code = error.code
        if not code:
            break
        failures += 1
        assert code == "output/no-space"
        now = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        assert now.keys() >= before.keys()
        assert not [name for name in now if name.startswith(".")]
        if call in ("fsync", "replace"):
            # The rename of the data file may have happened: the old model does not use it.
            assert all(now[name] == before[name] for name in before if name != "m.onnx")
        else:
            assert now == before
        run(path)
        write(path, simple())
        model_io.save(model_io.load(path), path, external_data)
        for name in set(os.listdir(tmp_path)) - before.keys():
            (tmp_path / name).unlink()
    assert calls < fail_at, "no call was made to fail"
    unused = {("copy_file_range", "always"), ("pread", "never")}
    assert failures or (call, external_data) in unused


KILLED = """
import sys
from graphopt import model_io
model = model_io.load(sys.argv[1])
print("ready", flush=True)
while True:
    for mode in ("always", "never"):
        model_io.save(model, sys.argv[2], mode)
"""


def test_a_kill_at_any_moment_leaves_a_whole_model(tmp_path):
    proto = simple()
    proto.graph.initializer.append(
        numpy_helper.from_array(RNG.standard_normal((64, 20_000)).astype(np.float32), "big")
    )
    source = write(tmp_path / "m.onnx", proto)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "out.onnx"
    loaded = model_io.load(source)
    model_io.save(loaded, target)
    expected = run(source)
    rng = np.random.default_rng(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, source, target], stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        np.testing.assert_array_equal(run(target), expected)
    saved = model_io.save(loaded, target, "always")
    # The one that comes next removes what the killed ones left half-written.
    names = {name for name in os.listdir(target.parent) if not name.endswith(".data")}
    assert names == {"out.onnx"}
    assert saved.external_path.exists()


def test_two_processes_write_one_output(tmp_path):
    source = write(tmp_path / "m.onnx", simple())
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "out.onnx"
    script = KILLED.replace("while True:", "for _ in range(15):")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, source, target], stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    while any(process.poll() is None for process in processes):
        if target.exists():
            # The data file may be replaced between the two looks; the model is always whole.
            onnx.load(target, load_external_data=False)
        time.sleep(0.01)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert os.listdir(target.parent) == ["out.onnx"]
    np.testing.assert_array_equal(run(target), run(source))


def test_a_tensor_that_lies_about_its_size_is_a_defect(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    lie = ir.LazyTensor(
        lambda: ir.tensor(WEIGHT[:-1]), ir.DataType.FLOAT, ir.Shape([64, 64]), name="w"
    )
    loaded.graph.initializers["w"].const_value = lie
    with pytest.raises(PassError, match="tensor-size"):
        model_io.save(loaded, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_what_lies_otherwise_in_memory_is_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(sink, "BUFFER_BYTES", 1000)  # no whole number of rows
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    loaded.graph.initializers["w"].const_value = ir.tensor(WEIGHT.T, name="w")
    model_io.save(loaded, tmp_path / "out.onnx")
    written = model_io.load(tmp_path / "out.onnx").graph.initializers["w"].const_value
    np.testing.assert_array_equal(written.numpy(), WEIGHT.T)


def test_tensors_of_passes_are_written(tmp_path):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    transposed = np.asfortranarray(WEIGHT)
    for array in (transposed, np.ascontiguousarray(WEIGHT[::-1])[::-1]):
        loaded.graph.initializers["w"].const_value = ir.tensor(array, name="w")
        model_io.save(loaded, tmp_path / "out.onnx")
        assert (
            onnx.load(tmp_path / "out.onnx").graph.initializer[0].raw_data == WEIGHT.tobytes()
        )
    lazy = ir.LazyTensor(
        lambda: ir.tensor(WEIGHT * 2), ir.DataType.FLOAT, ir.Shape([64, 64]), name="w"
    )
    loaded.graph.initializers["w"].const_value = lazy
    model_io.save(loaded, tmp_path / "out.onnx")
    found = onnx.load(tmp_path / "out.onnx").graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(found), WEIGHT * 2)


# What a caller has to feed.


def test_input_specs(tmp_path):
    proto = model(nodes=[helper.make_node("Neg", ["x"], ["y"])])
    value = helper.make_tensor_value_info
    proto.graph.input.extend([
        value("ids", TensorProto.INT64, ["N", "S"]),
        value("unnamed", TensorProto.FLOAT16, [None, 3]),
        value("words", TensorProto.STRING, [2]),
        value("scalar", TensorProto.BOOL, []),
        value("free", TensorProto.FLOAT, None),
        value("w", TensorProto.FLOAT, [2]),
    ])  # fmt: skip
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    specs = model_io.input_specs(model_io.load(proto))
    assert [(s.name, s.dtype, s.shape, s.ranked) for s in specs] == [
        ("x", np.dtype(np.float32), ("N", 64), True),
        ("ids", np.dtype(np.int64), ("N", "S"), True),
        ("unnamed", np.dtype(np.float16), (None, 3), True),
        ("words", np.dtype(object), (2,), True),
        ("scalar", np.dtype(np.bool_), (), True),
        ("free", np.dtype(np.float32), (), False),
    ]


def test_the_time_for_many_nodes_grows_with_their_number(tmp_path):
    def seconds(count: int) -> float:
        names = ["x", *(f"h{index}" for index in range(count - 1)), "y"]
        nodes = [
            helper.make_node("Neg", [before], [after])
            for before, after in itertools.pairwise(names)
        ]
        path = write(tmp_path / "m.onnx", model(nodes=nodes))
        started = time.process_time()
        model_io.save(model_io.load(path), path)
        return time.process_time() - started

    # Four times the nodes; with anything quadratic it is sixteen times as long.
    assert seconds(40_000) < 9 * seconds(10_000)


@pytest.mark.parametrize("durable", [True, False])
def test_everything_is_on_the_disk_before_a_name_changes(tmp_path, monkeypatch, durable):
    loaded = model_io.load(write(tmp_path / "m.onnx", simple()))
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args, name=name, real=real):
            calls.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, noted)
    model_io.save(loaded, tmp_path / "out.onnx", "always", durable=durable)
    renames = ["replace", "replace"]
    assert calls == (["fsync", "fsync", *renames, "fsync"] if durable else renames)


TEXTS = ["tool", "1.2", "my.domain", "what it is", "two", "a graph", "hidden", "an input",
         "TENSOR", "DATA_BATCH", "a node", "a weight", "SCALE_TENSOR", "a function", "slope",
         "small", "Act"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_is_not_utf_8_is_refused_wherever_it_is(tmp_path, text):
    old = text.encode()
    content = rich().SerializeToString()
    assert old in content
    at = content.index(bytes([len(old)]) + old) + 1
    path = tmp_path / "m.onnx"
    path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    with pytest.raises(ModelError, match=r"model/(encoding|undefined-input)"):
        model_io.load(path)

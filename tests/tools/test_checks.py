"""Checks: every way a model can be wrong has its kind."""

from __future__ import annotations

import contextlib
import pathlib
import sys

import faulty
import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.debug.checks import CommandCheck, NumericCheck, Verdict, verdict_of
from graphopt.errors import ExecutionError, ModelError, ValidationError
from graphopt.passbase import Promise
from graphopt.runtime import Runtime
from graphopt.samples import Samples
from graphopt.validation import Tolerance

FEEDS = [{"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}]


@pytest.fixture(scope="module")
def runtime():
    with contextlib.closing(Runtime(timeout=60)) as one:
        yield one


def check_of(runtime: Runtime, **options) -> NumericCheck:
    return NumericCheck.of(faulty.chain(2), Samples.from_feeds(FEEDS), runtime, **options)


def changed(tmp_path: pathlib.Path, old: str, new: str, scale: float = 1) -> pathlib.Path:
    model = faulty.chain(2)
    for node in model.graph:
        if node.op_type == old:
            node.op_type = new
    weight = model.graph.initializers["w"].const_value
    model.graph.initializers["w"].const_value = ir.tensor(
        (weight.numpy() * scale).astype(np.float32)
    )
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(model), path)
    return path


class TestNumericCheck:
    def test_the_same_model_passes(self, runtime: Runtime, tmp_path: pathlib.Path) -> None:
        path = changed(tmp_path, "", "")
        assert check_of(runtime)(path, runtime) == Verdict("passed")

    def test_other_answers_are_a_difference(self, runtime: Runtime, tmp_path) -> None:
        verdict = check_of(runtime)(changed(tmp_path, "Sigmoid", "Tanh"), runtime)
        assert verdict.kind == "differs"
        assert verdict.detail.startswith("output 'y': it differs by ")

    @pytest.mark.parametrize(("rtol", "kind"), [(1e-2, "passed"), (1e-6, "differs")])
    def test_the_tolerance_decides(self, runtime, tmp_path, rtol: float, kind: str) -> None:
        check = check_of(runtime, tolerance=Tolerance(rtol=rtol, atol=0))
        assert check(changed(tmp_path, "", "", 1.001), runtime).kind == kind

    @pytest.mark.parametrize(("target", "kind"), [(None, "passed"), (60.0, "differs")])
    def test_a_lossy_model_is_held_to_its_target(
        self, runtime, tmp_path, target, kind
    ) -> None:
        check = check_of(runtime, promise=Promise.LOSSY, metric="sqnr", target=target)
        assert check(changed(tmp_path, "", "", 1.1), runtime).kind == kind

    @pytest.mark.parametrize(("target", "kind"), [(None, "passed"), (0.5, "differs")])
    def test_a_function_of_ones_own_judges_a_lossy_model(
        self, runtime, tmp_path, monkeypatch, target, kind
    ) -> None:
        source = (
            "def equal(outputs, reference):\n    return (outputs['y'] == reference['y']).all()"
        )
        (tmp_path / "own_score.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        check = check_of(
            runtime, promise=Promise.LOSSY, metric="own_score:equal", target=target
        )
        assert check(changed(tmp_path, "", ""), runtime).passed
        verdict = check(changed(tmp_path, "", "", 1.1), runtime)
        assert verdict.kind == kind
        assert verdict.detail == (
            "" if target is None else "own_score:equal is 0, and the target is 0.5"
        )

    def test_a_model_that_does_not_load_is_refused(self, runtime: Runtime, tmp_path) -> None:
        verdict = check_of(runtime)(changed(tmp_path, "Sigmoid", "NoSuchOperator"), runtime)
        assert verdict.kind == "refused"
        assert "NoSuchOperator" in verdict.detail

    def test_another_output_is_a_difference(self, runtime: Runtime, tmp_path) -> None:
        model = graphs.load("g (float[N,4] x) => (float[N,4] z) { z = Sigmoid(x) }")
        onnx.save(ir.to_proto(model), tmp_path / "m.onnx")
        verdict = check_of(runtime)(tmp_path / "m.onnx", runtime)
        assert verdict == Verdict("differs", "the outputs are z and were y")

    def test_an_original_that_does_not_run_is_an_error(self, runtime: Runtime) -> None:
        model = faulty.chain(2)
        next(iter(model.graph)).op_type = "NoSuchOperator"
        with pytest.raises(ValidationError, match="the original: "):
            NumericCheck.of(model, Samples.from_feeds(FEEDS), runtime)


class TestCommandCheck:
    def run(self, code: str, runtime, tmp_path, timeout=None, arguments=()) -> Verdict:
        check = CommandCheck((sys.executable, "-c", code, *arguments), timeout)
        return check(tmp_path / "model.onnx", runtime)

    def test_the_exit_code_decides(self, runtime: Runtime, tmp_path) -> None:
        assert self.run("pass", runtime, tmp_path) == Verdict("passed")
        verdict = self.run("print('first'); print('too bad'); exit(3)", runtime, tmp_path)
        assert verdict == Verdict("command", f"{sys.executable} returned 3: too bad")

    @pytest.mark.parametrize("arguments", [(), ("{model}",)])
    def test_the_path_is_put_in_or_appended(self, runtime, tmp_path, arguments) -> None:
        code = "import sys; _, path = sys.argv; sys.exit(not path.endswith('model.onnx'))"
        assert self.run(code, runtime, tmp_path, arguments=arguments).passed

    def test_a_crash_and_a_hang_have_their_kinds(self, runtime: Runtime, tmp_path) -> None:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
        verdict = self.run(code, runtime, tmp_path)
        assert (verdict.kind, "died of SIGSEGV" in verdict.detail) == ("crashed", True)
        verdict = self.run("import time; time.sleep(1000)", runtime, tmp_path, timeout=0.5)
        assert (verdict.kind, "within 0.5 s" in verdict.detail) == ("timeout", True)

    def test_a_command_that_does_not_exist_is_an_error(self, runtime, tmp_path) -> None:
        with pytest.raises(ValidationError, match="'/no/such/command' cannot be run"):
            CommandCheck.parse("/no/such/command 'with spaces'")(tmp_path / "m", runtime)

    def test_a_command_line_is_split_as_a_shell_does(self) -> None:
        check = CommandCheck.parse("check 'a b' --model={model}", 5)
        assert check == CommandCheck(("check", "a b", "--model={model}"), 5)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ExecutionError("crashed", "it died"), "crashed"),
        (ExecutionError("timeout", "too long"), "timeout"),
        (ExecutionError("refused", "no"), "refused"),
        (ExecutionError("closed", "gone"), "failed"),
        (MemoryError("no more"), "memory"),
        (ZeroDivisionError("oh\nno"), "exception"),
        (ModelError("bad", "no good"), "exception"),
    ],
)
def test_the_kind_of_an_error(error: Exception, kind: str) -> None:
    verdict = verdict_of(error)
    assert verdict.kind == kind
    assert "\n" not in verdict.detail
    assert not verdict.passed

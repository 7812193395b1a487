"""The reducer: smaller, still failing the same way, and nothing of it can go."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import statistics
import sys

import faulty
import graphs
import mutants
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import random_models
from graphopt.tools import reduce_model
from test_faults import FAULTS, FEW, Fault, fault_of

from graphopt.debug import extract
from graphopt.debug.case import Case, count_nodes, weight_bytes
from graphopt.debug.checks import Verdict
from graphopt.debug.failure import Failure, save_case
from graphopt.debug.isolated import Direct
from graphopt.debug.recipe import Recipe
from graphopt.debug.reduce import reduce_case
from graphopt.passbase import Pass
from graphopt.runtime import Runtime


@pytest.fixture(scope="module")
def runtime():
    with contextlib.closing(Runtime(timeout=60)) as one:
        yield one


def failure(runtime: Runtime, *passes: Pass, wanted: str = "differs", **options) -> Failure:
    recipe = Recipe(pathlib.Path("model.onnx"), passes)
    return Failure(recipe, {}, Direct(runtime), Verdict(wanted), **options)


def reduced(runtime: Runtime, fault: Fault) -> tuple[Case, Failure]:
    fails = failure(runtime, fault.mutant)
    case = Case(fault.model, tuple(fault.feeds))
    assert fails(case)
    return reduce_case(case, fails, runtime), fails


def assert_minimal(runtime: Runtime, case: Case, fails: Failure) -> None:
    assert fails(case)
    values = {
        value.name: [np.zeros((4, 4), np.float32)] * len(case.feeds)
        for node in case.model.graph
        for value in node.outputs
    }
    size = len(case.model.graph)
    for place in range(size):
        rest = set(range(size)) - {place}
        smaller = extract.keep_nodes(case, rest, values) if rest else None
        assert not fails(smaller)


@pytest.mark.parametrize(("kind", "seed"), FEW)
def test_a_fault_is_shrunk_to_a_few_nodes(runtime: Runtime, kind: str, seed: int) -> None:
    fault = fault_of(runtime, kind, seed)
    case, fails = reduced(runtime, fault)
    inside = kind in mutants.INSIDE or kind == "fused-bias-is-lost"
    assert count_nodes(case.model) <= (3 if inside else 1)
    assert weight_bytes(case.model) <= 200
    assert len(case.feeds) == 1
    assert_minimal(runtime, case, fails)
    assert fault.mutant.at in {node.name for g in case.model.graphs() for node in g}
    graphs.check(case.model)
    random_models.assert_consistent(case.model)


@pytest.mark.slow
def test_all_faults_are_shrunk(runtime: Runtime) -> None:
    sizes, weights = [], []
    for kind, seed in FAULTS:
        case, fails = reduced(runtime, fault_of(runtime, kind, seed))
        sizes.append(count_nodes(case.model))
        weights.append(weight_bytes(case.model))
        assert_minimal(runtime, case, fails)
    middle = statistics.median(sizes)
    print(f"{len(sizes)} faults: {middle} nodes in the median, {max(sizes)} at most, "
          f"{max(weights)} bytes of weights at most")  # fmt: skip
    assert middle <= 3
    assert max(sizes) <= 8
    assert max(weights) <= 10_000


def test_hints_lead_to_the_fault_at_once(runtime: Runtime) -> None:
    size = 400
    model = faulty.chain(size)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    case = Case(model, ({"x": x},))
    tries = {}
    for hints in ((), ("i123",)):
        fails = failure(runtime, faulty.Faulty(at="i123"))
        small = reduce_case(case, fails, runtime, hints)
        assert [node.name for node in small.model.graph] == ["i123"]
        tries[hints] = fails.tries
    assert tries[("i123",)] < tries[()]
    assert tries[("i123",)] <= 6


@pytest.mark.parametrize(
    ("how", "kind", "most"), [("raise", "exception", 1), ("invalid", "refused", 1)]
)
def test_every_kind_of_failure_keeps_its_kind(runtime, how, kind, most) -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    fails = failure(runtime, faulty.Faulty(at="i7", how=how))
    wanted = fails.verdict(Case(faulty.chain(12), ({"x": x},)))
    assert wanted.kind == kind
    recipe = Recipe(pathlib.Path("m"), (faulty.Faulty(at="i7", how=how),))
    fails = Failure(recipe, {}, Direct(runtime), wanted)
    small = reduce_case(Case(faulty.chain(12), ({"x": x},)), fails, runtime)
    assert count_nodes(small.model) <= most
    assert fails.verdict(small).kind == kind


def test_another_exception_is_another_failure(runtime: Runtime) -> None:
    wanted = Verdict("exception", "PassError: fuse failed with ZeroDivisionError: oh no")
    fails = Failure(Recipe(pathlib.Path("m"), ()), {}, Direct(runtime), wanted)
    same = Verdict("exception", "PassError: other failed with ZeroDivisionError: elsewhere")
    assert fails.same(same)
    assert not fails.same(Verdict("exception", "PassError: fuse failed with KeyError: 'a'"))
    assert not fails.same(Verdict("differs", "ZeroDivisionError: oh no"))


def test_the_only_sample_that_fails_is_kept(runtime: Runtime) -> None:
    model = graphs.load("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph[0].name = "n_y"
    feeds = tuple({"x": np.full(2, value, np.float32)} for value in (1, 2, -3, 4))
    fails = failure(runtime, mutants.Mutant("relu-is-dropped", "n_y"))
    small = reduce_case(Case(model, feeds), fails, runtime)
    assert len(small.feeds) == 1
    assert float(small.feeds[0]["x"][0]) == -3


def test_a_case_is_written_and_read_back(runtime: Runtime, tmp_path: pathlib.Path) -> None:
    model, at = mutants.network("relu-is-dropped", 0)
    case = Case(model, tuple(mutants.feeds(0)))
    recipe = save_case(case, Recipe(pathlib.Path("m"), ()), tmp_path)
    again = list(recipe.samples().feeds())
    for one, other in zip(again, case.feeds, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert onnx.load(recipe.model).graph.name == "g"
    assert at


class TestCommandLine:
    @pytest.fixture
    def run(self, run_tool):
        return functools.partial(run_tool, "reduce_model")

    def test_people_and_programs_get_the_small_model(self, run, tmp_path) -> None:
        done = run("chain.onnx", "--passes", "faulty{at=i7}", "-o", "small")
        assert done.returncode == 0, done.stderr
        assert "13 -> 1 nodes, 16 -> 0 bytes of weights" in done.stdout
        (node,) = onnx.load(tmp_path / "small/model.onnx").graph.node
        assert (node.name, node.op_type) == ("i7", "Identity")
        done = run("small/model.onnx", "--passes", "faulty{at=i7}", "--data", "small/samples",
                   "-o", "again", "--json", script=True)  # fmt: skip
        data = json.loads(done.stdout)
        assert data["schema"] == "graphopt/reduce/1"
        assert (data["nodes_before"], data["nodes"]) == (1, 1)
        assert data["verdict"]["kind"] == "differs"

    def test_a_model_that_fails_a_command_as_it_is(self, run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "judge.py").write_text(
            "import onnx, sys\n"
            "names = [node.name for node in onnx.load(sys.argv[1]).graph.node]\n"
            "sys.exit('i3' in names and 'i9' in names)"
        )
        command = f"{sys.executable} judge.py"
        done = run("chain.onnx", "--as-is", "--check", command, "-o", "small", "--json")
        assert done.returncode == 0, done.stderr
        model = onnx.load(tmp_path / "small/model.onnx")
        assert [node.name for node in model.graph.node] == ["i3", "i9"]
        assert json.loads(done.stdout)["verdict"]["kind"] == "command"

    def test_a_model_that_refuses_made_up_samples_gets_others(self, run, tmp_path) -> None:
        faulty.save_choosy(tmp_path / "choosy.onnx")
        done = run("choosy.onnx", "--passes", "faulty{at=i}", "-o", "small")
        assert done.returncode == 0, done.stderr
        (node,) = onnx.load(tmp_path / "small/model.onnx").graph.node
        assert (node.name, node.op_type) == ("i", "Identity")
        done = run("choosy.onnx", "--passes", "faulty", "-o", "none")
        assert (done.returncode, done.stdout) == (1, "nothing to shrink: the check passes\n")

    def test_a_model_that_onnxruntime_refuses_is_shrunk_as_it_is(self, run, tmp_path) -> None:
        model = faulty.chain(5)
        model.graph[3].domain = "nowhere"
        model.opset_imports["nowhere"] = 1
        for node in model.graph:  # nothing is known of what nobody can run
            node.outputs[0].shape = None if node.outputs[0].name != "y" else ir.Shape([2, 4])
        onnx.save(ir.to_proto(model), tmp_path / "refused.onnx")
        (tmp_path / "judge.py").write_text(
            "import onnxruntime, sys\n"
            "try: onnxruntime.InferenceSession(sys.argv[1])\n"
            "except Exception as error: sys.exit('nowhere' in str(error))\n"
        )
        command = f"{sys.executable} judge.py"
        done = run("refused.onnx", "--as-is", "--check", command, "-o", "small")
        assert done.returncode == 0, done.stderr
        (node,) = onnx.load(tmp_path / "small/model.onnx").graph.node
        assert (node.name, node.domain) == ("i3", "nowhere")

    def test_nothing_to_shrink_is_exit_code_1(self, run, tmp_path: pathlib.Path) -> None:
        done = run("chain.onnx", "--passes", "faulty", "-o", "small")
        assert done.returncode == 1
        assert done.stdout == "nothing to shrink: the check passes\n"
        assert not (tmp_path / "small").exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["missing.onnx", "-o", "out"], "missing.onnx"),
            (["chain.onnx", "--as-is", "-o", "out"], "--as-is needs a --check"),
            (["chain.onnx"], "Missing option '-o'"),
        ],
    )
    def test_bad_input_is_one_line(self, run, arguments: list[str], said: str) -> None:
        done = run(*arguments)
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]


class TestExtract:
    def test_parts_of_random_models_are_consistent(self) -> None:
        import random

        for seed in range(40):
            rng = random.Random(seed)
            model = random_models.model(rng)
            before = ir.to_proto(model).SerializeToString()
            feed = graphs.random_feeds(model)
            values = {
                value.name: [np.zeros(4, np.float32)]
                for node in model.graph
                for value in node.outputs
            }
            size = len(model.graph)
            keep = set(rng.sample(range(size), k=rng.randint(1, size)))
            part = extract.keep_nodes(Case(model, (feed,)), keep, values)
            assert ir.to_proto(model).SerializeToString() == before
            if part is None:
                continue
            random_models.assert_consistent(part.model)
            assert len(part.model.graph) == len(keep)
            fed = {v.name for v in part.model.graph.inputs if not v.is_initializer()}
            assert fed <= part.feeds[0].keys()


def test_the_same_size_is_told_once(capsys) -> None:
    report = reduce_model._reporting()
    for nodes in (3, 3, 2):
        report(Case(faulty.chain(nodes), ()))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == [
        "still fails: 5 nodes",
        "still fails: 4 nodes",
    ]

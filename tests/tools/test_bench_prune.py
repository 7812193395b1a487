import json

import pytest
from click.testing import CliRunner
from graphopt.models.data import load_digits
from graphopt.models.loop import fit
from graphopt.models.objectives import CrossEntropy
from graphopt.models.settings import Settings
from graphopt.tools import bench_prune


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    path = tmp_path / "student.pt"
    path.write_bytes(b"no checkpoint")
    done = CliRunner().invoke(bench_prune.main, [str(path)])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert str(path) in line
    assert "Traceback" not in line


@pytest.mark.parametrize("name", ["missing.pt", "folder"])
def test_a_path_that_is_no_file_is_told(name, tmp_path):
    (tmp_path / "folder").mkdir()
    done = CliRunner().invoke(bench_prune.main, [str(tmp_path / name)])
    assert done.exit_code == 2
    assert name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ratios", ["", "half", "0.5,2", "1", "../x"])
def test_ratios_are_shares(ratios, tmp_path):
    path = tmp_path / "student.pt"
    path.write_bytes(b"never read")
    done = CliRunner().invoke(bench_prune.main, [str(path), "--ratios", ratios])
    assert done.exit_code == 2
    assert "no list of shares" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_every_tool_gets_a_row_and_a_missing_peer_says_so(tmp_path):
    checkpoint = tmp_path / "student.pt"
    fit("student", load_digits().train, Settings(epochs=2), CrossEntropy(), checkpoint)
    arguments = [checkpoint, "--ratios", "0.5", "--repetitions", "2", "--json"]
    done = CliRunner().invoke(bench_prune.main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    original, peer, plain, recovered = json.loads(done.stdout)
    assert original["tool"] == "original"
    assert "--peers" in peer["failed"]
    assert plain["macs"] == recovered["macs"] < 0.5 * original["macs"]
    assert recovered["accuracy"] >= plain["accuracy"]

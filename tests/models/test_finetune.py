"""From a checkpoint to a smaller network that was fine-tuned, and its ONNX file."""

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from graphopt.models import finetune
from graphopt.models.data import load_digits
from graphopt.models.loop import fit
from graphopt.models.objectives import CrossEntropy
from graphopt.models.settings import Settings
from graphopt.models.teacher import ask


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "student.pt"
    fit("student", load_digits().train, Settings(epochs=2), CrossEntropy(), path)
    return path


def test_the_network_starts_as_what_recovery_left(checkpoint, tmp_path):
    pruned = finetune.prune(checkpoint, tmp_path, "ratio=0.5")
    network = finetune.small_network(checkpoint, pruned)
    images = load_digits().test.images
    with torch.no_grad():
        found = network(torch.from_numpy(images)).numpy()
    expected = ask(pruned.recovered, images)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert network.conv2.weight.shape == (16, 8, 3, 3)
    assert network.flat == 16 * 36


def test_the_command_writes_the_model_and_says_what_each_step_is_worth(checkpoint, tmp_path):
    output = tmp_path / "small.onnx"
    arguments = [checkpoint, "-o", output, "--ratio", "0.75", "--epochs", "2"]
    done = CliRunner().invoke(finetune.main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    onnx.checker.check_model(onnx.load(output), full_check=True)
    lines = [line for line in done.stdout.splitlines() if line.endswith("%")]
    percents = [float(line.split()[-2]) for line in lines]
    assert [line.split("  ")[0] for line in lines] == [
        "original",
        "pruned, weights as they were",
        "pruned, recovered",
        "pruned, recovered, fine-tuned",
    ]
    assert percents[2] > percents[1]
    assert percents[3] > 80
    assert output.stat().st_size < 0.25 * (4 * 79_242)


def test_bad_options_are_one_line(checkpoint, tmp_path):
    arguments = [checkpoint, "-o", tmp_path / "x.onnx", "--prune", "critrion=l1"]
    done = CliRunner().invoke(finetune.main, list(map(str, arguments)))
    assert done.exit_code == 2
    assert "criterion" in done.stderr
    assert len(done.stderr.splitlines()) == 1

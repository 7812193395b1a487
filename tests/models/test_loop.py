"""Training: the right steps, the same bits every time, also after an interruption."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest
import torch
from graphopt.models import checkpoint
from graphopt.models.checkpoint import Checkpoint
from graphopt.models.data import Split, load_digits
from graphopt.models.errors import CheckpointError, TrainingError
from graphopt.models.loop import accuracy, fit
from graphopt.models.networks import create
from graphopt.models.objectives import CrossEntropy, Distillation
from graphopt.models.settings import Settings
from torch.nn import functional

SETTINGS = [
    Settings(epochs=4),
    Settings(epochs=4, schedule="cosine", seed=3),
    Settings(epochs=4, method="gd", lr=0.1),
]


@pytest.fixture(scope="module")
def data() -> Split:
    train = load_digits().train
    return Split(train.images[:100], train.labels[:100])


def same(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two trainings ended with the same bits, and would go on alike."""
    weights = all(
        torch.equal(first.weights[name], second.weights[name]) for name in first.weights
    )
    momenta = all(
        torch.equal(a["momentum_buffer"], b["momentum_buffer"])
        for a, b in zip(
            first.optimizer["state"].values(), second.optimizer["state"].values(), strict=True
        )
    )
    return (
        weights
        and momenta
        and first.losses == second.losses
        and torch.equal(first.order, second.order)
        and torch.equal(first.random, second.random)
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=["sgd", "cosine", "gd"])
@pytest.mark.parametrize("name", ["student", "teacher"])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(
    data: Split, settings: Settings, name: str, tmp_path: pathlib.Path
) -> None:
    whole = fit(name, data, settings, CrossEntropy())
    path = tmp_path / "half.pt"

    def interrupt(what: str, done: int, total: int, note: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(name, data, settings, CrossEntropy(), path, report=interrupt)
    assert checkpoint.load(path).epoch == 2
    torch.manual_seed(99)  # what the next process happens to be in
    resumed = fit(name, data, settings, CrossEntropy(), path, resume=True)
    assert resumed.epoch == 4
    assert same(whole, resumed)
    assert same(whole, checkpoint.load(path))


def test_same_seed_same_bits_and_another_seed_others(data: Split) -> None:
    first, second = (fit("student", data, SETTINGS[0], CrossEntropy()) for _ in range(2))
    other = fit("student", data, dataclasses.replace(SETTINGS[0], seed=1), CrossEntropy())
    assert same(first, second)
    assert not same(first, other)


def test_global_generator_and_threads_are_left_alone(data: Split) -> None:
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit("student", data, Settings(epochs=1), CrossEntropy())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_gradient_descent_is_one_full_step_an_epoch(data: Split) -> None:
    lr, momentum = 0.05, 0.5
    settings = Settings(method="gd", epochs=3, lr=lr, momentum=momentum)
    trained = fit("net", data, settings, CrossEntropy()).weights
    network = create("net", settings.seed)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for _ in range(3):
        network.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                velocity[name] = momentum * velocity[name] + parameter.grad
                parameter -= lr * velocity[name]
    for name, wanted in network.state_dict().items():
        torch.testing.assert_close(trained[name], wanted, rtol=1e-4, atol=1e-6)


def test_every_sample_is_seen_once_an_epoch() -> None:
    seen: list[int] = []

    class Watching(CrossEntropy):
        def __call__(
            self, logits: torch.Tensor, labels: torch.Tensor, samples: torch.Tensor
        ) -> torch.Tensor:
            seen.extend(samples.tolist())
            torch.testing.assert_close(labels, torch.from_numpy(data.labels)[samples])
            return super().__call__(logits, labels, samples)

    train = load_digits().train
    data = Split(train.images[:96], train.labels[:96])
    fit("student", data, Settings(epochs=2), Watching())
    assert sorted(seen[:96]) == sorted(seen[96:]) == list(range(96))
    assert seen[:96] != seen[96:], "the order is the same in every epoch"


def test_batch_larger_than_the_data_is_all_of_it(data: Split) -> None:
    sgd = fit("net", data, Settings(epochs=2, batch_size=1000), CrossEntropy())
    gd = fit("net", data, Settings(epochs=2, method="gd"), CrossEntropy())
    assert same(sgd, gd)


def test_cosine_ends_near_zero(data: Split) -> None:
    rates = {
        schedule: fit(
            "net", data, Settings(epochs=2, lr=0.1, schedule=schedule), CrossEntropy()
        ).optimizer["param_groups"][0]["lr"]
        for schedule in ("constant", "cosine")
    }
    steps = 2 * 3  # of 100 samples in batches of 32
    assert rates["constant"] == 0.1
    assert rates["cosine"] == pytest.approx(
        0.05 * (1 + math.cos(math.pi * (steps - 1) / steps))
    )


def test_longer_training_goes_on(data: Split, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.pt"
    fit("net", data, Settings(epochs=2), CrossEntropy(), path)
    longer = fit("net", data, Settings(epochs=4), CrossEntropy(), path, resume=True)
    assert same(longer, fit("net", data, Settings(epochs=4), CrossEntropy()))


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("student", {}, "network 'net'"),
        ("net", {"lr": 0.5}, "lr 0.01"),
        ("net", {"seed": 1}, "seed 0"),
        ("net", {"epochs": 1}, "epochs 2"),
        ("net", {"schedule": "cosine"}, "schedule 'constant'"),
    ],
)
def test_checkpoint_of_another_training_is_refused(
    data: Split, tmp_path: pathlib.Path, name: str, changes: dict[str, object], what: str
) -> None:
    path = tmp_path / "net.pt"
    fit("net", data, Settings(epochs=2), CrossEntropy(), path)
    before = path.read_bytes()
    settings = dataclasses.replace(Settings(epochs=2), **changes)
    with pytest.raises(CheckpointError, match=f"trained with {what}"):
        fit(name, data, settings, CrossEntropy(), path, resume=True)
    assert path.read_bytes() == before


def test_longer_cosine_is_another_training(data: Split, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.pt"
    fit("net", data, Settings(epochs=2, schedule="cosine"), CrossEntropy(), path)
    longer = Settings(epochs=4, schedule="cosine")
    with pytest.raises(CheckpointError, match="epochs 2"):
        fit("net", data, longer, CrossEntropy(), path, resume=True)


def test_another_objective_is_another_training(data: Split, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.pt"
    fit("net", data, Settings(epochs=1), CrossEntropy(), path)
    objective = Distillation(np.zeros((100, 10), np.float32))
    with pytest.raises(CheckpointError, match="objective 'cross-entropy'"):
        fit("net", data, Settings(epochs=2), objective, path, resume=True)


def test_divergence_is_an_error_and_the_last_checkpoint_is_kept(
    data: Split, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "net.pt"
    with pytest.raises(TrainingError, match=r"diverged.*smaller learning rate"):
        fit("net", data, Settings(epochs=20, lr=50.0), CrossEntropy(), path)
    if path.exists():
        assert all(map(math.isfinite, checkpoint.load(path).losses))


def test_accuracy_is_a_percentage() -> None:
    train = load_digits().train
    network = create("net", 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.fc2.bias[3] = 1.0
    share = 100 * float((train.labels == 3).mean())
    assert accuracy(network, train) == pytest.approx(share)


def test_distillation_learns_the_teacher_not_the_labels(data: Split) -> None:
    # The teacher calls every digit by its neighbour's name.
    wrong = (data.labels + 1) % 10
    answers = 10.0 * np.eye(10, dtype=np.float32)[wrong]
    settings = Settings(epochs=30)
    done = fit("student", data, settings, Distillation(answers, alpha=1.0))
    network = create("student", 0)
    network.load_state_dict(done.weights)
    assert accuracy(network, Split(data.images, wrong)) > 95


@pytest.mark.parametrize(
    "options",
    [
        {"method": "adam"},
        {"epochs": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"batch_size": 0},
        {"schedule": "linear"},
    ],
)
def test_settings_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=next(iter(options))):
        Settings(**options)

"""The distillation loss, against numbers computed by hand."""

import math

import numpy as np
import pytest
import torch
from graphopt.models.errors import TrainingError
from graphopt.models.objectives import CrossEntropy, Distillation, distillation_loss


def softmax(values: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def by_hand(
    student: list[list[float]],
    teacher: list[list[float]],
    labels: list[int],
    temperature: float,
    alpha: float,
) -> float:
    total = 0.0
    for logits, answers, label in zip(student, teacher, labels, strict=True):
        p = softmax(answers, temperature)
        q = softmax(logits, temperature)
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        hard = -math.log(softmax(logits, 1.0)[label])
        total += alpha * temperature**2 * divergence + (1 - alpha) * hard
    return total / len(labels)


STUDENT = [[1.0, 2.0, -1.0], [0.5, 0.0, 0.0]]
TEACHER = [[3.0, 1.0, 0.0], [2.0, -2.0, 1.0]]
LABELS = [0, 2]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_loss_is_the_formula(temperature: float, alpha: float) -> None:
    loss = distillation_loss(
        torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(LABELS), temperature, alpha
    )
    wanted = by_hand(STUDENT, TEACHER, LABELS, temperature, alpha)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_numbers_worked_out_on_paper() -> None:
    # Teacher (1/2, 1/2), student (3/4, 1/4) at T = 1: KL = ln(2/3)/2 + ln(2)/2 = ln(4/3)/2.
    student = torch.tensor([[math.log(3.0), 0.0]])
    teacher = torch.zeros(1, 2)
    loss = distillation_loss(student, teacher, torch.tensor([1]), 1.0, 1.0)
    assert loss.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)
    # Label 1 has probability 1/4: cross-entropy ln 4.
    loss = distillation_loss(student, teacher, torch.tensor([1]), 1.0, 0.5)
    assert loss.item() == pytest.approx(0.25 * math.log(4 / 3) + 0.5 * math.log(4), rel=1e-5)


def test_soft_gradient_does_not_vanish_with_the_temperature() -> None:
    # At high temperature the gradient tends to (z - v) / classes for centred logits
    # (arXiv:1503.02531, equation 4), whatever T is; without T^2 it would tend to 0.
    teacher = torch.tensor([[1.0, 0.0, -1.0]])
    for temperature in (100.0, 1000.0):
        student = torch.tensor([[0.0, 2.0, -2.0]], requires_grad=True)
        distillation_loss(student, teacher, torch.tensor([0]), temperature, 1.0).backward()
        assert student.grad is not None
        torch.testing.assert_close(
            student.grad, (student.detach() - teacher) / 3, rtol=0.05, atol=0.01
        )


def test_same_answers_cost_nothing() -> None:
    logits = torch.tensor(TEACHER)
    loss = distillation_loss(logits, logits.clone(), torch.tensor(LABELS), 4.0, 1.0)
    assert abs(loss.item()) < 1e-6


def test_objective_looks_up_the_answers_of_its_samples() -> None:
    answers = np.array([[9.0, 9.0, 0.0], *TEACHER], np.float32)
    objective = Distillation(answers, temperature=2.0, alpha=0.7)
    loss = objective(torch.tensor(STUDENT), torch.tensor(LABELS), torch.tensor([1, 2]))
    assert loss.item() == pytest.approx(by_hand(STUDENT, TEACHER, LABELS, 2.0, 0.7), rel=1e-5)


def test_description_tells_objectives_apart() -> None:
    answers = np.zeros((2, 3), np.float32)
    objectives = [
        CrossEntropy(),
        Distillation(answers),
        Distillation(answers, temperature=2.0),
        Distillation(answers, alpha=0.5),
        Distillation(answers + 1),
    ]
    assert len({objective.describe() for objective in objectives}) == len(objectives)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": math.inf}, {"alpha": -0.1}, {"alpha": 1.1}],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=next(iter(options))):
        Distillation(np.zeros((1, 3), np.float32), **options)

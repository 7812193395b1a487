"""What a training minimizes: the labels' cross-entropy, or a teacher's answers as well."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from .errors import TrainingError

__all__ = ["CrossEntropy", "Distillation", "Objective", "distillation_loss"]


class Objective(Protocol):
    """A loss of a batch."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, samples: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss.

        Args:
            logits: float32 [B, classes], of the network that is trained.
            labels: int64 [B].
            samples: int64 [B]: which samples of the training data these are.
        """
        ...

    def describe(self) -> str:
        """Return words that tell this objective from any other."""
        ...


class CrossEntropy:
    """The cross-entropy of the labels."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, samples: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss of the batch."""
        del samples
        return functional.cross_entropy(logits, labels)

    def describe(self) -> str:
        """Return the name."""
        return "cross-entropy"


def distillation_loss(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    alpha: float,
) -> torch.Tensor:
    """Return ``alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross-entropy``.

    Softened by ``T``, the teacher's answer says which wrong classes are nearly right. The
    gradient of the soft part shrinks as ``1 / T^2``, which the factor makes up for, so that
    ``alpha`` means the same at every temperature (Hinton, Vinyals, Dean 2015,
    arXiv:1503.02531, section 2.1).

    Args:
        logits: float32 [B, classes], of the student.
        teacher_logits: float32 [B, classes].
        labels: int64 [B].
        temperature: ``T`` > 0.
        alpha: Share of the soft part, in [0, 1].
    """
    soft = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",  # the mean over samples; "mean" would divide by classes too
        log_target=True,
    )
    hard = functional.cross_entropy(logits, labels)
    return alpha * temperature**2 * soft + (1 - alpha) * hard


@dataclasses.dataclass(frozen=True, eq=False)
class Distillation:
    """The labels and a teacher's answers together (see ``distillation_loss``).

    Attributes:
        answers: float32 [N, classes]: the teacher's logits on the training data. A teacher's
            answer to a sample never changes, so it is asked once and not in every epoch.
        temperature: > 0.
        alpha: Share of the teacher, in [0, 1].
    """

    answers: np.ndarray
    temperature: float = 4.0
    alpha: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise TrainingError("settings", f"temperature is {self.temperature}, not > 0.")
        if not 0 <= self.alpha <= 1:
            raise TrainingError("settings", f"alpha is {self.alpha}, not in [0, 1].")

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, samples: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss of the batch."""
        answers = torch.from_numpy(self.answers[samples.numpy()])
        return distillation_loss(logits, answers, labels, self.temperature, self.alpha)

    def describe(self) -> str:
        """Return temperature, mix, and a fingerprint of the teacher."""
        teacher = hashlib.sha256(np.ascontiguousarray(self.answers).tobytes()).hexdigest()[:12]
        return f"distillation T={self.temperature:g} alpha={self.alpha:g} teacher={teacher}"

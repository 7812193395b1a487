"""What a teacher answers: a checkpoint run by PyTorch, or any ONNX file run by onnxruntime."""

from __future__ import annotations

import pathlib

import numpy as np

from graphopt.runtime import Runtime

from .errors import TrainingError

__all__ = ["ask"]

_BATCH = 256


def ask(teacher: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Return the teacher's logits, float32 [N, classes].

    Args:
        teacher: An ``.onnx`` file with one input, whose first output are logits (not
            probabilities), or a checkpoint.
        images: float32 [N, 1, 6, 6].

    Raises:
        TrainingError: The ONNX file has another interface, or answers nonsense.
        CheckpointError: The file is no checkpoint.
        ExecutionError: onnxruntime does not run the file.
    """
    if teacher.suffix == ".onnx":
        answers = _ask_onnx(teacher, images)
    else:
        answers = _ask_checkpoint(teacher, images)
    if answers.shape[:1] != images.shape[:1] or answers.ndim != 2:
        raise TrainingError(
            "teacher",
            f"{teacher} answers {list(answers.shape)} to {len(images)} images; "
            "one row of logits an image was expected.",
        )
    if not np.isfinite(answers).all():
        raise TrainingError("teacher", f"{teacher} answers NaN or infinity.")
    return answers.astype(np.float32)


def _ask_checkpoint(teacher: pathlib.Path, images: np.ndarray) -> np.ndarray:
    import torch

    from .checkpoint import load_network

    network = load_network(teacher)
    with torch.no_grad():
        parts = [
            network(torch.from_numpy(images[start : start + _BATCH])).numpy()
            for start in range(0, len(images), _BATCH)
        ]
    return np.concatenate(parts)


def _ask_onnx(teacher: pathlib.Path, images: np.ndarray) -> np.ndarray:
    with Runtime() as runtime, runtime.session(teacher) as session:
        if len(session.input_specs) != 1:
            raise TrainingError(
                "teacher", f"{teacher} has {len(session.input_specs)} inputs, not 1."
            )
        spec = session.input_specs[0]
        # A model with a fixed batch is asked in pieces of that size, where they come out even.
        fixed = spec.shape[0] if spec.shape else None
        size = fixed if isinstance(fixed, int) else _BATCH
        if isinstance(fixed, int) and len(images) % fixed:
            raise TrainingError(
                "teacher",
                f"{teacher} takes {fixed} images at a time; {len(images)} are not a multiple.",
                hint="Export the teacher with a dynamic batch dimension.",
            )
        parts = [
            session.run({spec.name: images[start : start + size]})[session.output_names[0]]
            for start in range(0, len(images), size)
        ]
    return np.concatenate([np.atleast_1d(part) for part in parts])

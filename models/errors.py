"""Errors of what happens before graphopt: training, export, fetching."""

from __future__ import annotations

from graphopt.errors import EXIT_INVALID, GraphoptError

__all__ = ["CheckpointError", "ExportError", "FetchError", "TrainingError"]


class TrainingError(GraphoptError):
    """The training cannot be done as it was asked for, or went astray."""

    family = "training"


class CheckpointError(GraphoptError):
    """A checkpoint cannot be read, or belongs to another training."""

    family = "checkpoint"


class ExportError(GraphoptError):
    """The exported model differs from the network, or could not be exported."""

    family = "export"
    exit_code = EXIT_INVALID


class FetchError(GraphoptError):
    """A package could not be fetched, or is not what it should be."""

    family = "fetch"

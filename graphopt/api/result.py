"""What ``optimize`` returns."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from graphopt import model_io
from graphopt.api.options import Options
from graphopt.errors import ValidationError
from graphopt.instruments.timing import Measurement
from graphopt.ledger import Ledger
from graphopt.manager import Step
from graphopt.passbase import Progress
from graphopt.report.summary import ModelSummary
from graphopt.runtime import Latency
from graphopt.samples import Samples
from graphopt.validation import Comparison

__all__ = ["Origin", "Result", "require_valid", "speedup_of"]


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a result was made from; the report looks at it again.

    Attributes:
        source: The file, or ``""`` where the model came from memory.
        model: The original; its weights stay where they are.
        passes: The pipeline that was asked for, as text.
        samples: What both models were run on.
        fed: Name of an input -> its shape in the first of them.
        options: How it was gone about.
    """

    source: str
    model: ir.Model
    passes: str
    samples: Samples
    fed: Mapping[str, tuple[int, ...]]
    options: Options


@dataclasses.dataclass(frozen=True)
class Result:
    """What ``optimize`` returns.

    Attributes:
        model: The optimized model.
        before, after: Size, nodes, parameters … of the original and of the result.
        comparison: The proof: original and result on the same samples in onnxruntime.
        latency: Measured latency of the original and of the result; empty if not measured.
        ledger: Every rewrite, and every reason not to.
        steps: One entry a pass that was run.
        left_out: Text of a pass that did not pay -> why it was left out.
        saved: What was written, if an output was given.
        artifacts: What passes published: plans, tables.
        measurements: Time, nodes and bytes of each step.
        step_latencies: Latency after each step, to that of the original; ``None`` where it was
            not measured (see ``Options.measure_each``).
        origin: What it was made from.
    """

    model: ir.Model
    before: ModelSummary
    after: ModelSummary
    comparison: Comparison
    latency: tuple[Latency, ...]
    ledger: Ledger
    steps: tuple[Step, ...]
    left_out: Mapping[str, str]
    saved: model_io.Saved | None
    artifacts: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    step_latencies: tuple[Latency | None, ...]
    origin: Origin

    @property
    def speedup(self) -> float | None:
        """How many times faster than the original; ``None`` if not measured."""
        return speedup_of(self.latency)

    def save(
        self, path: str | os.PathLike[str], external_data: model_io.ExternalData = "auto"
    ) -> model_io.Saved:
        """Write the model, whole or not at all.

        Raises:
            ValidationError: The model did not validate; it is not written.
            OutputError: ``path`` cannot be written.
        """
        require_valid(self.comparison)
        return model_io.save(self.model, path, external_data=external_data)

    def report(
        self,
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        command: str = "",
    ) -> pathlib.Path:
        """Write the report as one HTML file that needs no network.

        Both models are run on the first samples once more, to compare them layer by layer.

        Args:
            path: Where it goes; written whole or not at all.
            progress: Where this reports.
            command: What was typed, if anything was.

        Returns:
            ``path``.

        Raises:
            OutputError: ``path`` cannot be written.
        """
        from graphopt.report.html import write_report

        return write_report(self, path, progress, command)


def require_valid(comparison: Comparison) -> None:
    """Raise unless the comparison passed.

    Raises:
        ValidationError: With the reason the comparison gives.
    """
    if not comparison.passed:
        raise ValidationError(
            "differs",
            f"the result does not validate: {comparison.reason}",
            hint="Find the rewrite to blame with python -m graphopt.tools.bisect_passes.",
        )


def speedup_of(latency: Sequence[Latency]) -> float | None:
    """Return how many times faster the last model is than the first, if it was measured."""
    return 1 / latency[-1].ratio if latency else None

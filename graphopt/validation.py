"""Compares two models on samples, in onnxruntime: the proof of a rewrite."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal, TypeAlias

import onnx_ir as ir

from graphopt.errors import ExecutionError, GraphoptError, ValidationError
from graphopt.metrics import Difference, DifferenceMeter
from graphopt.passbase import Promise
from graphopt.runtime import Runtime
from graphopt.samples import Samples

__all__ = ["Comparison", "Metric", "OutputComparison", "Tolerance", "compare", "judge"]

Metric: TypeAlias = Literal["cosine", "top1", "sqnr"]
Model: TypeAlias = "ir.Model | str | os.PathLike[str]"


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What outputs may differ by: ``|a - b| <= atol * max|a| + rtol * |a|``.

    Attributes:
        rtol: Relative to the element of the reference.
        atol: Relative to the largest absolute value of the output.
    """

    rtol: float = 1e-4
    atol: float = 1e-5


@dataclasses.dataclass(frozen=True)
class OutputComparison:
    """One output of both models.

    Attributes:
        name: Its name.
        dtype: Its element type.
        difference: How far the candidate is from the original.
        passed: Whether that is within what was promised.
        reason: Why not; empty where it passed.
    """

    name: str
    dtype: str
    difference: Difference
    passed: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What comparing two models showed.

    Attributes:
        promise: What was promised.
        outputs: One entry an output.
        samples: How many samples were run.
        described: Where they come from.
        passed: Whether the promise was kept.
        reason: Why not, in one line; empty where it was.
        notes: What the reader has to know to judge the result.
    """

    promise: Promise
    outputs: tuple[OutputComparison, ...]
    samples: int
    described: str
    passed: bool
    reason: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that can be written as JSON."""
        data = dataclasses.asdict(self)
        data["promise"] = self.promise.value
        return data


def compare(
    original: Model,
    candidate: Model,
    samples: Samples,
    promise: Promise,
    runtime: Runtime,
    tolerance: Tolerance | None = None,
    metric: str = "cosine",
    target: float | None = None,
) -> Comparison:
    """Run two models on the same samples and compare their outputs.

    Args:
        original: The reference, run without any optimization.
        candidate: The model that should do the same, run as it is deployed.
        samples: What both are run on.
        promise: How much they may differ.
        runtime: Where they are run.
        tolerance: For ``Promise.CLOSE``.
        metric: For ``Promise.LOSSY``: what ``target`` is measured in.
        target: The least that ``metric`` must be; ``None``: reported, not judged.

    Raises:
        ValidationError: The original cannot be run, so that nothing can be said.
    """
    tolerance = tolerance or Tolerance()
    described = samples.describe()
    try:
        reference = runtime.session(original, optimize=False)
    except ExecutionError as error:
        raise ValidationError("not-runnable", f"the original: {error.message}") from error
    with reference:
        try:
            deployed = runtime.session(candidate)
        except ExecutionError as error:
            return Comparison(promise, (), 0, described, False, error.message)
        with deployed:
            if reference.output_names != deployed.output_names:
                reason = (
                    f"the outputs are {', '.join(deployed.output_names)} and were "
                    f"{', '.join(reference.output_names)}"
                )
                return Comparison(promise, (), 0, described, False, reason)
            meters = {name: DifferenceMeter() for name in reference.output_names}
            kinds: dict[str, str] = {}
            count = 0
            for index, feed in enumerate(samples.feeds()):
                try:
                    want = reference.run(feed)
                except ExecutionError as error:
                    raise ValidationError("not-runnable", error.message) from error
                try:
                    got = deployed.run(feed)
                except GraphoptError as error:
                    return Comparison(promise, (), index, described, False, error.message)
                for name, array in want.items():
                    other = got[name]
                    if array.dtype != other.dtype or array.shape != other.shape:
                        reason = (
                            f"output {name!r} is {other.dtype}{list(other.shape)} and was "
                            f"{array.dtype}{list(array.shape)} on sample {index}"
                        )
                        return Comparison(promise, (), index + 1, described, False, reason)
                    kinds[name] = str(array.dtype)
                    meters[name].add(index, array, other)
                count += 1
    outputs = tuple(
        judge(name, kinds.get(name, ""), meter.result(), promise, tolerance, metric, target)
        for name, meter in meters.items()
    )
    if not count:
        return Comparison(promise, outputs, 0, described, False, "there were no samples")
    reason = "; ".join(f"output {o.name!r}: {o.reason}" for o in outputs if not o.passed)
    return Comparison(promise, outputs, count, described, not reason, reason)


def judge(
    name: str,
    dtype: str,
    difference: Difference,
    promise: Promise,
    tolerance: Tolerance,
    metric: str,
    target: float | None,
) -> OutputComparison:
    """Return whether ``difference`` is within what ``promise`` allows; see ``compare``."""
    reason = ""
    if not difference.elements:
        reason = "it is empty, so that nothing was proven"
    elif difference.not_finite:
        reason = f"{difference.not_finite} elements are NaN or infinite in one model only"
    elif promise is Promise.EXACT:
        if difference.equal < 1:
            reason = f"{1 - difference.equal:.2%} of the elements differ"
    elif promise is Promise.CLOSE:
        allowed = (tolerance.atol + tolerance.rtol) * difference.magnitude
        if difference.max_abs > allowed:
            reason = f"differs by {difference.max_abs:.3g}, and {allowed:.3g} is allowed"
    elif target is not None:
        value = {
            "cosine": difference.cosine,
            "top1": difference.top1,
            "sqnr": difference.sqnr_db,
        }[metric]
        if value is None or not value >= target:
            reason = f"{metric} is {value}, and the target is {target}"
    return OutputComparison(name, dtype, difference, not reason, reason)

"""The answers of a model on a few feeds, and what is wrong with other ones.

For what asks again and again: the reference is run once and kept. What proves a result on all
the samples is ``graphopt.validation``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt import model_io
from graphopt.metrics import Difference, DifferenceMeter
from graphopt.passbase import Promise
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Feed, Samples
from graphopt.validation import Tolerance, judge, tolerance_of

__all__ = [
    "Answers",
    "answers",
    "differences",
    "first_feeds",
    "objection",
    "tolerance_for",
]

Answers: TypeAlias = "list[dict[str, np.ndarray]]"
"""For each feed: output name -> array. The parts of a sequence are ``name[0]`` and so on."""


def first_feeds(samples: Samples, count: int) -> list[Feed]:
    """Return the first ``count`` feeds."""
    return list(itertools.islice(samples.feeds(), count))


def tolerance_for(model: Model) -> Tolerance:
    """Return what another order of operations may do to the outputs of ``model``."""
    return tolerance_of(model if isinstance(model, ir.Model) else model_io.load(model))


def answers(
    model: Model, feeds: Sequence[Feed], runtime: Runtime, *, optimize: bool = False
) -> Answers:
    """Run ``model`` on each of ``feeds``.

    Args:
        model: A model, or the path of one.
        feeds: What it is run on.
        runtime: Where it is run.
        optimize: Let onnxruntime optimize the graph, as it does when the model is deployed.

    Raises:
        ExecutionError: The model does not load or run.
    """
    with runtime.session(model, optimize=optimize) as session:
        return [dict(_arrays(session.run(feed))) for feed in feeds]


def objection(
    reference: Answers,
    others: Answers,
    promise: Promise,
    tolerance: Tolerance,
    metric: str = "cosine",
    target: float | None = None,
) -> str:
    """Return in one line what is wrong with ``others``, or ``""``.

    Args:
        reference: What the answers should be.
        others: What they are, for the same feeds.
        promise: How much they may differ.
        tolerance: For ``Promise.CLOSE``.
        metric: For ``Promise.LOSSY``: what ``target`` is measured in.
        target: The least that ``metric`` must be; ``None``: not judged.
    """
    measured = differences(reference, others, tolerance)
    if isinstance(measured, str):
        return measured
    wrong = []
    for name, found in measured.items():
        if not found.finite and not found.not_finite:
            continue  # an output without a finite element, as it was before
        dtype = str(reference[0][name].dtype)
        verdict = judge(name, dtype, found, promise, tolerance, metric, target)
        if verdict.reason:
            wrong.append(f"output {name!r}: {verdict.reason}")
    return "; ".join(wrong)


def differences(
    reference: Answers, others: Answers, tolerance: Tolerance
) -> dict[str, Difference] | str:
    """Return how far each output is from ``reference``, or why that cannot be measured."""
    meters: dict[str, DifferenceMeter] = {}
    for index, (want, got) in enumerate(zip(reference, others, strict=True)):
        if want.keys() != got.keys():
            return f"the outputs are {', '.join(got)} and were {', '.join(want)}"
        for name, array in want.items():
            other = got[name]
            if array.dtype != other.dtype or array.shape != other.shape:
                return (
                    f"output {name!r} is {other.dtype}{list(other.shape)} and was "
                    f"{array.dtype}{list(array.shape)} on sample {index}"
                )
            meters.setdefault(name, DifferenceMeter(tolerance)).add(index, array, other)
    return {name: meter.result() for name, meter in meters.items()}


def _arrays(outputs: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in outputs.items():
        if isinstance(value, list):
            yield from _arrays({f"{name}[{index}]": item for index, item in enumerate(value)})
        elif isinstance(value, dict):
            yield from _arrays({f"{name}[{key!r}]": value[key] for key in sorted(value)})
        elif value is not None:
            yield name, np.asarray(value)

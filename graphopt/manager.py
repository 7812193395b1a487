"""Runs a pipeline, and calls the instruments between the passes."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir

from graphopt import pipeline
from graphopt.errors import GraphoptError, PassError
from graphopt.model_io.collector import collection_rare
from graphopt.passbase import Context, Pass, PassResult

__all__ = ["Instrument", "PassManager", "Step"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Step:
    """One pass that has run.

    Attributes:
        index: Its place in the pipeline, from 0.
        pass_: The pass.
        result: What it returned.
        rewrites: Numbers of the applications it made: ``range(first, last + 1)``.
        undone: How many of them a guard took back.
        started_s: When it started, on the clock of ``time.perf_counter``.
        wall_s: Seconds it took.
        cpu_s: Seconds of processor time of this process meanwhile.
    """

    index: int
    pass_: Pass
    result: PassResult
    rewrites: range
    undone: int = 0
    started_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def standing(self) -> int:
        """How many of its rewrites stand."""
        return len(self.rewrites) - self.undone

    @property
    def label(self) -> str:
        """Text of the pass, as in a pipeline."""
        return pipeline.format_pass(self.pass_)


class Instrument(Protocol):
    """Looks on between two passes.

    Called once before the first pass (``previous`` is ``None``), between any two, and after
    the last (``next_`` is ``None``). The manager knows nothing of what an instrument does.
    """

    def __call__(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        """Look on between ``previous`` and ``next_``."""
        ...


class PassManager:
    """Runs passes one after the other on one model.

    Args:
        passes: The pipeline.
        instruments: Called between passes, in this order.

    Raises:
        PipelineError: The passes are in an order that one of them forbids.
    """

    def __init__(self, passes: Sequence[Pass], instruments: Sequence[Instrument] = ()) -> None:
        pipeline.check_order(passes)
        self.passes = tuple(passes)
        self.instruments = tuple(instruments)

    def run(self, model: ir.Model, context: Context) -> tuple[ir.Model, list[Step]]:
        """Run the pipeline.

        Args:
            model: Edited in place by most passes; use the returned one.
            context: What the passes share.

        Returns:
            The model after the last pass, and one step a pass.

        Raises:
            SamplesError: A pass needs samples and the context has none; before the first runs.
            PassError: A pass raised something that is not an error of the user's.
        """
        for pass_ in self.passes:
            if pass_.needs_samples:
                context.required_samples(pass_)
        steps: list[Step] = []
        previous: Step | None = None
        for index, pass_ in enumerate(self.passes):
            self._notify(previous, model, pass_)
            first = len(context.ledger) + 1
            started, cpu = time.perf_counter(), time.process_time()
            with collection_rare():
                result = _run_one(pass_, model, context)
            wall, cpu = time.perf_counter() - started, time.process_time() - cpu
            model = result.model
            rewrites = range(first, len(context.ledger) + 1)
            undone = sum(bool(context.ledger.applications[n - 1].undone) for n in rewrites)
            previous = Step(index, pass_, result, rewrites, undone, started, wall, cpu)
            steps.append(previous)
            logger.info("%s: %s", pass_.name, result.summary or "done")
        self._notify(previous, model, None)
        return model, steps

    def _notify(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        for instrument in self.instruments:
            instrument(previous, model, next_)


def _run_one(pass_: Pass, model: ir.Model, context: Context) -> PassResult:
    try:
        return pass_.run(model, context)
    except (GraphoptError, KeyboardInterrupt):
        raise
    except Exception as error:
        where = "; ".join(getattr(error, "__notes__", ()))  # set by Rewriter.apply
        if not where:
            made = context.ledger.applications
            where = f"after rewrite {made[-1].summary()}" if made else "before any rewrite"
        raise PassError(
            "failed",
            f"{pass_.name} failed with {type(error).__name__}: {error}, {where}.",
            hint="Run with --debug for the traceback, and leave the pass out to go on.",
        ) from error

"""How a model is made: a file, a pipeline, samples, a seed, and a number of rewrites."""

from __future__ import annotations

import dataclasses
import pathlib

import onnx_ir as ir

from graphopt import model_io, pipeline
from graphopt.debug.checks import Check, Verdict, verdict_of
from graphopt.errors import ModelError, OutputError, PipelineError, SamplesError
from graphopt.ledger import Application, Ledger
from graphopt.manager import PassManager
from graphopt.passbase import Context, Pass, Target
from graphopt.runtime import Runtime
from graphopt.samples import Samples

__all__ = ["Attempt", "Recipe", "attempt"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a run of passes depends on. Can be sent to another process.

    Attributes:
        model: The original, a file.
        passes: The pipeline.
        data: Samples: an ``.npz`` or a folder of them; ``None``: none are given.
        batch_size: Samples of an ``.npz`` that form one feed.
        seed: Seed of everything random.
        emit: Which operators may be emitted.
    """

    model: pathlib.Path
    passes: tuple[Pass, ...]
    data: pathlib.Path | None = None
    batch_size: int | None = None
    seed: int = 0
    emit: Target = Target.STANDARD

    @property
    def text(self) -> str:
        """The pipeline as text."""
        return pipeline.format_pipeline(self.passes)

    def samples(self, *, synthetic: bool = True) -> Samples | None:
        """Return the samples that are given, or made-up ones where there are none.

        Args:
            synthetic: Make some up; otherwise ``None`` is returned.
        """
        specs = model_io.input_specs(model_io.load(self.model))
        if self.data is not None:
            return Samples.from_path(self.data, specs, batch_size=self.batch_size)
        return Samples.synthetic(specs, seed=self.seed) if synthetic else None

    def context(self, runtime: Runtime, limit: int | None = None) -> Context:
        """Return the context of one run, of at most ``limit`` rewrites."""
        context = Context(
            samples=self.samples(synthetic=False),
            ledger=Ledger(limit),
            target=self.emit,
            seed=self.seed,
        )
        context.share(runtime)
        return context

    def apply(self, context: Context) -> ir.Model:
        """Run the pipeline on a fresh copy of the model."""
        model, _ = PassManager(self.passes).run(model_io.load(self.model), context)
        return model


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What became of one run.

    Attributes:
        verdict: What the check said, or how the run itself failed.
        rewrites: Rewrites that were made; ``None`` where the process died.
        last: The last of them.
    """

    verdict: Verdict
    rewrites: int | None = None
    last: Application | None = None


def attempt(
    runtime: Runtime, recipe: Recipe, check: Check, limit: int | None, output: pathlib.Path
) -> Attempt:
    """Make the model with at most ``limit`` rewrites, write it to ``output`` and check it.

    Raises:
        GraphoptError: The input is bad or the check cannot be made: no verdict on a rewrite.
    """
    context = recipe.context(runtime, limit)
    ledger = context.ledger
    output.unlink(missing_ok=True)
    try:
        model_io.save(recipe.apply(context), output)
    except (ModelError, PipelineError, SamplesError):
        raise
    except Exception as error:
        if isinstance(error, OutputError) and error.code != "output/not-serializable":
            raise
        verdict = verdict_of(error)
    else:
        verdict = check(output, runtime)
    last = ledger.applications[-1] if ledger.applications else None
    return Attempt(verdict, len(ledger), last)

"""``graphopt bench``."""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

import click

from graphopt.cli.options import PATH, read_samples

__all__ = ["bench"]


@click.command()
@click.argument("models", type=PATH, nargs=-1, required=True)
@click.option("--data", type=PATH, help="Samples; the first is used. Default: synthetic.")
@click.option("--batch-size", type=click.IntRange(1), help="Samples that form one feed.")
@click.option("--repetitions", type=click.IntRange(3), default=30, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(models: tuple[pathlib.Path, ...], **given: Any) -> int:
    """Measure the latency of MODELS in onnxruntime, interleaved, each against the first."""
    import dataclasses

    from graphopt import model_io
    from graphopt.report import console as report
    from graphopt.report.progress import progress as progress_on
    from graphopt.runtime import Runtime
    from graphopt.samples import Samples
    from graphopt.validation import accepted

    words = report.console(stderr=True)
    loaded = [model_io.load(path) for path in models]
    with (
        contextlib.closing(Runtime()) as runtime,
        progress_on(words) as progress,
    ):
        samples = read_samples(models[0], given) or accepted(
            Samples.synthetic(model_io.input_specs(loaded[0]), seed=given["seed"]),
            models[0],
            runtime,
        )
        feeds = next(iter(samples.feeds()))
        task = progress.track("measuring latency")
        latencies = runtime.latency(
            list(models), feeds, repetitions=given["repetitions"], threads=given["threads"]
        )
        task.close()
    if given["as_json"]:
        rows = zip(models, latencies, strict=True)
        figures = [{"model": str(path), **dataclasses.asdict(one)} for path, one in rows]
        click.echo(json.dumps(figures, indent=2))
    else:
        names = [path.name for path in models]
        report.console().print(report.latency_table(names, latencies))
        fed = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        words.print(f"{given['threads']} thread(s), fed with {fed or 'nothing'}")
    return 0

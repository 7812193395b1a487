"""Print what a model keeps of its quality as multiplications go, with and without recovery.

Steps, for each share of the multiplications that may be left:
  1. prune-channels cuts the model to it; the samples of --data say what a run is.
  2. The same, and the layers are recovered on these samples, without training.
  3. Both answer the samples of --test, which nothing else looks at; the metric says how
     near they are to the answers of the original.

Typical usage:
  python -m graphopt.tools.prune_curve model.onnx --data train.npz --test test.npz
  python -m graphopt.tools.prune_curve model.onnx --data a --test b --metric mine:lines_right
  python -m graphopt.tools.prune_curve model.onnx --data a --test b --plot curve.svg

Known limitations: nothing is fused, and latency is not measured (bench_prune, graphopt bench).
The plot needs matplotlib, which graphopt does not install by itself.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.runtime import Runtime
    from graphopt.samples import Samples
    from graphopt.scores import UserMetric

__all__ = ["main"]

SCHEMA = "graphopt/prune-curve/1"
RECOVERY = {"plain": "none", "recovered": "least-squares"}


def _shares(context: click.Context, option: click.Parameter, text: str) -> list[float]:
    del context, option
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [0.0]
    if not all(0 < share <= 1 for share in shares):
        raise click.BadParameter(f"{text!r} is no list of shares up to 1, like 0.9,0.8.")
    return shares


def _plottable(
    context: click.Context, option: click.Parameter, path: pathlib.Path | None
) -> pathlib.Path | None:
    """Refuse before the work what could not be drawn after it."""
    if path is not None and path.suffix != ".svg":
        raise click.BadParameter(f"{path.name!r} does not end in .svg.")
    if path is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.BadParameter("it needs matplotlib: pip install matplotlib.")
    return script.output_file(context, option, path)


@click.command("prune_curve", cls=script.Tool, help=__doc__)
@click.argument("model", type=script.PATH)
@click.option("--data", type=script.PATH, required=True, help="Samples to recover on.")
@click.option("--test", type=script.PATH, required=True, help="Samples to judge on.")
@click.option("--batch-size", type=click.IntRange(1), help="Samples of an .npz in a feed.")
@click.option("--macs", "shares", default="0.9,0.8,0.7,0.6,0.5", show_default=True,
              callback=_shares, help="Shares that may be left, by commas.")  # fmt: skip
@click.option("--prune", "options", default="", help="More options of prune-channels.")
@click.option("--metric", default="cosine", show_default=True,
              help="cosine, top1, sqnr, or module:function.")  # fmt: skip
@click.option("--plot", type=script.PATH, callback=_plottable, help="Draw it (.svg).")
def main(
    model: pathlib.Path,
    data: pathlib.Path,
    test: pathlib.Path,
    batch_size: int | None,
    shares: list[float],
    options: str,
    metric: str,
    plot: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Run the tool; see the module docstring."""
    from graphopt import model_io
    from graphopt.runtime import Runtime
    from graphopt.samples import Samples
    from graphopt.scores import metric_of

    specs = model_io.input_specs(model_io.load(model))
    given, judged = (Samples.from_path(p, specs, batch_size=batch_size) for p in (data, test))
    measure = metric_of(metric)
    found: list[dict[str, Any]] = []
    with Runtime() as runtime:
        for share in shares:
            row: dict[str, Any] = {"macs": share}
            for name, recovery in RECOVERY.items():
                text = ",".join(filter(None, (f"macs={share},recovery={recovery}", options)))
                script.say(f"{model.name}: {text}")
                small, row["left"] = _pruned(model, text, given, runtime)
                row[name] = _quality(model, small, judged, measure, runtime)
            found.append(row)
    if plot is not None:
        _draw(found, f"{model.stem}: {metric}", plot)
    if as_json:
        rows = {"model": model.name, "metric": metric, "curve": found}
        script.print_json({"schema": SCHEMA, **rows})
        return
    lines = [(f"{row['left'] - 1:+.1%}", row["plain"], row["recovered"]) for row in found]
    script.print_table(("multiplications", f"{metric}, plain", "recovered"), lines)


def _draw(rows: Sequence[Mapping[str, float]], title: str, path: pathlib.Path) -> None:
    """Draw both curves as lines of a chart in an .svg."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text as text, and the same bytes for the same curve.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "graphopt"}):
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.subplots()
        gone = [100 * (1 - row["left"]) for row in rows]
        for name, style in (("recovered", "o-"), ("plain", "s--")):
            axes.plot(gone, [row[name] for row in rows], style, label=name)
        axes.set(xlabel="% of the multiplications gone", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, metadata={"Date": None})


def _pruned(
    path: pathlib.Path, options: str, samples: Samples, runtime: Runtime
) -> tuple[ir.Model, float]:
    """Return the pruned model, and the share of the multiplications that is left."""
    from graphopt import model_io, pipeline
    from graphopt.passbase import Context

    (step,) = pipeline.parse(f"prune-channels{{{options}}}")
    context = Context(samples=samples)
    context.share(runtime)
    result = step.run(model_io.load(path), context)
    details = result.details
    return result.model, details["multiplications_after"] / details["multiplications"]


def _quality(
    original: pathlib.Path,
    model: ir.Model,
    samples: Samples,
    metric: str | UserMetric,
    runtime: Runtime,
) -> float:
    """Return what ``model`` keeps of the original's quality."""
    from graphopt.quality import QualityMeter

    meter = QualityMeter(metric)
    with runtime.session(original) as one, runtime.session(model) as other:
        for index, feed in enumerate(samples.feeds()):
            meter.add(index, feed, one.run(feed), other.run(feed))
    return meter.result().value


if __name__ == "__main__":
    main()

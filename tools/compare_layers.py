r"""Compare two models tensor by tensor: where do they part?

Steps:
  1. Each tensor of ORIGINAL is looked for in CANDIDATE: by its name or, where a rewrite gave
     its data to another tensor, through the ledger of the run that made CANDIDATE: --ledger,
     or what CANDIDATE itself holds where graphopt optimize --provenance made it.
  2. Both are run on the same samples in onnxruntime, without its optimizations, portion by
     portion: each run returns as many tensors as the memory budget allows.
  3. A table shows, in the order of computation, the error, the signal-to-noise ratio and the
     ranges of every tensor over the threshold (--all: of every tensor), then the first of them
     and the layers that add most noise: for a quantized model, the layers to blame. The first
     tensor with NaN or Inf is named, also where ORIGINAL has them: compare a model with itself
     to find out where they come from.

Typical usage:
  graphopt optimize model.onnx -o fast.onnx --json > run.json
  python -m graphopt.tools.compare_layers model.onnx fast.onnx --ledger run.json
  python -m graphopt.tools.compare_layers model.onnx int8.onnx --ledger run.json \
      --data samples.npz --sqnr 20 --worst 5

Exit code: 0 if no tensor is over the threshold, 1 if one is.

Known limitations: tensors inside If, Loop and Scan cannot be looked at from outside. A tensor
that CANDIDATE does not compute any more (it was folded, or fused into another) is left out;
the last line says how many. What a layer adds is estimated from the noise at its inputs and
its output.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.debug.layers import Layer

__all__ = ["main"]

SCHEMA = "graphopt/compare-layers/1"


@click.command("compare_layers", cls=script.Tool, help=__doc__)
@click.argument("original", type=script.PATH)
@click.argument("candidate", type=script.PATH)
@click.option("--ledger", type=script.PATH, help="JSON of the run that made CANDIDATE.")
@click.option("--data", type=script.PATH, help="Samples: an .npz, or a folder of them.")
@click.option("--batch-size", type=click.IntRange(1),
              help="Samples of an .npz that form one feed.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--samples", "count", type=click.IntRange(1), default=4, show_default=True)
@click.option("--sqnr", type=script.NUMBER, help="Threshold in dB. Default: the tolerance.")
@click.option("--rtol", type=script.TOLERANCE, help="Tolerance, relative to the tensor.")
@click.option("--worst", "top", type=click.IntRange(0), default=5, show_default=True,
              help="How many layers to blame.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="List every tensor.")
@click.option("--memory", type=click.IntRange(1),
              help="Megabytes of tensors that one run may return. Default: 8, or an eighth of "
              "the weights of ORIGINAL if that is more.")  # fmt: skip
@click.option(
    "--timeout", type=script.POSITIVE, default=600.0, show_default=True, help="For one run."
)
def main(original: pathlib.Path, candidate: pathlib.Path, as_json: bool, **given: Any) -> int:
    """Run the tool; see the module docstring."""
    from graphopt import model_io
    from graphopt.analysis.shapes import infer
    from graphopt.answers import first_feeds
    from graphopt.debug.layers import compare_layers, match_names, worst
    from graphopt.debug.ledgers import read_ledger
    from graphopt.debug.portions import budget_for
    from graphopt.instruments import read_provenance
    from graphopt.runtime import Runtime
    from graphopt.samples import Samples
    from graphopt.validation import Tolerance, accepted, tolerance_of

    left, right = model_io.load(original), model_io.load(candidate)
    ledger = read_ledger(given["ledger"]) if given["ledger"] else read_provenance(right)
    specs = model_io.input_specs(left)
    samples = (
        Samples.from_path(given["data"], specs, batch_size=given["batch_size"])
        if given["data"]
        else Samples.synthetic(specs, seed=given["seed"])
    )
    tolerance = Tolerance(given["rtol"]) if given["rtol"] is not None else tolerance_of(left)
    names = match_names(left, right, ledger)
    shapes = {value: shape for value, (_, shape) in infer(left).items()}
    total = sum(len(node.outputs) for node in left.graph)
    with Runtime(given["timeout"]) as runtime:
        layers = compare_layers(
            original,
            candidate,
            names,
            first_feeds(accepted(samples, original, runtime), given["count"]),
            runtime,
            tolerance=tolerance,
            graph=left.graph,
            shapes=shapes,
            budget_bytes=given["memory"] << 20 if given["memory"] else budget_for(left),
        )
    first = next((layer for layer in layers if layer.exceeds(given["sqnr"])), None)
    blamed = worst(layers, given["top"])
    if as_json:
        script.print_json(
            {
                "schema": SCHEMA,
                "first": first and first.name,
                "worst": [layer.name for layer in blamed],
                "compared": len(layers),
                "tensors": total,
                "layers": [_to_json(layer) for layer in layers],
            }
        )
    else:
        shown = [one for one in layers if given["everything"] or one.exceeds(given["sqnr"])]
        _print(layers, shown, first, blamed, total)
    scaled = [one for one in layers if one.exceeds(given["sqnr"]) and one.is_multiple]
    if ledger is None and scaled:
        script.say(
            f"{len(scaled)} of the tensors over the threshold are multiples of ORIGINAL's, "
            f"as {scaled[0].name} is: a rewrite may have moved a factor into other weights. "
            "Pass --ledger with the --json of the run that made CANDIDATE, which knows."
        )
    return 1 if first is not None else 0


def _print(
    layers: list[Layer],
    shown: list[Layer],
    first: Layer | None,
    blamed: list[Layer],
    total: int,
) -> None:
    if shown:
        script.print_table(
            ("tensor", "in the candidate", "operator", "max abs error", "SNR dB", "adds",
             "range", "there", ""),
            [_row(layer) for layer in shown],
        )  # fmt: skip
        script.show()
    if first is None:
        script.show("no tensor is over the threshold")
    else:
        script.show(f"first over the threshold: {first.name} ({first.op_type})")
    odd = next((layer for layer in layers if layer.candidate_not_finite), None)
    if odd is not None:
        script.show(
            f"first with NaN or Inf: {odd.name} ({odd.op_type}), "
            f"{odd.candidate_not_finite:,} elements, {odd.not_finite:,} in ORIGINAL"
        )
    for place, layer in enumerate(blamed, 1):
        script.show(f"{place}. to blame: {layer.name} ({layer.op_type}), "
                   f"adds noise of {layer.added_noise:.3g} times its signal")  # fmt: skip
    equal = sum(layer.difference is not None and layer.noise == 0 for layer in layers)
    script.show(f"{len(layers)} of {total} tensors compared, {equal} equal")


def _row(layer: Layer) -> tuple[Any, ...]:
    found = layer.difference
    return (
        layer.name,
        "" if layer.candidate_name == layer.name else layer.candidate_name,
        layer.op_type,
        "" if found is None else f"{found.max_abs:.3g}",
        "" if found is None else f"{layer.sqnr_db:.1f}",
        f"{layer.added_noise:.2g}" if layer.added_noise else "",
        _range(layer.range),
        _range(layer.candidate_range),
        layer.fault,
    )


def _range(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3g} .. {ends[1]:.3g}"


def _to_json(layer: Layer) -> dict[str, Any]:
    data = dataclasses.asdict(layer)
    figures = data["difference"] or {}
    for values in (data, figures):
        for key, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[key] = None
    return data


if __name__ == "__main__":
    main()

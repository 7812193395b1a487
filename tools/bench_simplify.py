"""Compare graphopt's simplification with its peers: nodes, time, memory, size, speed, error.

Steps:
  1. Every tool gets every model, file in, file out, each in a process of its own. The time is
     that of the work, by the clock and by the processor, without starting Python and
     importing; with graphopt the wait for the disk is in it, which no peer does. The memory is
     the most that the process held, with graphopt that of the onnxruntime process as well.
  2. The results are run next to the original in onnxruntime, with its default optimizations,
     one thread, not spinning, in turn; the speed is the median ratio to the original.
  3. The outputs are compared with those of the original without any optimization.

Typical usage:
  python -m venv peers && peers/bin/pip install onnxslim==0.1.98 onnxsim==0.8.1 onnxscript
  python -m graphopt.tools.bench_simplify models/*.onnx --peers-python peers/bin/python

Known limitations: a peer that is not installed is left out and said so. Inputs are made up:
one image or one sequence of 128 ids. On a busy machine the times are those of a busy machine.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.runtime import Runtime

__all__ = ["main"]

_COUNT = """
import json, os, resource, sys, time
source, target = sys.argv[1:3]
def clock():
    return time.perf_counter(), sum(os.times()[:4])
def done(start):
    seconds, cpu_seconds = (now - then for now, then in zip(clock(), start))
    # Not ru_maxrss, which begins with what the process that started this one held.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    own = int(status["VmHWM"].split()[0])
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps(
        {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_kb": own + child}
    ))
"""
SCRIPTS = {
    "graphopt": """
from graphopt import model_io, pipeline
from graphopt.manager import PassManager
from graphopt.passbase import Context
passes = pipeline.parse("default")
start = clock()
context = Context()
with context.closing():
    model, _ = PassManager(passes).run(model_io.load(source), context)
    model_io.save(model, target)
done(start)
""",
    "onnxslim": """
import onnxslim
start = clock()
onnxslim.slim(source, target)
done(start)
""",
    "onnxsim": """
import onnx, onnxsim
start = clock()
model, _ = onnxsim.simplify(source)
onnx.save(model, target)
done(start)
""",
    "onnxscript": """
import onnx_ir, onnxscript.optimizer, onnxscript.rewriter
start = clock()
model = onnx_ir.load(source)
onnxscript.optimizer.optimize(model)
model = onnxscript.rewriter.rewrite(model) or model
onnx_ir.save(model, target)
done(start)
""",
    "ort-basic": """
import onnxruntime
start = clock()
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
options.optimized_model_filepath = target
options.log_severity_level = 3
onnxruntime.InferenceSession(source, options)
done(start)
""",
}
SCRIPTS["ort-extended"] = SCRIPTS["ort-basic"].replace("BASIC", "EXTENDED")


@click.command("bench_simplify", cls=script.Tool, help=__doc__)
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(exists=True, path_type=pathlib.Path)
)
@click.option("--peers-python", default=sys.executable, help="Python that has the peers.")
@click.option("--tools", default=",".join(SCRIPTS), show_default=True, help="Which to run.")
@click.option("--repetitions", type=click.IntRange(0), default=20, show_default=True)
def main(
    models: tuple[pathlib.Path, ...],
    peers_python: str,
    tools: str,
    repetitions: int,
    as_json: bool,
) -> None:
    """Run the tool; see the module docstring."""
    from graphopt.runtime import Runtime

    if unknown := sorted(set(tools.split(",")) - SCRIPTS.keys()):
        known = ", ".join(SCRIPTS)
        raise click.UsageError(f"--tools: there is no {unknown[0]!r}; there are {known}.")
    if shutil.which(peers_python) is None:
        raise click.UsageError(f"--peers-python: {peers_python} cannot be run.")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Runtime() as runtime:
        for model in models:
            found = [{"model": model.stem, "tool": "input", "path": str(model)}]
            for tool in tools.split(","):
                python = sys.executable if tool == "graphopt" else peers_python
                target = pathlib.Path(folder) / f"{model.stem}.{tool}.onnx"
                found.append(_run(tool, python, model, target))
            _measure([row for row in found if "path" in row], repetitions, runtime)
            rows += found
            if not as_json:
                _print(found)
    if as_json:
        click.echo(json.dumps(rows, indent=1))


def _run(tool: str, python: str, source: pathlib.Path, target: pathlib.Path) -> dict[str, Any]:
    """Run one tool on one model; returns its row, with ``failed`` where it did."""
    row: dict[str, Any] = {"model": source.stem, "tool": tool}
    command = [python, "-c", _COUNT + SCRIPTS[tool], str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not target.exists():
        row["failed"] = (done.stderr.strip().splitlines() or ["no output"])[-1][:200]
        return row
    return {**row, **json.loads(lines[-1]), "path": str(target)}


def _measure(rows: list[dict[str, Any]], repetitions: int, runtime: Runtime) -> None:
    """Add nodes, bytes, speed and error to ``rows``; the first one is the original."""
    import onnx_ir as ir

    from graphopt import model_io

    original = model_io.load(rows[0]["path"])
    feeds = _feeds(original)
    with runtime.session(rows[0]["path"], optimize=False) as session:
        expected = session.run(feeds)
    for row in rows:
        # Unlike model_io.load this takes what onnxruntime writes, with its own operators.
        model = ir.load(row["path"])
        row["nodes"] = sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
        row["size_bytes"] = pathlib.Path(row["path"]).stat().st_size
        with runtime.session(pathlib.Path(row["path"])) as session:
            actual = session.run(feeds)
        row["error"] = max(
            float(np.abs(actual[name] - array).max() / max(np.abs(array).max(), 1e-30))
            for name, array in expected.items()
        )
    if repetitions:
        paths = [pathlib.Path(row["path"]) for row in rows]
        for row, latency in zip(rows, runtime.latency(paths, feeds, repetitions), strict=True):
            row["latency_ms"], row["speedup"] = latency.median_ms, 1 / latency.ratio


def _feeds(model: Any) -> dict[str, np.ndarray]:
    from graphopt import model_io

    rng = np.random.default_rng(0)
    feeds = {}
    for spec in model_io.input_specs(model):
        shape = [
            size if isinstance(size, int) else (1 if axis == 0 else 128)
            for axis, size in enumerate(spec.shape)
        ]
        if np.issubdtype(spec.dtype, np.floating):
            feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        else:
            feeds[spec.name] = rng.integers(1, 100, shape).astype(spec.dtype)
    return feeds


def _print(rows: list[dict[str, Any]]) -> None:
    click.echo(f"\n{rows[0]['model']}")
    click.echo(
        f"{'':14}{'nodes':>7}{'s':>8}{'cpu s':>8}{'peak MB':>9}{'MB':>8}{'ms':>9}{'x':>7}"
        f"{'error':>10}"
    )
    for row in rows:
        if "failed" in row:
            click.echo(f"{row['tool']:14} failed: {row['failed']}")
            continue
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
        cpu = f"{row['cpu_seconds']:.2f}" if "cpu_seconds" in row else ""
        peak = f"{row['peak_kb'] // 1024}" if "peak_kb" in row else ""
        latency = f"{row['latency_ms']:.1f}" if "latency_ms" in row else ""
        speedup = f"{row['speedup']:.2f}" if "speedup" in row else ""
        click.echo(
            f"{row['tool']:14}{row['nodes']:>7}{seconds:>8}{cpu:>8}{peak:>9}"
            f"{row['size_bytes'] / 1e6:>8.1f}{latency:>9}{speedup:>7}{row['error']:>10.1e}"
        )


if __name__ == "__main__":
    main()

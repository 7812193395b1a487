"""Measure the default pipeline on generated graphs of 10,000 nodes and more.

Steps:
  1. A graph of each kind and size is written to a file, and a process of its own loads it,
     simplifies it and saves it; the time is that of the three, by the clock and by the
     processor.
  2. Linear is: the time per node stays the same from one size to the next.

Typical usage:
  python -m graphopt.tools.bench_scale chain wide --sizes 10000,30000,100000

Known limitations: on a busy machine only the time of the processor means something.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.debug import script

__all__ = ["GRAPHS", "main"]

LEAST = 12
"""The smallest size at which every kind of graph is one."""
UNARY = ("Sigmoid", "Tanh", "Abs", "Neg", "Softsign")

WORK = """
import json, sys, time
from graphopt import model_io, pipeline
from graphopt.manager import PassManager
from graphopt.passbase import Context
passes = pipeline.parse("default")
wall, cpu = time.perf_counter(), time.process_time()
context = Context()
with context.closing():
    model, _ = PassManager(passes).run(model_io.load(sys.argv[1]), context)
    model_io.save(model, sys.argv[2])
# Not ru_maxrss, which begins with what the process that started this one held.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "wall_s": time.perf_counter() - wall,
    "cpu_s": time.process_time() - cpu,
    "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
    "nodes": len(model.graph),
}))
"""


class _Builder:
    """Collects the nodes of one graph over ``x``: float32 [N, 8]."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n_{name}", **attributes))
        return name

    def weight(self, *values: float, dtype: type[np.generic] = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def different(self, index: int) -> str:
        """Return a value that no other index has."""
        return self.add("LeakyRelu", "x", alpha=1 / (index + 2))

    def total(self, names: list[str]) -> str:
        """Return the sum of ``names``, as a tree."""
        while len(names) > 1:
            odd = names[len(names) // 2 * 2 :]
            pairs = zip(names[::2], names[1::2], strict=False)
            names = [self.add("Add", a, b) for a, b in pairs] + odd
        return names[0]

    def model(self, *outputs: str) -> onnx.ModelProto:
        x, *found = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", None])
            for name in ("x", *outputs)
        ]
        x.type.tensor_type.shape.dim[1].dim_value = 8
        graph = helper.make_graph(self.nodes, "g", [x], found, self.weights)
        opset = [helper.make_opsetid("", 18)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10)


def _chain(b: _Builder, size: int) -> list[str]:
    last = "x"
    for index in range(size):
        last = b.add(UNARY[index % len(UNARY)], last)
    return [last]


def _wide(b: _Builder, size: int) -> list[str]:
    return [b.total([b.different(index) for index in range(size // 2)])]


def _equal(b: _Builder, size: int) -> list[str]:
    return [b.total([b.add("Relu", "x") for _ in range(size // 2)])]


def _outputs(b: _Builder, size: int) -> list[str]:
    return [b.different(index) for index in range(size)]


def _equal_outputs(b: _Builder, size: int) -> list[str]:
    return [b.add("Relu", "x") for _ in range(size)]


def _concat(b: _Builder, size: int) -> list[str]:
    many = [b.add("Identity", b.different(index)) for index in range(size // 2)]
    return [b.add("Concat", *many, axis=0)]


def _equal_inputs(b: _Builder, size: int) -> list[str]:
    return [b.add("Concat", *[b.add("Relu", "x") for _ in range(size)], axis=0)]


def _chains(b: _Builder, size: int) -> list[str]:
    found = []
    for index in range(size // 10):
        last = b.different(index)
        for op_type in UNARY[:-1] * 2:
            last = b.add(op_type, last)
        found.append(last)
    return found


def _weights(b: _Builder, size: int) -> list[str]:
    last = "x"
    for index in range(size):
        last = b.add("Max", last, b.weight(*[index % (size // 2)] * 8))
    return [last]


def _shared_constant(b: _Builder, size: int) -> list[str]:
    last, shared = "x", b.weight(*[2.0] * 8)
    for index in range(size // 2):
        last = b.add("Max", last, b.add("Add", shared, b.weight(*[index] * 8)))
    return [last]


def _identities(b: _Builder, size: int) -> list[str]:
    last = "x"
    for _ in range(size - 1):
        last = b.add("Identity", last)
    return [b.add("Relu", last)]


def _dead(b: _Builder, size: int) -> list[str]:
    for index in range(size - 1):
        b.different(index)
    return [b.add("Relu", "x")]


def _shapes(b: _Builder, size: int) -> list[str]:
    last = "x"
    zero, axes, rest = (b.weight(n, dtype=np.int64) for n in (0, 0, -1))
    for index in range(size // 6):
        batch = b.add("Gather", b.add("Shape", last), zero, axis=0)
        target = b.add(
            "Concat", b.add("Unsqueeze", b.add("Squeeze", batch), axes), rest, axis=0
        )
        last = b.add(UNARY[index % len(UNARY)], b.add("Reshape", last, target))
    return [last]


def _transposes(b: _Builder, size: int) -> list[str]:
    many = []
    for index in range(size // 3):
        one = b.add("Relu", b.add("Transpose", "x", perm=[1, 0]))
        many.append(b.add("LeakyRelu", b.add("Transpose", one), alpha=1 / (index + 2)))
    return [b.total(many)]


def _linear(b: _Builder, size: int) -> list[str]:
    many = []
    for index in range(size // 4):
        scaled = b.add("Mul", "x", b.weight(*[index] * 8))
        many.append(b.add("Add", scaled, b.weight(*[1.0] * 8)))
    return [b.total(many)]


GRAPHS: dict[str, Callable[[_Builder, int], list[str]]] = {
    "chain": _chain,
    "wide": _wide,
    "chains": _chains,
    "concat": _concat,
    "dead": _dead,
    "equal": _equal,
    "equal-inputs": _equal_inputs,
    "equal-outputs": _equal_outputs,
    "identities": _identities,
    "linear": _linear,
    "outputs": _outputs,
    "shapes": _shapes,
    "shared-constant": _shared_constant,
    "transposes": _transposes,
    "weights": _weights,
}
"""Kind -> what adds about that many nodes and returns the outputs."""


def graph_of(kind: str, size: int) -> onnx.ModelProto:
    """Return a graph of ``kind`` with about ``size`` nodes."""
    builder = _Builder()
    return builder.model(*GRAPHS[kind](builder, size))


def _sizes(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) >= LEAST for size in sizes):
        raise click.BadParameter(
            f"{text!r}: expected numbers of at least {LEAST}, with commas between them.",
            context,
            parameter,
        )
    return list(map(int, sizes))


@click.command("bench_scale", cls=script.Tool, help=__doc__)
@click.argument("kinds", nargs=-1, type=click.Choice(list(GRAPHS)))
@click.option("--sizes", default="10000,30000,100000", show_default=True, callback=_sizes,
              help="Nodes.")  # fmt: skip
def main(kinds: tuple[str, ...], sizes: list[int], as_json: bool) -> None:
    """Run the tool; see the module docstring."""
    rows = []
    header = f"{'':16}{'nodes':>9}{'left':>9}{'wall s':>9}{'cpu s':>8}{'us/node':>9}{'MB':>7}"
    click.echo(header, err=as_json)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (pathlib.Path(folder) / name for name in ("a.onnx", "b.onnx"))
        for kind in kinds or GRAPHS:
            for size in sizes:
                proto = graph_of(kind, size)
                source.write_bytes(proto.SerializeToString())
                command = [sys.executable, "-c", WORK, str(source), str(target)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row = json.loads(done.stdout)
                count = len(proto.graph.node)
                click.echo(
                    f"{kind:16}{count:>9}{row['nodes']:>9}{row['wall_s']:>9.1f}"
                    f"{row['cpu_s']:>8.1f}{row['cpu_s'] / count * 1e6:>9.0f}"
                    f"{row['peak_mb']:>7.0f}",
                    err=as_json,
                )
                rows.append({"kind": kind, "size": count, **row})
    if as_json:
        script.print_json(rows)


if __name__ == "__main__":
    main()

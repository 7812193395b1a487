"""List everything that is wrong with a model, and not only what is found first.

Steps:
  1. The file is read as it stands: names, operators, attributes, the data of tensors, in the
     main graph and in subgraphs. Each error has the code with which graphopt would refuse it.
  2. Where that is sound, onnx looks whether types and shapes fit together.
  3. Where they do, onnxruntime loads the model; if it refuses, every node is tried alone, so
     that all that it has no kernel for are named. --no-runtime leaves this out.
  4. Warnings: what is allowed and rarely meant, such as NaN in a weight.

Typical usage:
  python -m graphopt.tools.check_model model.onnx
  python -m graphopt.tools.check_model model.onnx --no-runtime --json

Exit code: 0 if there is no error, 1 if there is one; warnings do not count.

Known limitations: bodies of functions are looked at for their first error only. A node with a
subgraph is not tried alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import TYPE_CHECKING

import click

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.debug.lint import Finding

__all__ = ["main"]

SCHEMA = "graphopt/check-model/1"


@click.command("check_model", cls=script.Tool, help=__doc__)
@click.argument("model", type=script.PATH)
@click.option("--no-runtime", is_flag=True, help="Do not ask onnxruntime.")
@click.option("--timeout", type=script.POSITIVE, default=600.0, show_default=True,
              help="Seconds that onnxruntime may take to load it.")  # fmt: skip
def main(model: pathlib.Path, no_runtime: bool, timeout: float, as_json: bool) -> int:
    """Run the tool; see the module docstring."""
    from graphopt.debug.lint import lint
    from graphopt.runtime import Runtime

    with contextlib.closing(Runtime(timeout)) as runtime:
        found = lint(model, None if no_runtime else runtime)
    errors = sum(one.is_error for one in found)
    if as_json:
        findings = [dataclasses.asdict(one) for one in found]
        script.print_json({"schema": SCHEMA, "model": str(model), "findings": findings})
    else:
        for one in found:
            _print(one)
        warnings = len(found) - errors
        script.show(f"{_count(errors, 'error')}, {_count(warnings, 'warning')} in {model}")
    return 1 if errors else 0


def _print(found: Finding) -> None:
    kind = "error" if found.is_error else "warning"
    where = f" in {found.graph}:" if found.graph else ""
    text = f"{kind} [{found.code}]{where} {found.message} {found.hint}".rstrip()
    script.show(text)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()

"""``graphopt`` itself: its options, its commands, and how it ends."""

from __future__ import annotations

import logging

import click

from graphopt.cli.bench import bench
from graphopt.cli.inspect import inspect
from graphopt.cli.log import Log
from graphopt.cli.optimize import optimize
from graphopt.cli.passes import passes
from graphopt.cli.validate import validate
from graphopt.ending import EndingInALine

__all__ = ["main"]


class Group(EndingInALine, click.Group):
    """The command whose commands are those of graphopt."""

    traceback_flag = "--debug"
    when_stopped = "stopped; nothing was written."


@click.group("graphopt", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Log every decision, and show tracebacks.")
@click.option("-v", "--verbose", is_flag=True, help="Log what each pass did.")
@click.version_option(package_name="graphopt")
@click.pass_context
def main(context: click.Context, debug: bool, verbose: bool) -> None:
    """Optimize ONNX models for onnxruntime: rewritten, validated, measured, explained."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = Log()
    logging.getLogger().addHandler(handler)
    context.call_on_close(lambda: logging.getLogger().removeHandler(handler))
    logging.getLogger("graphopt").setLevel(level)
    # What the library warns of is nothing that a user can mend.
    logging.getLogger("onnx_ir").setLevel(logging.DEBUG if debug else logging.ERROR)


for _command in (bench, inspect, optimize, passes, validate):
    main.add_command(_command)

"""``graphopt optimize``."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import PATH, data_options, read_options, read_samples
from graphopt.debug.script import output_file
from graphopt.errors import OutputError, ValidationError

if TYPE_CHECKING:
    from graphopt.api import Result

__all__ = ["optimize"]


@click.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Where the result goes.")
@click.option(
    "--passes",
    help="A preset or a pipeline, such as 'fold-constants,prune-channels{ratio=0.3}'.  "
    "[default: default; auto with --target]",
)
@click.option(
    "--skip",
    multiple=True,
    metavar="PASS",
    help="Leave a pass of the pipeline out, by its name; may be given again.",
)
@click.option(
    "--emit",
    type=click.Choice(["standard", "onnxruntime"]),
    default="standard",
    show_default=True,
    help="Operators that may be used: the ONNX standard's only, or com.microsoft's too.",
)
@click.option(
    "--external-data",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Whether weights go to a file of their own; auto: as in the input, or over 2 GB.",
)
@click.option("--allow-slower", is_flag=True, help="Keep passes that make the model slower.")
@click.option("--workers", type=click.IntRange(1), help="Processes that calibrate together.")
@click.option("--no-measure", is_flag=True, help="Do not measure latency.")
@click.option("--rewrite-limit", type=click.IntRange(0), help="Make N rewrites at most.")
@click.option("--safe", is_flag=True, help="Check each rewrite; undo and name what fails.")
@click.option(
    "--provenance",
    is_flag=True,
    help="Write into the result which rewrites made each node and weight.",
)
@click.option("--verify-each", is_flag=True, help="Check the graph after each pass.")
@click.option("--dump", type=PATH, help="Write the model after each change to this folder.")
@click.option(
    "--trace",
    type=PATH,
    callback=output_file,
    help="Write a Chrome trace of the passes to this file.",
)
@click.option(
    "--report",
    type=PATH,
    callback=output_file,
    help="Write the report as one HTML file that needs no network.",
)
@data_options
def optimize(model: pathlib.Path, output: pathlib.Path, **given: Any) -> int:
    """Rewrite MODEL, prove the result with onnxruntime, and write it.

    Nothing is written unless the result loads, runs and agrees with MODEL. A pass that makes
    the model slower is left out, and the report says so.
    """
    from graphopt import api, pipeline
    from graphopt.cli.printing import print_result
    from graphopt.instruments import DumpChanged, Timing, VerifyEach
    from graphopt.report import console as report
    from graphopt.report.json import result_to_json
    from graphopt.report.progress import PassBar
    from graphopt.report.progress import progress as progress_on

    _check_places(model, output, given)
    passes = given["passes"]
    if given["skip"]:
        passes = pipeline.parse(passes, has_target=given["target"] is not None)
        passes = pipeline.without(passes, given["skip"])
    words = report.console(stderr=True)
    watch: list[Any] = []
    if given["verify_each"]:
        watch.append(VerifyEach())
    if given["dump"]:
        watch.append(DumpChanged(given["dump"]))
    timing = Timing()
    watch.append(timing)
    with progress_on(words) as progress, _worker_pool(given["workers"]) as executor:
        watch.append(PassBar(progress))
        try:
            result = api.optimize(
                model,
                passes,
                samples=read_samples(model, given),
                output=output,
                options=read_options(given),
                instruments=watch,
                progress=progress,
                executor=executor,
            )
        except ValidationError as error:
            # What went wrong is best seen in the report.
            _write_report(error.result, given["report"], progress)
            raise
        with _after_writing(output):
            _write_report(result, given["report"], progress)
            if given["trace"]:
                timing.write_trace(given["trace"])
    if given["as_json"]:
        click.echo(json.dumps(result_to_json(result), indent=2))
    else:
        print_result(words, result)
        if given["report"]:
            words.print(f"wrote {given['report']}", soft_wrap=True)
    return 0


def _check_places(model: pathlib.Path, output: pathlib.Path, given: dict[str, Any]) -> None:
    """Refuse to write over what is read, or twice to one place; MODEL may be replaced."""
    taken: dict[pathlib.Path, str] = {}
    for name, path in (
        ("-o", output),
        ("--report", given["report"]),
        ("--trace", given["trace"]),
        ("--data", given["data"]),
        ("MODEL", model),
    ):
        if path is None:
            continue
        other = taken.setdefault(path.resolve(), name)
        if other != name and (other, name) != ("-o", "MODEL"):
            raise click.UsageError(f"{other} and {name} are the same file: {path}.")


@contextlib.contextmanager
def _after_writing(output: pathlib.Path) -> Iterator[None]:
    """Let an error or an interrupt of the block say that the result is there."""
    try:
        yield
    except OutputError as error:
        case = error.code.rpartition("/")[2]
        raise OutputError(case, f"{output} was written, but {error.message}") from error
    except KeyboardInterrupt:
        raise click.Abort(f"stopped; {output} was written.") from None


def _write_report(result: Result | None, path: pathlib.Path | None, progress: Any) -> None:
    if path is not None and result is not None:
        result.report(path, progress, shlex.join(["graphopt", *sys.argv[1:]]))


@contextlib.contextmanager
def _worker_pool(count: int | None) -> Iterator[Any]:
    """Yield an executor of ``count`` processes, to which Ctrl-C does not go; or ``None``."""
    if count is None:
        yield None
        return
    import multiprocessing
    import signal
    from concurrent.futures import ProcessPoolExecutor

    executor = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)

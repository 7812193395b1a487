"""The command line: parse, call the API, print.

Data goes to stdout, words and progress to stderr. Everything heavy is imported inside the
commands, so that ``graphopt --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import pathlib
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug.script import output_file
from graphopt.errors import (
    EXIT_DEFECT,
    EXIT_INVALID,
    EXIT_USAGE,
    GraphoptError,
    ValidationError,
    error_json,
)

if TYPE_CHECKING:
    from graphopt.api import Options, Result

__all__ = ["main"]

MODEL = click.Path(path_type=pathlib.Path)
Command = Callable[..., Any]


class _Group(click.Group):
    """Prints every error in one line, with its code, and exits with its exit code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        as_json = "--json" in (sys.argv[1:] if args is None else args)
        try:
            sys.exit(super().main(args, *more, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(EXIT_USAGE)
        except click.ClickException as error:
            _fail("usage", error.format_message(), EXIT_USAGE, as_json)
        except click.exceptions.Abort:
            _fail("interrupted", "stopped; nothing was written.", 130, as_json)
        except GraphoptError as error:
            if _debug():
                traceback.print_exc()
            message = f"{error.message} {error.hint}".strip()
            _fail(error.code, message, error.exit_code, as_json)
        except Exception as error:
            if _debug():
                traceback.print_exc()
            text = " ".join(f"{type(error).__name__}: {error}".split())
            message = f"{text} Run with --debug and report this."
            _fail("defect", message, EXIT_DEFECT, as_json)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and get what it printed out while a closed pipe is no error."""
        found = super().invoke(ctx)
        sys.stdout.flush()
        return found


class _Log(logging.Handler):
    """Shows what is logged on stderr; a warning once, however often samples are read."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the one line of ``record``."""
        text = f"{record.name}: {record.getMessage()}"
        if record.levelno == logging.WARNING:
            text = f"graphopt: warning: {record.getMessage()}"
            if text in self._warned:
                return
            self._warned.add(text)
        click.echo(text, err=True)


def _debug() -> bool:
    return logging.getLogger("graphopt").isEnabledFor(logging.DEBUG)


def _fail(code: str, message: str, status: int, as_json: bool) -> None:
    click.echo(f"graphopt: error [{code}]: {message}", err=True)
    if as_json:
        click.echo(json.dumps(error_json(code, message, status), indent=2))
    sys.exit(status)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Log every decision, and show tracebacks.")
@click.option("-v", "--verbose", is_flag=True, help="Log what each pass did.")
@click.version_option(package_name="graphopt")
@click.pass_context
def main(context: click.Context, debug: bool, verbose: bool) -> None:
    """Optimize ONNX models for onnxruntime: rewritten, validated, measured, explained."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = _Log()
    logging.getLogger().addHandler(handler)
    context.call_on_close(lambda: logging.getLogger().removeHandler(handler))
    logging.getLogger("graphopt").setLevel(level)
    # What the library warns of is nothing that a user can mend.
    logging.getLogger("onnx_ir").setLevel(logging.DEBUG if debug else logging.ERROR)


def _number(
    context: click.Context, parameter: click.Parameter, value: float | None
) -> float | None:
    """Refuse what is no number."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number.", context, parameter)
    return value


def _data_options(command: Command) -> Command:
    for option in (
        click.option(
            "--metric",
            default="cosine",
            show_default=True,
            help="What --target is measured in: cosine, top1 or sqnr, or module:function, "
            "a Python function of your own (docs/search.md).",
        ),
        click.option(
            "--target",
            type=float,
            callback=_number,
            help="Least value of --metric to accept of a lossy result. With a preset that "
            "quantizes, or without --passes: find the fastest precisions that reach it.",
        ),
        click.option(
            "--atol",
            type=click.FloatRange(0),
            callback=_number,
            help="Largest absolute error of an exact or close result.",
        ),
        click.option(
            "--rtol",
            type=click.FloatRange(0),
            callback=_number,
            help="Largest error relative to the output.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            help="Samples of an .npz that form one feed.",
        ),
        click.option(
            "--data",
            type=MODEL,
            help="Samples: an .npz with one array per input, or a folder of feeds.",
        ),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("model", type=MODEL)
@click.option("-o", "--output", type=MODEL, required=True, help="Where the result goes.")
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
@click.option("--dump", type=MODEL, help="Write the model after each change to this folder.")
@click.option(
    "--trace",
    type=MODEL,
    callback=output_file,
    help="Write a Chrome trace of the passes to this file.",
)
@click.option(
    "--report",
    type=MODEL,
    callback=output_file,
    help="Write the report as one HTML file that needs no network.",
)
@_data_options
def optimize(model: pathlib.Path, output: pathlib.Path, **given: Any) -> int:
    """Rewrite MODEL, prove the result with onnxruntime, and write it.

    Nothing is written unless the result loads, runs and agrees with MODEL. A pass that makes
    the model slower is left out, and the report says so.
    """
    from graphopt import api, pipeline
    from graphopt.instruments import DumpChanged, Timing, VerifyEach
    from graphopt.report import console as report
    from graphopt.report.json import result_to_json

    _check_places(model, output, given)
    passes = given["passes"]
    if given["skip"]:
        passes = pipeline.without(pipeline.parse(passes or "default"), given["skip"])
    words = report.console(stderr=True)
    watch: list[Any] = []
    if given["verify_each"]:
        watch.append(VerifyEach())
    if given["dump"]:
        watch.append(DumpChanged(given["dump"]))
    timing = Timing()
    watch.append(timing)
    with report.progress(words) as progress, _workers(given["workers"]) as executor:
        try:
            result = api.optimize(
                model,
                passes,
                samples=_read_samples(model, given),
                output=output,
                options=_options(given),
                instruments=watch,
                progress=progress,
                executor=executor,
            )
        except ValidationError as error:
            # What went wrong is best seen in the report.
            _write_report(error.result, given["report"], progress)
            raise
        _write_report(result, given["report"], progress)
    if given["trace"]:
        timing.write_trace(given["trace"])
    if given["as_json"]:
        click.echo(json.dumps(result_to_json(result), indent=2))
    else:
        _print_result(words, result)
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


def _write_report(result: Result | None, path: pathlib.Path | None, progress: Any) -> None:
    if path is not None and result is not None:
        result.report(path, progress, shlex.join(["graphopt", *sys.argv[1:]]))


@contextlib.contextmanager
def _workers(count: int | None) -> Iterator[Any]:
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


def _print_result(words: Any, result: Result) -> None:
    from graphopt.report import console as report

    words.print(report.step_table(result))
    _print_searches(words, result)
    skipped = report.skip_table(result.ledger)
    if skipped is not None:
        words.print(skipped)
    for entry in result.ledger.applications:
        if entry.undone:
            words.print(f"undone: {entry.summary()}")
    words.print(report.comparison_table(result.comparison))
    for note in (
        result.comparison.reason,
        result.comparison.score_text,
        *result.comparison.notes,
    ):
        if note:
            words.print(note, style="dim")
    words.print(report.summary_table(result))
    if result.saved is not None:
        words.print(f"wrote {result.saved.path}", soft_wrap=True)


def _print_searches(words: Any, result: Result) -> None:
    from graphopt.report import search

    for found in result.artifacts.values():
        if isinstance(found, search.SearchReport):
            words.print(search.precision_table(found))
            words.print(search.front_table(found))
            for note in found.notes:
                words.print(f"note: {note}")


@main.command()
@click.argument("original", type=MODEL)
@click.argument("candidate", type=MODEL)
@_data_options
def validate(original: pathlib.Path, candidate: pathlib.Path, **given: Any) -> int:
    """Compare CANDIDATE with ORIGINAL in onnxruntime; exit code 1 if they differ."""
    from graphopt import api
    from graphopt.report import console as report

    comparison = api.validate(
        original, candidate, samples=_read_samples(original, given), options=_options(given)
    )
    if given["as_json"]:
        click.echo(json.dumps(comparison.to_json(), indent=2))
    else:
        out = report.console()
        out.print(report.comparison_table(comparison))
        for note in filter(None, (comparison.score_text, *comparison.notes)):
            out.print(note)
        verdict = "the models agree" if comparison.passed else "the models differ"
        out.print(f"{verdict}: {comparison.reason}" if comparison.reason else verdict)
    return 0 if comparison.passed else EXIT_INVALID


@main.command()
@click.argument("model", type=MODEL)
@click.option("--groups", is_flag=True, help="Show which dimensions can be pruned together.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def inspect(model: pathlib.Path, groups: bool, as_json: bool) -> int:
    """Show nodes, parameters, MACs, bytes, opset and types of MODEL."""
    from graphopt import model_io
    from graphopt.report import console as report
    from graphopt.report import groups as coupled
    from graphopt.report.summary import size_on_disk, summarize

    loaded = model_io.load(model)
    summary = summarize(loaded, size_on_disk(loaded, model))
    if as_json:
        facts = summary.to_json()
        if groups:
            facts["groups"] = coupled.groups_to_json(loaded)
        click.echo(json.dumps(facts, indent=2))
        return 0
    out = report.console()
    out.print(report.inspect_table(model.name, summary))
    if groups:
        out.print(coupled.groups_table(loaded))
    return 0


@main.command()
@click.argument("models", type=MODEL, nargs=-1, required=True)
@click.option("--data", type=MODEL, help="Samples; the first is used. Default: synthetic.")
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
    from graphopt.runtime import Runtime
    from graphopt.samples import Samples
    from graphopt.validation import accepted

    loaded = [model_io.load(path) for path in models]
    with contextlib.closing(Runtime()) as runtime:
        samples = _read_samples(models[0], given) or accepted(
            Samples.synthetic(model_io.input_specs(loaded[0]), seed=given["seed"]),
            models[0],
            runtime,
        )
        feeds = next(iter(samples.feeds()))
        latencies = runtime.latency(
            list(models), feeds, repetitions=given["repetitions"], threads=given["threads"]
        )
    if given["as_json"]:
        rows = zip(models, latencies, strict=True)
        figures = [{"model": str(path), **dataclasses.asdict(one)} for path, one in rows]
        click.echo(json.dumps(figures, indent=2))
    else:
        names = [path.name for path in models]
        report.console().print(report.latency_table(names, latencies))
    return 0


@main.command()
@click.argument("name", required=False)
def passes(name: str | None) -> int:
    """List every pass and preset, or show all about the pass NAME."""
    from graphopt.report import passes as report

    click.echo(report.describe_pass(name) if name else report.list_passes())
    return 0


def _options(given: dict[str, Any]) -> Options:
    from graphopt.api import Options
    from graphopt.passbase import Target
    from graphopt.validation import Tolerance

    tolerance = None
    if given["atol"] is not None or given["rtol"] is not None:
        tolerance = Tolerance(rtol=given["rtol"] or 0.0, atol=given["atol"] or 0.0)
    return Options(
        emit=Target(given.get("emit", "standard")),
        quality=given["target"],
        metric=given["metric"],
        tolerance=tolerance,
        allow_slower=given.get("allow_slower", False),
        measure=not given.get("no_measure", False),
        external_data=given.get("external_data", "auto"),
        seed=given["seed"],
        limit=given.get("rewrite_limit"),
        safe=given.get("safe", False),
        provenance=given.get("provenance", False),
        measure_each=given.get("report") is not None,
    )


def _read_samples(model: pathlib.Path, given: dict[str, Any]) -> Any:
    """Return the samples of ``--data`` for ``model``; ``None`` without the option."""
    if given["data"] is None:
        return None
    from graphopt import model_io
    from graphopt.samples import Samples

    specs = model_io.input_specs(model_io.load(model))
    return Samples.from_path(given["data"], specs, batch_size=given["batch_size"])

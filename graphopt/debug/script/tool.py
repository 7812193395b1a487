"""A command that shows its docstring as help, and every error in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from graphopt.debug.script.output import print_json
from graphopt.errors import EXIT_DEFECT, EXIT_USAGE, GraphoptError, error_json

__all__ = ["Tool"]


class Tool(click.Command):
    """A command whose help is a module's docstring as it stands, and whose errors are a line.

    The function it runs returns the exit code (see ``graphopt.errors``), or ``None`` for 0.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault(
            "context_settings",
            {"help_option_names": ["-h", "--help"], "max_content_width": 95},
        )
        super().__init__(*args, **kwargs)
        traceback = click.Option(
            ["--traceback"], is_flag=True, help="Show where an error was raised."
        )
        as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON.")
        self.params += [as_json, traceback]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring without wrapping it anew."""
        del ctx
        formatter.write_paragraph()
        for line in (self.help or "").strip().splitlines():
            formatter.write(f"  {line.replace('``', '')}".rstrip() + "\n")

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        """Run the command and exit."""
        kwargs["standalone_mode"] = False
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings are not for users
        as_json = "--json" in (sys.argv[1:] if args is None else args)
        try:
            sys.exit(super().main(args, *more, **kwargs) or 0)
        except click.ClickException as error:
            self._fail("usage", error.format_message(), EXIT_USAGE, as_json)
        except click.exceptions.Abort:
            self._fail("interrupted", "stopped.", 130, as_json)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the function; turn what it raises into one line."""
        traceback, as_json = ctx.params.pop("traceback"), ctx.params["as_json"]
        try:
            found = super().invoke(ctx)
        except GraphoptError as error:
            if traceback:
                raise
            message = f"{error.message} {error.hint}".strip()
            self._fail(error.code, message, error.exit_code, as_json)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if traceback:
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            message = f"{text} Add --traceback and report this."
            self._fail("defect", message, EXIT_DEFECT, as_json)
        sys.stdout.flush()  # here, where a reader that has left (``| head``) is no error
        return found

    def _fail(self, code: str, message: str, status: int, as_json: bool) -> NoReturn:
        click.echo(f"{self.name}: error [{code}]: {message}", err=True)
        if as_json:
            print_json(error_json(code, message, status))
        sys.exit(status)

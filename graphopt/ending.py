"""How a command ends: one line for an error, with its code, and the exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import click

from graphopt.errors import EXIT_DEFECT, EXIT_USAGE, GraphoptError, error_json
from graphopt.signals import cleaning_up
from graphopt.terminal import harmless

__all__ = ["EndingInALine"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class EndingInALine(click.Command):
    """A command whose errors are one line on stderr, and with ``--json`` JSON on stdout too.

    The function it runs returns the exit code (see ``graphopt.errors``), or ``None`` for 0.

    Attributes:
        traceback_flag: With it among the arguments an error's traceback is shown as well.
        when_stopped: What Ctrl-C ends with.
    """

    traceback_flag: ClassVar[str] = "--traceback"
    when_stopped: ClassVar[str] = "stopped."

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> NoReturn:
        """Run the command and exit."""
        kwargs["standalone_mode"] = False
        given = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A name that a terminal of ASCII cannot show is no reason to fail.
                stream.reconfigure(errors="backslashreplace")
        try:
            with cleaning_up(self.name or ""):
                sys.exit(super().main(args, *more, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(EXIT_USAGE)
        except click.ClickException as error:
            found = "usage", error.format_message(), EXIT_USAGE
        except click.exceptions.Abort as error:
            found = "interrupted", str(error) or self.when_stopped, 130
        except GraphoptError as error:
            self._show_traceback(given)
            found = error.code, f"{error.message} {error.hint}".strip(), error.exit_code
        except Exception as error:
            self._show_traceback(given)
            if isinstance(error, OSError) and error.errno in _FULL and not error.filename:
                # Files of the user's have errors of their own.
                text = f"{error.strerror}: neither for standard output nor temporary files."
                found = "output/no-space", text, EXIT_USAGE
            else:
                text = " ".join(f"{type(error).__name__}: {error}".split())
                text += f" Run with {self.traceback_flag} and report this."
                found = "defect", text, EXIT_DEFECT
        self._fail(*found, as_json="--json" in given)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the function, and get what it printed out while a closed pipe is no error."""
        found = super().invoke(ctx)
        if sys.stdout is not None:
            sys.stdout.flush()
        return found

    def _show_traceback(self, given: Sequence[str]) -> None:
        if self.traceback_flag in given:
            traceback.print_exc()

    def _fail(self, code: str, message: str, status: int, *, as_json: bool) -> NoReturn:
        with contextlib.suppress(OSError):
            words = harmless(message).replace("\n", "\\n")
            click.echo(f"{self.name}: error [{code}]: {words}", err=True)
        try:
            if as_json:
                click.echo(json.dumps(error_json(code, message, status), indent=2))
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:
            # What cannot be written is not tried again when Python ends, with other words.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(status)

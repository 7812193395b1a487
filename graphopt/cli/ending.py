"""How a command ends: one line for an error, with its code, and the exit code."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from graphopt.errors import EXIT_DEFECT, EXIT_USAGE, GraphoptError, error_json

__all__ = ["Group"]


class Group(click.Group):
    """Prints every error in one line, with its code, and exits with its exit code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        """Run a command and exit."""
        kwargs["standalone_mode"] = False
        as_json = "--json" in (sys.argv[1:] if args is None else args)
        try:
            sys.exit(super().main(args, *more, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(EXIT_USAGE)
        except click.ClickException as error:
            _fail("usage", error.format_message(), EXIT_USAGE, as_json)
        except click.exceptions.Abort as error:
            text = str(error) or "stopped; nothing was written."
            _fail("interrupted", text, 130, as_json)
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


def _debug() -> bool:
    return logging.getLogger("graphopt").isEnabledFor(logging.DEBUG)


def _fail(code: str, message: str, status: int, as_json: bool) -> None:
    click.echo(f"graphopt: error [{code}]: {message}", err=True)
    if as_json:
        click.echo(json.dumps(error_json(code, message, status), indent=2))
    sys.exit(status)

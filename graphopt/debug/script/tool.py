"""A command that shows its docstring as help, and every error in one line."""

from __future__ import annotations

import logging
from typing import Any

import click

from graphopt.ending import EndingInALine

__all__ = ["Tool"]


class Tool(EndingInALine):
    """A command whose help is a module's docstring as it stands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault(
            "context_settings",
            {"help_option_names": ["-h", "--help"], "max_content_width": 95},
        )
        super().__init__(*args, **kwargs)
        traceback = click.Option(
            ["--traceback"],
            is_flag=True,
            expose_value=False,
            help="Show where an error was raised.",
        )
        as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON.")
        self.params += [as_json, traceback]

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; from here on the library's warnings are not for users."""
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)
        return super().make_context(*args, **kwargs)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring without wrapping it anew."""
        del ctx
        formatter.write_paragraph()
        for line in (self.help or "").strip().splitlines():
            formatter.write(f"  {line.replace('``', '')}".rstrip() + "\n")

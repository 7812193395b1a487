"""What is logged, on stderr."""

from __future__ import annotations

import logging

import click

from graphopt.terminal import harmless

__all__ = ["Log"]


class Log(logging.Handler):
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
        click.echo(harmless(text), err=True)

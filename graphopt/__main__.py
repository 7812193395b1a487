"""``graphopt`` and ``python -m graphopt``: the command line, and its end by a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = ["run"]


def run() -> None:
    """Run the command line; SIGTERM and SIGHUP clean up as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, _end)
    try:
        from graphopt.cli import main

        main()
    except KeyboardInterrupt:
        # Where click, which has words of its own for it, was not there yet.
        print("graphopt: error [interrupted]: stopped; nothing was written.", file=sys.stderr)
        sys.exit(130)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    signal.signal(number, signal.SIG_IGN)  # once is enough; cleaning up is not interrupted
    # Not by print(): the signal may have come in the middle of one.
    text = f"graphopt: error [terminated]: stopped by {signal.Signals(number).name}.\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
    raise SystemExit(128 + number)


if __name__ == "__main__":
    run()

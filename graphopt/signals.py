"""SIGTERM and SIGHUP end a command as Ctrl-C does: it cleans up first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

__all__ = ["cleaning_up"]


@contextlib.contextmanager
def cleaning_up(command: str) -> Iterator[None]:
    """Let the signals leave the block by ``SystemExit``, with a line that says so.

    Args:
        command: Name of the command, for that line.
    """
    caught = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is signal.SIG_DFL  # not under nohup, nor twice
    ]

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        caught.clear()
        signal.signal(number, signal.SIG_IGN)  # once is enough; cleaning up is not interrupted
        # Not by print(): the signal may have come in the middle of one.
        name = signal.Signals(number).name
        text = f"{command}: error [terminated]: stopped by {name}.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        raise SystemExit(128 + number)

    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)

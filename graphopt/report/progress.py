"""How far long work is, on a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import rich.progress

from graphopt.report.console import pass_label

if TYPE_CHECKING:
    import onnx_ir as ir
    import rich.console
    import rich.text

    from graphopt.manager import Step
    from graphopt.passbase import Pass

__all__ = ["PassBar", "Progress", "progress"]


@dataclasses.dataclass
class Progress:
    """``graphopt.passbase.Progress`` as bars on a console."""

    bars: rich.progress.Progress

    def track(self, description: str, total: int | None = None) -> _Bar:
        """Start a bar."""
        return _Bar(self.bars, self.bars.add_task(description, total=total))


@dataclasses.dataclass
class _Bar:
    bars: rich.progress.Progress
    task: rich.progress.TaskID

    def advance(self, steps: int = 1) -> None:
        self.bars.advance(self.task, steps)

    def close(self) -> None:
        self.bars.remove_task(self.task)


class PassBar:
    """Instrument: shows which pass is running."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: _Bar | None = None

    def __call__(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        """Let the bar be that of ``next_``."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None if next_ is None else self._progress.track(pass_label(next_))


class _Count(rich.progress.MofNCompleteColumn):
    """How many of how many; nothing where neither is known."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        """Return the text for ``task``."""
        import rich.text

        if task.total is None and not task.completed:
            return rich.text.Text()
        return super().render(task)


@contextlib.contextmanager
def progress(console: rich.console.Console) -> Iterator[Progress]:
    """Yield a progress sink that draws on ``console`` while the block runs."""
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        _Count(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    quiet = not console.is_terminal
    with rich.progress.Progress(
        *columns, console=console, transient=True, disable=quiet
    ) as bars:
        yield Progress(bars)

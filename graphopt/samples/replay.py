"""Makes what can be read only once readable again."""

from __future__ import annotations

import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from graphopt.errors import SamplesError

__all__ = ["MAX_FEEDS", "Replay", "reader_factory"]

MAX_FEEDS = 100_000
"""A reader that delivers more is taken for one that never ends: calibration needs hundreds."""


class Replay:
    """What an iterator delivers, again and again.

    The feeds go to a temporary file without a name as they come, so that they are not all in
    memory; the iterator is asked only for those that nobody has asked for yet.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        self._source = iter(source)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the samples
        weakref.finalize(self, self._file.close)
        self._starts: list[int] = []

    def __call__(self) -> Iterator[Any]:
        """Yield the feeds from the first one."""
        index = 0
        while True:
            if index == len(self._starts):
                try:
                    feed = next(self._source)
                except StopIteration:
                    return
                start = self._file.seek(0, 2)
                pickle.dump(feed, self._file, protocol=5)
                self._starts.append(start)
            else:
                self._file.seek(self._starts[index])
                feed = pickle.load(self._file)
            index += 1
            yield feed


def reader_factory(
    reader: Any, max_feeds: int = MAX_FEEDS
) -> Callable[[], Iterator[Mapping[str, Any]]]:
    """Return a function that starts a ``CalibrationDataReader`` from its first feed.

    Args:
        reader: An object with ``get_next()``, which returns ``None`` at the end; or a class or
            function that makes one. An object without ``rewind()`` is read once and its feeds
            are kept in a temporary file.
        max_feeds: Feeds after which it is taken for endless.

    Raises:
        SamplesError: ``reader`` is none of these.
    """
    if isinstance(reader, type) or not hasattr(reader, "get_next"):
        if not callable(reader):
            raise SamplesError(
                "not-a-reader",
                f"{type(reader).__name__} has no get_next() and cannot be called.",
                hint="Pass a CalibrationDataReader, or a function that makes one.",
            )
        return lambda: _read(reader(), max_feeds)
    if callable(getattr(reader, "rewind", None)):

        def again() -> Iterator[Mapping[str, Any]]:
            reader.rewind()
            return _read(reader, max_feeds)

        return again
    return Replay(_read(reader, max_feeds))


def _read(reader: Any, max_feeds: int) -> Iterator[Mapping[str, Any]]:
    if not hasattr(reader, "get_next"):
        raise SamplesError(
            "not-a-reader", f"the function made {type(reader).__name__}, without get_next()."
        )
    count = 0
    while (feed := reader.get_next()) is not None:
        count += 1
        if count > max_feeds:
            raise SamplesError(
                "endless",
                f"the reader delivered {max_feeds} feeds and has not come to an end.",
                hint="get_next() must return None after the last one; or raise max_feeds.",
            )
        yield feed

"""Runs the two models, at several levels, on one feed at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from graphopt.errors import ExecutionError
from graphopt.metrics import DifferenceMeter, Tolerance
from graphopt.runtime import Runtime
from graphopt.runtime.session import Level, Model, Session, run_together
from graphopt.samples import Feed
from graphopt.scores import ScoreMeter

__all__ = ["LEVEL_WORDS", "Answer", "Bench", "DiffersError", "Key", "Pair"]

LEVEL_WORDS: dict[Level, str] = {
    "disable": "without onnxruntime's optimizations",
    "all": "at onnxruntime's default level",
}

Key: TypeAlias = "tuple[Literal['original', 'candidate'], Level]"
"""One of the models at one level of onnxruntime's own optimizations."""
Answer: TypeAlias = "dict[str, np.ndarray] | ExecutionError"


class DiffersError(Exception):
    """The candidate differs so much that there is nothing to measure; the text says how."""


class Bench:
    """The sessions of a comparison; each is opened when it is first needed.

    Args:
        runtime: Where they are opened.
        original: The reference.
        candidate: The model that should do the same.
    """

    def __init__(self, runtime: Runtime, original: Model, candidate: Model) -> None:
        self._runtime = runtime
        self._models: dict[str, Model] = {"original": original, "candidate": candidate}
        self._sessions: dict[Key, Session] = {}

    def open(self, key: Key) -> Session:
        """Return the session of a model at a level; one that has ended is opened anew.

        Raises:
            ExecutionError: onnxruntime does not load it.
        """
        session = self._sessions.get(key)
        if session is None or not session.is_open:
            self.close(key)
            who, level = key
            session = self._runtime.session(self._models[who], optimize=level)
            self._sessions[key] = session
        return session

    def run(self, keys: Sequence[Key], feed: Feed) -> list[Answer]:
        """Run several at the same time; returns what each answers, or its error."""
        return list(run_together([self.open(key) for key in keys], feed))

    def close(self, *keys: Key) -> None:
        """Close sessions that are not needed any more; without arguments all."""
        for key in keys or tuple(self._sessions):
            session = self._sessions.pop(key, None)
            if session is not None:
                session.close()


class Pair:
    """Two of the sessions, and how far their outputs are apart.

    Attributes:
        reference: The one the other is compared with.
        other: The other.
        meters: One an output.
        dtypes: Element types of the outputs; of a sequence, those of its first element.
        score: What a metric of the user's is added up in, if there is one.
    """

    def __init__(
        self,
        reference: Key,
        other: Key,
        tolerance: Tolerance,
        score: ScoreMeter | None = None,
    ) -> None:
        self.reference = reference
        self.other = other
        self.score = score
        self.meters: dict[str, DifferenceMeter] = {}
        self.dtypes: dict[str, str] = {}
        self._tolerance = tolerance

    def add(
        self, sample: int, want: Mapping[str, Any], got: Mapping[str, Any], feed: Feed
    ) -> None:
        """Take in the outputs of one sample.

        Raises:
            DiffersError: They have not the same structure, types and shapes.
            MetricError: The metric of the user's cannot be taken of them.
        """
        for name, value in want.items():
            meter = self.meters.setdefault(name, DifferenceMeter(self._tolerance))
            if type(value) is not type(got[name]):
                raise DiffersError(
                    f"output {name!r} is {_form(got[name])} and was {_form(value)} in sample "
                    f"{sample}"
                )
            parts, others = dict(_parts(name, value)), dict(_parts(name, got[name]))
            if parts.keys() != others.keys():
                raise DiffersError(
                    f"output {name!r} has {len(others)} parts and had {len(parts)} in sample "
                    f"{sample}"
                )
            for part, array in parts.items():
                other = others[part]
                if array.dtype != other.dtype or array.shape != other.shape:
                    raise DiffersError(
                        f"output {part!r} is {_kind(other)} and was {_kind(array)} in sample "
                        f"{sample}"
                    )
                self.dtypes.setdefault(name, str(array.dtype))
                meter.add(sample, array, other)
        if self.score is not None:
            self.score.add(sample, feed, want, got)


def _parts(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of an output, which may be a sequence or a map, with their names."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _parts(f"{name}[{index}]", item)
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield from _parts(f"{name}[{key!r}]", value[key])
    elif value is not None:
        yield name, np.asarray(value)


def _form(value: Any) -> str:
    forms = {list: "a sequence", dict: "a map", type(None): "no value"}
    return forms.get(type(value), "a tensor")


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"

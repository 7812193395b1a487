"""A metric of the user's: a Python function, named ``module:function``.

The function is given what its parameters ask for, by name, and returns a number; more is
better:

* ``outputs``: output name -> array, of the model that is judged, for one feed;
* ``reference``: the same of the original;
* ``feed``: input name -> array;
* ``index``: the place of the feed in the samples, from 0 (to look up a label of one's own).

What it is given is its own: it may change arrays in place.

With ``reference`` among them the number is the quality itself, and that of a model is the mean
over the feeds. Without it, the function scores one model; the quality is then the candidate's
mean score over the original's: the share that is kept. Examples::

    def accuracy(outputs, index):
        return (outputs["logits"].argmax(-1) == LABELS[index]).mean()

    def same_text(outputs, reference):
        return decode(outputs["y"]) == decode(reference["y"])
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import inspect
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import MetricError, nearest

__all__ = ["BUILT_IN", "Metric", "ScoreMeter", "UserMetric", "metric_of"]

BUILT_IN = ("cosine", "top1", "sqnr")
"""Metrics that need no labels: the cosine to the original's outputs, the share of rows with
the same largest element, and the signal-to-noise ratio in dB. The worst output counts."""

Metric: TypeAlias = "str | Callable[..., Any]"
"""A built-in one, ``"module:function"``, or a function."""

_PARAMETERS = ("outputs", "reference", "feed", "index")


class UserMetric:
    """A function of the user's, checked; see the module docstring for the contract.

    Args:
        function: What scores.
        name: What it is called in messages.

    Attributes:
        name: What it is called in messages.
        is_share: Whether the quality is the candidate's score over the original's.

    Raises:
        MetricError: It cannot be called with what there is.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self._function = function
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            raise MetricError("signature", f"{name} cannot be called: {error}.") from error
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        needed = [p.name for p in parameters if p.default is p.empty or p.name in _PARAMETERS]
        unknown = [p for p in needed if p not in _PARAMETERS]
        if unknown or not needed or any(p.kind not in kinds for p in parameters):
            found = f"the parameter {unknown[0]!r}" if unknown else "none of them by name"
            raise MetricError(
                "signature",
                f"{name} has {found}; a metric takes any of {', '.join(_PARAMETERS)}.",
            )
        self._wanted = tuple(needed)
        self.is_share = "reference" not in needed

    def version(self) -> str:
        """Return a text that changes with the file the function is in; empty: no such file."""
        with contextlib.suppress(OSError, TypeError):
            path = inspect.getsourcefile(inspect.unwrap(self._function))
            if path is not None:
                return hashlib.blake2b(pathlib.Path(path).read_bytes()).hexdigest()
        return ""

    def __call__(
        self,
        outputs: Mapping[str, Any],
        reference: Mapping[str, Any],
        feed: Mapping[str, Any],
        index: int,
    ) -> float:
        """Return the score of one feed.

        Raises:
            MetricError: The function raises, or returns no finite number.
        """
        given = {"outputs": outputs, "reference": reference, "feed": feed, "index": index}
        # Copies: the same arrays are used again, for the next metric or the next model.
        wanted = {name: copy.deepcopy(given[name]) for name in self._wanted}
        try:
            score = self._function(**wanted)
        except (Exception, SystemExit) as error:
            raise MetricError(
                "raised",
                f"{self.name} raised {type(error).__name__} on sample {index}: {error}",
            ) from error
        number = math.nan
        if not isinstance(score, (str, bytes)):
            # What it returns is an object of the user's too, and may raise anything.
            with contextlib.suppress(Exception):
                number = float(np.asarray(score).item())
        if not math.isfinite(number):
            raise MetricError(
                "no-number",
                f"{self.name} returned {_short(score)} for sample {index}; expected is one "
                "finite number.",
            )
        return number


class ScoreMeter:
    """Adds up the scores of a metric of the user's.

    Args:
        metric: What scores.
    """

    def __init__(self, metric: UserMetric) -> None:
        self.metric = metric
        self.scores: list[tuple[float, float]] = []
        """Of each feed: the candidate's score, and what it counts against."""

    def add(
        self,
        index: int,
        feed: Mapping[str, Any],
        reference: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        """Take in the answers to one feed.

        Raises:
            MetricError: The function raises, or returns no finite number.
        """
        score = self.metric(outputs, reference, feed, index)
        against = 1.0
        if self.metric.is_share:
            against = self.metric(reference, reference, feed, index)
        self.scores.append((score, against))

    def quality(self) -> float:
        """Return the quality.

        Raises:
            MetricError: The original itself scores nothing, so that there is no share of it.
        """
        score, against = (sum(column) for column in zip(*self.scores, strict=True))
        if against <= 0:
            raise MetricError(
                "no-share",
                f"{self.metric.name} gives the original {against / len(self.scores):g} on "
                "average; a share can only be kept of what is above 0.",
                hint="More must be better; or take the parameter 'reference' and compare.",
            )
        return float(score / against)


def metric_of(metric: Metric) -> str | UserMetric:
    """Return the name of a built-in metric, or the user's function, loaded and checked.

    Modules are looked for in the current folder too.

    Raises:
        MetricError: There is no such metric, or it cannot be used.
    """
    if isinstance(metric, UserMetric) or (isinstance(metric, str) and metric in BUILT_IN):
        return metric
    if not isinstance(metric, str):
        return UserMetric(metric, getattr(metric, "__name__", type(metric).__name__))
    module, colon, path = metric.partition(":")
    if not colon or not module or not path:
        raise MetricError(
            "unknown",
            f"there is no metric {metric!r}.",
            hint=f"{nearest(metric, BUILT_IN)} Or module:function, a function of your own.",
        )
    return UserMetric(_load(metric, module, path), metric)


def _load(text: str, module: str, path: str) -> Callable[..., Any]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise MetricError(
            "import",
            f"{text}: the module {module!r} cannot be imported: "
            f"{type(error).__name__}: {error}.",
            hint="It is looked for in the current folder and among what is installed.",
        ) from error
    finally:
        sys.path.remove(folder)
    for part in path.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")]
            raise MetricError(
                "import",
                f"{text}: {module!r} has no {part!r}.",
                hint=nearest(part, names[:50]),
            )
        found = getattr(found, part)
    if not callable(found):
        raise MetricError("import", f"{text} is {_short(found)}, which is no function.")
    function: Callable[..., Any] = found
    return function


def _short(value: object) -> str:
    if isinstance(value, np.ndarray) and value.size != 1:
        return f"an array of shape {list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

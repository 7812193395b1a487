"""Decides what is compared at which level of onnxruntime's optimizations, and judges it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from graphopt.errors import ExecutionError, ValidationError
from graphopt.metrics import Tolerance
from graphopt.passbase import Promise
from graphopt.runtime.session import Level
from graphopt.scores import ScoreMeter, UserMetric
from graphopt.validation.bench import LEVEL_WORDS, Bench, DiffersError, Key, Pair
from graphopt.validation.comparison import (
    LevelComparison,
    OutputComparison,
    judge,
)
from graphopt.validation.interface import difference_of
from graphopt.validation.stream import Stream

__all__ = ["Judgement"]

_NOT_COMPARED = "not compared, the original answers differently each time"

_TIMES_OWN = 5.0
"""How many times as far as onnxruntime's own optimizations move the original a result may be
from it: they re-order float operations as a rewrite does, so they show how much of that a
model passes on to its outputs on these samples. Text recognition, where near ties go through
softmax, was moved twice as far by fusing its normalizations."""
_MOST = 100.0
"""A model that would need more times the tolerance than this is not sensitive: onnxruntime's
optimizations are wrong there, and nothing is allowed."""


class Judgement:
    """Decides what to compare at which level, and judges it."""

    def __init__(
        self,
        bench: Bench,
        stream: Stream,
        promise: Promise,
        tolerance: Tolerance,
        metric: str | UserMetric,
        target: float | None,
    ) -> None:
        self.tolerance = tolerance
        self.levels: list[LevelComparison] = []
        self.notes: list[str] = []
        self._bench = bench
        self._stream = stream
        self._promise = promise
        self._metric = metric
        self._target = target
        self._random: set[str] = set()  # outputs that are another each time
        self._allowed: dict[str, float] = {}  # output -> times the tolerance

    def run(self, *, one_by_one: bool) -> None:
        """Compare.

        Raises:
            DiffersError: They differ so much that there is nothing to measure.
            ValidationError: The original cannot be run.
        """
        reference = self._reference()
        others = self._others(reference)
        self._check_interface(reference, others[-1])
        planned = [Pair(reference, other, self.tolerance) for other in others]
        planned[-1].score = self._score()
        pairs: list[Pair] = []
        for group in [[pair] for pair in planned] if one_by_one else [planned]:
            pairs += self._stream.measure(group)
            if one_by_one:
                self._bench.close(*(pair.other for pair in group))
        if not self._stream.count:
            raise DiffersError("there were no samples, so that nothing is proven")
        deployed = pairs[-1].other[1] == "all"
        if self._promise is Promise.LOSSY and self._target is not None and not deployed:
            raise DiffersError(
                f"the target of {self._target:g} is not judged: {LEVEL_WORDS['all']} neither "
                "model runs on all the samples"
            )
        self.levels = [self._judged(pair) for pair in pairs]
        self._find_random(reference)
        if self._random:
            self.levels = [self._judged(pair) for pair in pairs]
        if any(level.reason for level in self.levels) and self._widen(pairs[-1]):
            self.levels = [self._judged(pair) for pair in pairs]
        if self.levels[-1].reason:
            self._compare_like_with_like(pairs[-1])
        if all(output.reason == _NOT_COMPARED for output in self.levels[-1].outputs):
            raise DiffersError("no output can be compared, so that nothing is proven")

    def _reference(self) -> Key:
        """Return the level at which the original is the reference."""
        errors = []
        for level in ("disable", "all"):
            key: Key = ("original", level)
            try:
                self._bench.open(key)
            except ExecutionError as error:
                errors.append(error)
                continue
            if errors:
                self.notes.append(
                    f"the original is compared {LEVEL_WORDS[level]} only: {errors[0].message}"
                )
            return key
        raise ValidationError(
            "not-runnable",
            f"the original is not loaded: {errors[0].message}",
            hint="Nothing can be said about a candidate without a reference that runs.",
        ) from errors[0]

    def _others(self, reference: Key) -> list[Key]:
        """Return the candidate at the levels at which it can be compared, the default last.

        Raises:
            DiffersError: It is not loaded where the original is.
        """
        keys: list[Key] = []
        levels: list[Level] = ["disable", "all"] if reference[1] == "disable" else ["all"]
        for level in levels:
            key: Key = ("candidate", level)
            try:
                self._bench.open(key)
            except ExecutionError as error:
                text = f"{LEVEL_WORDS[level]} the candidate is not loaded: {error.message}"
                if level == reference[1] or self._is_loaded(("original", level)):
                    raise DiffersError(text) from error
                self.notes.append(f"{text} Neither is the original.")
            else:
                keys.append(key)
        return keys

    def _is_loaded(self, key: Key) -> bool:
        try:
            self._bench.open(key)
        except ExecutionError:
            return False
        return True

    def _check_interface(self, reference: Key, other: Key) -> None:
        original, candidate = self._bench.open(reference), self._bench.open(other)
        for reason in (
            difference_of("input", original.input_specs, candidate.input_specs),
            difference_of("output", original.output_specs, candidate.output_specs),
            difference_of(
                "overridable input", original.overridable_specs, candidate.overridable_specs
            ),
        ):
            if reason:
                raise DiffersError(reason)

    def _judged(self, pair: Pair) -> LevelComparison:
        original_level, level = pair.reference[1], pair.other[1]
        promise, target = self._promise, self._target
        if promise is Promise.EXACT and (original_level, level) != ("disable", "disable"):
            # onnxruntime may fuse what it could not before, in another order of operations.
            promise = Promise.CLOSE
        if level == "disable":
            target = None  # what is deployed reaches it or not
        metric = self._metric if isinstance(self._metric, str) else ""
        aim = target if promise is Promise.LOSSY else None
        outputs = []
        for spec in self._bench.open(pair.reference).output_specs:
            meter = pair.meters[spec.name]
            output = judge(
                spec.name,
                pair.dtypes.get(spec.name, str(spec.dtype)),
                meter.result(),
                promise,
                self.tolerance,
                metric,
                target if metric else None,
                self._allowed.get(spec.name, 1.0),
            )
            if spec.name in self._random:
                output = dataclasses.replace(output, passed=True, reason=_NOT_COMPARED)
            elif 0 in spec.shape:  # declared to be empty: there is nothing to prove
                output = dataclasses.replace(output, passed=True, reason="")
            outputs.append(output)
        return _level(original_level, level, promise, outputs, pair.score, aim)

    def _score(self) -> ScoreMeter | None:
        return None if isinstance(self._metric, str) else ScoreMeter(self._metric)

    def _widen(self, pair: Pair) -> bool:
        """Allow more where onnxruntime's own optimizations move the original far as well."""
        optimized: Key = ("original", "all")
        if self._promise is Promise.LOSSY or pair.reference == optimized:
            return False
        if not self._is_loaded(optimized):
            return False
        self._bench.close(("candidate", "disable"))
        own = Pair(pair.reference, optimized, self.tolerance)
        try:
            self._stream.measure([own])
        except DiffersError:
            return False
        for name, meter in own.meters.items():
            allowed = _TIMES_OWN * meter.result().needed
            if name in own.dtypes and name not in self._random and 1 < allowed <= _MOST:
                self._allowed[name] = allowed
        if self._allowed:
            widest = max(self._allowed.values())
            self.notes.append(
                "this model is sensitive to the order of float operations: onnxruntime's own "
                f"optimizations move it {widest / _TIMES_OWN:.2g} times as far as the "
                f"tolerance; {self.tolerance.scaled(widest)} is allowed"
            )
        return bool(self._allowed)

    def _compare_like_with_like(self, pair: Pair) -> None:
        """See whether it is onnxruntime's optimizations that change the original as well."""
        same_level: Key = ("original", pair.other[1])
        if pair.reference == same_level or not self._is_loaded(same_level):
            return
        self._bench.close(("candidate", "disable"))
        changed = Pair(pair.reference, same_level, self.tolerance)
        like = Pair(same_level, pair.other, self.tolerance, self._score())
        try:
            self._stream.measure([changed, like])
        except DiffersError:
            return
        judged = [
            judge(name, changed.dtypes[name], meter.result(), Promise.CLOSE, self.tolerance)
            for name, meter in changed.meters.items()
            if name in changed.dtypes and name not in self._random
        ]
        reasons = [f"output {one.name!r}: {one.reason}" for one in judged if not one.passed]
        if not reasons:
            return
        self.notes.append(
            f"onnxruntime's own optimizations change the original ({reasons[0]}): "
            f"{LEVEL_WORDS['all']} the candidate is compared with the original as optimized"
        )
        self.levels[-1] = self._judged(like)

    def _find_random(self, reference: Key) -> None:
        """Where outputs failed, look for those that are another each time."""
        failed = [o for level in self.levels for o in level.outputs if not o.passed]
        for index in sorted({o.difference.worst_sample or 0 for o in failed}):
            self._random |= self._stream.random_outputs(reference, index, self.tolerance)
        if self._random:
            names = ", ".join(map(repr, sorted(self._random)))
            self.notes.append(f"{names}: {_NOT_COMPARED} (random numbers)")


def _level(
    original_level: Level,
    level: Level,
    promise: Promise,
    outputs: Sequence[OutputComparison],
    meter: ScoreMeter | None,
    target: float | None,
) -> LevelComparison:
    reasons = [f"output {o.name!r}: {o.reason}" for o in outputs if not o.passed]
    score = None if meter is None else meter.quality()
    if meter is not None and score is not None and target is not None and score < target:
        reasons.append(f"{meter.metric.name} is {score:.6g}, and the target is {target:g}")
    reason = f"{LEVEL_WORDS[level]}, {'; '.join(reasons)}" if reasons else ""
    return LevelComparison(original_level, level, promise, tuple(outputs), reason, score)

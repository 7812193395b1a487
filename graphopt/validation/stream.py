"""Samples on their way through the models, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from graphopt.errors import ExecutionError, ValidationError
from graphopt.metrics import Tolerance
from graphopt.samples import Feed, Samples
from graphopt.validation.bench import LEVEL_WORDS, Answer, Bench, DiffersError, Key, Pair

__all__ = ["Stream"]


class Stream:
    """Runs the sessions of a bench on samples.

    Args:
        bench: The sessions.
        samples: What they are run on.

    Attributes:
        count: Samples that the original ran on.
        notes: What was left out.
        advance: Called after every sample.
    """

    def __init__(self, bench: Bench, samples: Samples) -> None:
        self.count = 0
        self.notes: list[str] = []
        self.advance: Callable[[], None] = lambda: None
        self._bench = bench
        self._samples = samples

    def measure(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Run all samples and take in their outputs.

        Args:
            pairs: What to compare; the reference of the first is the original as it must run.

        Returns:
            The pairs, without those whose candidate fails at a level where the original does.

        Raises:
            DiffersError: The candidate fails, or its outputs are of other shapes.
            ValidationError: The original does not run on a sample.
        """
        kept = list(pairs)
        reference = pairs[0].reference
        count = 0
        for index, feed in enumerate(self._samples.feeds()):
            ends = [key for pair in kept for key in (pair.reference, pair.other)]
            keys = list(dict.fromkeys([reference, *ends]))
            answers = dict(zip(keys, self._bench.run(keys, feed), strict=True))
            answer = answers[reference]
            if isinstance(answer, ExecutionError):
                raise ValidationError(
                    "not-runnable",
                    f"sample {index} of {self._samples.describe()}: {answer.message}",
                    hint="The original itself does not run on it.",
                ) from answer
            kept = [pair for pair in kept if self._take(pair, index, feed, answers)]
            count += 1
            self.advance()
        self.count = count
        return kept

    def random_outputs(self, key: Key, index: int, tolerance: Tolerance) -> set[str]:
        """Return the outputs that are not the same when a sample is run twice.

        Args:
            key: What to run.
            index: The sample.
            tolerance: Of no importance here: what differs in a bit is random.
        """
        feed = next(itertools.islice(self._samples.feeds(), index, None))
        (first,), (second,) = self._bench.run([key], feed), self._bench.run([key], feed)
        if isinstance(first, ExecutionError) or isinstance(second, ExecutionError):
            return set()
        random = set()
        for name in first:
            pair = Pair(key, key, tolerance)
            try:
                pair.add(0, {name: first[name]}, {name: second[name]}, feed)
            except DiffersError:
                random.add(name)
                continue
            if pair.meters[name].result().equal < 1:
                random.add(name)
        return random

    def _take(self, pair: Pair, index: int, feed: Feed, answers: dict[Key, Answer]) -> bool:
        """Take in one sample; return whether the pair can be compared at all."""
        want, got = answers[pair.reference], answers[pair.other]
        if isinstance(want, ExecutionError):
            raise DiffersError(want.message)
        if not isinstance(got, ExecutionError):
            pair.add(index, want, got, feed)
            return True
        level = pair.other[1]
        same_level: Key = ("original", level)
        if same_level != pair.reference:
            try:
                (answer,) = self._bench.run([same_level], feed)
            except ExecutionError as error:
                answer = error
            if isinstance(answer, ExecutionError):
                self.notes.append(
                    f"{LEVEL_WORDS[level]} both models fail in sample {index}, and are not "
                    f"compared: {answer.message}"
                )
                return False
        raise DiffersError(
            f"{LEVEL_WORDS[level]} the candidate fails in sample {index}: {got.message}"
        )

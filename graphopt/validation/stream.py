"""Samples on their way through the models, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from graphopt.errors import ExecutionError, ValidationError
from graphopt.metrics import Tolerance
from graphopt.samples import Feed, Samples
from graphopt.validation.bench import LEVEL_WORDS, Answer, Bench, DiffersError, Key, Pair
from graphopt.validation.feeds import Redraw

__all__ = ["Stream"]


class Stream:
    """Runs the sessions of a bench on samples.

    Args:
        bench: The sessions.
        samples: What they are run on.

    Attributes:
        count: Samples that the original ran on.
        notes: What was done to the samples.
        advance: Called after every sample.
    """

    def __init__(self, bench: Bench, samples: Samples) -> None:
        self.count = 0
        self.notes: list[str] = []
        self.advance: Callable[[], None] = lambda: None
        self._bench = bench
        self._samples = samples
        self._redraw: Redraw | None = None

    def measure(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Run all samples and take in their outputs.

        Args:
            pairs: What to compare. The reference of the first is the one whose refusal of a
                made-up sample is no defect.

        Returns:
            The pairs, without those whose candidate fails at a level where the original does.

        Raises:
            DiffersError: The candidate fails, or its outputs are of other shapes.
            ValidationError: The original does not run on a sample, or on any made-up one.
        """
        kept = list(pairs)
        reference = pairs[0].reference
        keys = list(
            dict.fromkeys(key for pair in pairs for key in (pair.reference, pair.other))
        )
        count, left_out = 0, 0
        refusal: ExecutionError | None = None
        for index, drawn in enumerate(self._samples.feeds()):
            feed: Feed | None = drawn
            answers = self._run(keys, drawn)
            answer = answers[reference]
            if isinstance(answer, ExecutionError):
                refusal = refusal or answer
                feed = self._replaced(reference, drawn, index, answer)
                if feed is None:
                    left_out += 1
                    continue
                answers = self._run(keys, feed)
            assert feed is not None
            kept = [pair for pair in kept if self._take(pair, index, feed, answers)]
            count += 1
            self.advance()
        if refusal is not None:
            self._note_refusal(refusal, count, left_out)
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
        if self._redraw is not None:
            feed = self._redraw.found(feed, index)
        (first,), (second,) = self._bench.run([key], feed), self._bench.run([key], feed)
        if isinstance(first, ExecutionError) or isinstance(second, ExecutionError):
            return set()
        random = set()
        for name in first:
            pair = Pair(key, key, tolerance)
            try:
                pair.add(0, {name: first[name]}, {name: second[name]})
            except DiffersError:
                random.add(name)
                continue
            if pair.meters[name].result().equal < 1:
                random.add(name)
        return random

    def _run(self, keys: Sequence[Key], feed: Feed) -> dict[Key, Answer]:
        return dict(zip(keys, self._bench.run(keys, feed), strict=True))

    def _take(self, pair: Pair, index: int, feed: Feed, answers: dict[Key, Answer]) -> bool:
        """Take in one sample; return whether the pair can be compared at all."""
        want, got = answers[pair.reference], answers[pair.other]
        if isinstance(want, ExecutionError):
            raise DiffersError(want.message)
        if not isinstance(got, ExecutionError):
            pair.add(index, want, got)
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

    def _replaced(
        self, reference: Key, feed: Feed, index: int, error: ExecutionError
    ) -> Feed | None:
        """Return a feed in place of one that the original refuses; ``None``: none found."""
        specs = self._samples.specs
        if not self._samples.is_synthetic or specs is None:
            raise ValidationError(
                "not-runnable",
                f"sample {index} of {self._samples.describe()}: {error.message}",
                hint="The original itself does not run on it.",
            ) from error
        if self._redraw is None:

            def runs(feed: Feed) -> bool:
                return not isinstance(self._bench.run([reference], feed)[0], ExecutionError)

            self._redraw = Redraw(specs, runs)
        return self._redraw.find(feed, index)

    def _note_refusal(self, refusal: ExecutionError, count: int, left_out: int) -> None:
        if not count:
            raise ValidationError(
                "not-runnable",
                f"the original runs on no made-up sample: {refusal.message}",
                hint="Pass --data with samples that it accepts.",
            ) from refusal
        assert self._redraw is not None
        note = f"the original refuses some made-up samples ({refusal.message})"
        if found := self._redraw.describe():
            note += f"; in their place are some with {found}"
        if left_out:
            note += f"; {left_out} were left out"
        if note not in self.notes:
            self.notes.append(note)

"""The summary: one card a figure, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from graphopt.passbase import Promise
from graphopt.report.console import size
from graphopt.report.summary import macs_label
from graphopt.report.verdict import verdict_of

from .content import Card

if TYPE_CHECKING:
    from graphopt.api import Result

__all__ = ["cards_of"]

_NEUTRAL = 0.005
"""A change by less than this share is no news."""


def cards_of(result: Result) -> list[Card]:
    """Return one card a figure."""
    before, after = result.before, result.after
    cards = [
        _card("Size", before.size_bytes, after.size_bytes, size),
        _card("Nodes", before.nodes, after.nodes, "{:,}".format),
        _card("Parameters", before.parameters, after.parameters, _count),
        _card(macs_label(result.origin.model, sampled=True), before.macs, after.macs, _count),
    ]
    if result.latency:
        old, new = result.latency[0].median_ms, result.latency[-1].median_ms
        speedup = result.speedup or 1.0
        verdict = "good" if speedup > 1.03 else "bad" if speedup < 0.97 else ""
        cards.append(
            Card(
                "Latency",
                _time(new),
                _time(old),
                f"{speedup:.2f}\N{MULTIPLICATION SIGN} as fast",
                verdict,
            )
        )
    return [*cards, _quality(result)]


def _card(label: str, old: float, new: float, show: Callable[[float], str]) -> Card:
    if not old:
        return Card(label, show(new), show(old))
    share = (new - old) / old
    verdict = "good" if share < -_NEUTRAL else "bad" if share > _NEUTRAL else ""
    change = (
        "unchanged" if new == old else f"{100 * share:+.1f} %".replace("-", "\N{MINUS SIGN}")
    )
    return Card(label, show(new), show(old), change, verdict)


def _quality(result: Result) -> Card:
    comparison = result.comparison
    verdict = verdict_of(result)[0]
    found = [output.difference for output in comparison.outputs]
    if found and all(difference.equal == 1 for difference in found):
        return Card("Answers", "equal", "", f"{comparison.samples} samples", verdict)
    if comparison.promise is Promise.LOSSY and comparison.metric == "top1":
        shares = [one.top1 for one in found if one.top1 is not None]
        value = f"{100 * min(shares):.2f} %" if shares else "-"
        return Card("Same top answer", value, "", f"{comparison.samples} samples", verdict)
    if comparison.promise is Promise.LOSSY and comparison.metric == "cosine":
        cosines = [one.cosine for one in found if not math.isnan(one.cosine)]
        value = f"{min(cosines):.5f}" if cosines else "-"
        return Card("Cosine", value, "", f"{comparison.samples} samples", verdict)
    decibels = [one.sqnr_db for one in found if not math.isnan(one.sqnr_db)]
    value = f"{min(decibels):.1f} dB" if decibels else "-"
    return Card("Signal to noise", value, "", f"{comparison.samples} samples", verdict)


def _count(value: float) -> str:
    for unit in ("", " k", " M", " G"):
        if value < 1000 or unit == " G":
            break
        value /= 1000
    return f"{value:.0f}{unit}" if value >= 100 or not unit else f"{value:.1f}{unit}"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms"

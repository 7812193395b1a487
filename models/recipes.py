"""How the demo's networks are trained; chosen by ``study``, without the test split."""

from __future__ import annotations

from .settings import Settings

__all__ = ["ALPHA", "STUDENT", "TEACHER", "TEMPERATURE"]

STUDENT = Settings()
"""The defaults. The plain and the distilled student are trained alike."""

TEACHER = Settings(epochs=20, lr=0.02, schedule="cosine")
"""Twice as long, and ended softly. Shifted and turned images did not make it better."""

TEMPERATURE, ALPHA = 4.0, 0.9
"""Of five seeds on held-out quarters of the training split: plain 96.1 %, T=4 and alpha=0.9
97.5 %, the other eight of ``study.GRID`` 96.4 to 97.6 %: it hardly matters."""

"""Text in a terminal: names in a model are anything, and must not steer it."""

from __future__ import annotations

import re

__all__ = ["harmless"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but the tab and the end of a line; ESC and CSI start commands."""


def harmless(text: str) -> str:
    r"""Return ``text`` with control characters spelled: ``\x1b``."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)

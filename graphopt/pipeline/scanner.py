"""The words and signs of a pipeline's text."""

from __future__ import annotations

from graphopt.errors import PipelineError

__all__ = ["SIGNS", "Quoted", "Scanner"]

SIGNS = frozenset('{}[]()=,"')
"""What ends a word."""


class Quoted(str):
    """A value that was written in quotes: text, never the word ``none``."""

    __slots__ = ()


class Scanner:
    """Reads the words and signs of a pipeline's text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is no space; ``""`` at the end."""
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._text[self._at : self._at + 1]

    def take(self, sign: str) -> bool:
        """Step over ``sign`` if it comes next."""
        if self.peek() == sign:
            self._at += 1
            return True
        return False

    def word(self, what: str) -> str:
        """Return what stands up to the next sign; ``what`` was expected there."""
        start = self._at if self.peek() else len(self._text)
        while self._at < len(self._text) and self._text[self._at] not in SIGNS:
            self._at += 1
        word = self._text[start : self._at].strip()
        if not word:
            found = repr(self.peek()) if self.peek() else "the end"
            raise self.error(f"expected {what}, found {found}")
        return word

    def value(self) -> str | list[str]:
        """Return a word or quoted text, or the list of them in parentheses."""
        if self.take("("):
            values: list[str] = []
            while not self.take(")"):
                values.append(self._atom())
                if self.peek() != ")" and not self.take(","):
                    raise self.error("expected ',' or ')'")
            return values
        return self._atom()

    def _atom(self) -> str:
        if not self.take('"'):
            return self.word("a value")
        out: list[str] = []
        while self._at < len(self._text):
            sign = self._text[self._at]
            self._at += 1
            if sign == '"':
                return Quoted("".join(out))
            if sign == "\\" and self._at < len(self._text):
                sign = self._text[self._at]
                self._at += 1
            out.append(sign)
        raise self.error("the quote is not closed")

    def error(self, what: str) -> PipelineError:
        """Return the error that ``what`` is wrong here."""
        return PipelineError(
            "syntax", f"{what}, at character {self._at + 1} of {self._text!r}."
        )

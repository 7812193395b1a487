"""Inputs for the real models that look like what they were made for.

Sentences come from the documentation of Python's standard library, text lines are rendered
words of the same, speech is synthesized: voiced sounds with formants and a gliding pitch,
hissing, and pauses. All are seeded. Feeds have different sizes, since the models allow it.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.runtime import Runtime

from .errors import FetchError

__all__ = ["Feed", "sentences", "speech_feeds", "text_feeds", "token_feeds"]

Feed = dict[str, np.ndarray]

_MODULES = (
    "argparse", "asyncio", "collections", "csv", "datetime", "decimal", "email", "functools",
    "http.client", "itertools", "json", "logging", "os", "pathlib", "random", "re", "shutil",
    "socket", "sqlite3", "statistics", "subprocess", "tempfile", "threading", "zipfile",
)  # fmt: skip


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return sentences of 40 to 300 characters from the standard library's documentation."""
    found: set[str] = set()
    for name in _MODULES:
        module = importlib.import_module(name)
        for _, member in inspect.getmembers(module, callable):
            text = inspect.getdoc(member) or ""
            # A sentence ends at a full stop before white space, or with its paragraph.
            for part in re.split(r"(?<=\.)\s+|\n\s*\n", text):
                line = " ".join(part.split())
                if 40 <= len(line) <= 300 and line.endswith("."):
                    found.add(line)
    order = np.random.default_rng(seed).permutation(len(found))
    ordered = sorted(found)
    return [ordered[index] for index in order[:count]]


def token_feeds(tokenizer: pathlib.Path, lines: Sequence[str], batch: int) -> Iterator[Feed]:
    """Give the tokens of ``lines``: ``in0`` ids and ``in1`` mask, int64 [batch, longest].

    Raises:
        FetchError: tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise FetchError(
            "missing", "tokenizers is not installed.", hint="pip install 'graphopt[real]'"
        ) from error
    reader = Tokenizer.from_file(str(tokenizer))
    reader.enable_truncation(128)
    reader.enable_padding()
    for start in range(0, len(lines), batch):
        encoded = reader.encode_batch(list(lines[start : start + batch]))
        yield {
            "in0": np.array([line.ids for line in encoded], np.int64),
            "in1": np.array([line.attention_mask for line in encoded], np.int64),
        }


def text_feeds(count: int, batch: int, seed: int = 0) -> Iterator[Feed]:
    """Give rendered lines of text: ``x``, float32 [batch, 3, 48, width] in [-1, 1].

    Lines differ in words, size, contrast and noise. As in the model's own preprocessing, a
    line keeps its proportions and is padded with grey on the right to the longest of its
    batch, so feeds differ in width.

    Raises:
        FetchError: pillow is not installed.
    """
    rng = np.random.default_rng(seed)
    words = sorted(set(re.findall(r"[A-Za-z]+", " ".join(sentences(400)))))
    for _ in range(0, count, batch):
        lines = []
        for _ in range(batch):
            text = " ".join(rng.choice(words) for _ in range(int(rng.integers(1, 4))))
            if rng.random() < 0.3:
                text += f" {rng.integers(10, 99999)}"
            lines.append(_render(text, rng))
        x = np.zeros((batch, 3, _HEIGHT, max(line.shape[1] for line in lines)), np.float32)
        for row, line in zip(x, lines, strict=True):
            row[:, :, : line.shape[1]] = line
        yield {"x": x}


_HEIGHT = 48
"""Pixels; what the text recognition was trained on."""


def _render(text: str, rng: np.random.Generator) -> np.ndarray:
    """Return ``text`` as float32 [48, width] in [-1, 1], with noise."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise FetchError(
            "missing", "pillow is not installed.", hint="pip install 'graphopt[real]'"
        ) from error
    font = ImageFont.load_default(float(rng.integers(22, 34)))  # the font pillow brings along
    paper, ink = int(rng.integers(180, 256)), int(rng.integers(0, 100))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    margin = 4
    size = (right - left + 2 * margin, bottom - top + 2 * margin)
    image = Image.new("L", size, paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=font, fill=ink)
    width = max(16, round(size[0] * _HEIGHT / size[1]))
    image = image.resize((width, _HEIGHT), Image.Resampling.BILINEAR)
    pixels = np.asarray(image) + rng.normal(0, rng.uniform(0, 12), (_HEIGHT, width))
    return (np.clip(pixels, 0, 255) / 127.5 - 1).astype(np.float32)


RATE = 16_000
"""Samples a second."""
_WINDOW, _CONTEXT = 512, 64
"""Samples the speech model hears at a time, and how many of the last ones it hears again."""


def speech_feeds(model: pathlib.Path, count: int, batch: int, seed: int = 0) -> Iterator[Feed]:
    """Give consecutive windows of several voices, with the states the model itself leaves.

    ``input`` float32 [batch, 576] in [-1, 1], ``state`` float32 [2, batch, 128], ``sr`` int64.

    Args:
        model: The speech model, which is run for the states.
        count: Windows.
        batch: Voices.
        seed: Seed of the sound.
    """
    rng = np.random.default_rng(seed)
    sound = np.stack([_voice(count * _WINDOW + _CONTEXT, rng) for _ in range(batch)])
    state = np.zeros((2, batch, 128), np.float32)
    with Runtime() as runtime, runtime.session(model) as session:
        for index in range(count):
            start = index * _WINDOW
            feed = {
                "input": sound[:, start : start + _WINDOW + _CONTEXT],
                "state": state,
                "sr": np.array(RATE, np.int64),
            }
            yield feed
            state = session.run(feed)["stateN"]


def _voice(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32 [length]: syllables, hisses and pauses of 80 to 300 ms."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < length:
        size = int(rng.uniform(0.08, 0.3) * RATE)
        kind = rng.choice(("voiced", "hiss", "pause"), p=(0.6, 0.2, 0.2))
        if kind == "voiced":
            sound = _vowel(size, rng)
        else:
            sound = rng.standard_normal(size) * (0.05 if kind == "hiss" else 0.001)
        # Rise and fall, so that parts do not click.
        parts.append(sound * np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 0.5)
    voice = np.concatenate(parts)[:length]
    loudest = float(np.abs(voice).max())
    return np.asarray(voice / (2 * loudest), np.float32)


def _vowel(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return float64 [size]: harmonics of a gliding pitch, loud near three formants."""
    pitch = np.linspace(rng.uniform(90, 220), rng.uniform(90, 220), size)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = rng.uniform((250, 850, 2000), (850, 2300, 3200))
    sound: np.ndarray = np.zeros(size)
    for harmonic in range(1, int(4000 / pitch.max()) + 1):
        frequency = harmonic * pitch.mean()
        loudness = np.exp(-(((frequency - formants) / 150.0) ** 2)).sum() + 0.02
        sound = sound + loudness / harmonic * np.sin(harmonic * phase)
    return sound

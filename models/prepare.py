"""Make the real models ready: MiniLM as ONNX, and sample inputs beside each."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from . import export_minilm, real_samples

__all__ = ["MODELS", "SAMPLES", "prepare"]

MODELS = {
    "minilm": "minilm/minilm.onnx",
    "ocr": "ocr/ch_PP-OCRv4_rec_infer.onnx",
    "speech": "speech/silero_vad_16k_op15.onnx",
}
"""Name -> ONNX file in the cache."""

SAMPLES = {name: f"{name}/samples" for name in MODELS}
"""Name -> folder of feeds in the cache, for ``graphopt --data``."""


def prepare(cache: pathlib.Path, samples: bool = True) -> Iterator[pathlib.Path]:
    """Make what is missing in ``cache``; give the path of each thing made.

    Raises:
        FetchError: A package that is needed is not installed.
        ExportError: MiniLM's export differs from PyTorch.
    """
    model = cache / MODELS["minilm"]
    if not model.exists():
        draft = model.with_suffix(".draft")
        try:
            export_minilm.export(draft, cache / "minilm")
            draft.replace(model)
        finally:
            draft.unlink(missing_ok=True)
        yield model
    if not samples:
        return
    tokenizer, speech = cache / "minilm/tokenizer.json", cache / MODELS["speech"]
    makers: dict[str, Callable[[], Iterable[real_samples.Feed]]] = {
        "minilm": lambda: real_samples.token_feeds(tokenizer, real_samples.sentences(64), 4),
        "ocr": lambda: real_samples.text_feeds(24, 2),
        "speech": lambda: real_samples.speech_feeds(speech, 32, 4),
    }
    for name, maker in makers.items():
        folder = cache / SAMPLES[name]
        if not folder.exists():
            _write(folder, maker())
            yield folder


def _write(folder: pathlib.Path, feeds: Iterable[real_samples.Feed]) -> None:
    """Write one ``.npz`` a feed into a new folder, all of them or none."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".samples-") as scratch:
        draft = pathlib.Path(scratch) / "draft"
        draft.mkdir()
        for index, feed in enumerate(feeds):
            np.savez(draft / f"{index:03}.npz", allow_pickle=False, **feed)
        draft.rename(folder)

"""Samples of the real models: sizes, ranges, and the same every time."""

import itertools
import pathlib
import re

import numpy as np
import onnx
import pytest
from graphopt.models import real_samples

ECHO = """<ir_version: 10, opset_import: ["" : 21]>
g (float[B,576] input, float[2,B,128] state, int64 sr)
=> (float[B,1] output, float[2,B,128] stateN)
<float[1] one = {1.0}, int64[1] axis = {1}>
{ output = ReduceMean <keepdims=1> (input, axis)  stateN = Add (state, one) }
"""


def test_sentences_read_like_sentences() -> None:
    lines = real_samples.sentences(200)
    assert len(set(lines)) == 200
    assert all(40 <= len(line) <= 300 and line.endswith(".") for line in lines)
    assert lines == real_samples.sentences(200)
    assert lines != real_samples.sentences(200, seed=1)


def test_text_feeds() -> None:
    feeds = list(real_samples.text_feeds(12, 4))
    assert [feed["x"].shape[:3] for feed in feeds] == [(4, 3, 48)] * 3
    assert len({feed["x"].shape[3] for feed in feeds}) > 1, "all of one width"
    for feed, again in zip(feeds, real_samples.text_feeds(12, 4), strict=True):
        x = feed["x"]
        np.testing.assert_array_equal(x, again["x"])
        assert x.dtype == np.float32
        assert np.abs(x).max() <= 1
        # The longest line fills the width; no other goes beyond it.
        assert (x[:, 0, :, -1] != 0).all(axis=1).any()
        # Ink and paper: every line has dark and light pixels.
        assert (x.min(axis=(1, 2, 3)) < 0).all()
        assert (x.max(axis=(1, 2, 3)) > 0.3).all()


def test_speech_feeds_carry_the_state_on(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "echo.onnx"
    onnx.save(onnx.parser.parse_model(ECHO), path)
    feeds = list(real_samples.speech_feeds(path, 5, 3))
    assert len(feeds) == 5
    for index, feed in enumerate(feeds):
        assert feed["input"].shape == (3, 576)
        assert feed["input"].dtype == np.float32
        assert np.abs(feed["input"]).max() <= 1
        np.testing.assert_array_equal(feed["state"], np.full((2, 3, 128), index, np.float32))
        assert feed["sr"].shape == ()
        assert feed["sr"] == 16_000
    for before, after in itertools.pairwise(feeds):
        # Each window begins with the end of the one before it.
        np.testing.assert_array_equal(before["input"][:, -64:], after["input"][:, :64])


def test_token_feeds_are_padded_to_the_longest(tmp_path: pathlib.Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    first, second = real_samples.token_feeds(path, ["a b a", "b", "c"], 2)
    np.testing.assert_array_equal(first["in0"], [[2, 3, 2], [3, 0, 0]])
    np.testing.assert_array_equal(first["in1"], [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(second["in0"], [[1]])
    assert first["in0"].dtype == first["in1"].dtype == np.int64


@pytest.mark.parametrize("size", [1_000, 40_000])
def test_voice_has_its_length(size: int) -> None:
    voice = real_samples._voice(size, np.random.default_rng(0))
    assert voice.shape == (size,)
    assert np.isfinite(voice).all()


def test_module_list_is_sorted() -> None:
    assert list(real_samples._MODULES) == sorted(real_samples._MODULES)
    assert all(re.fullmatch(r"[a-z0-9.]+", name) for name in real_samples._MODULES)

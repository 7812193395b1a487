"""The samples with the largest errors, and the pictures of them."""

import base64
import struct
import zlib

import networks
import numpy as np
import onnx_ir as ir
import pytest
from small_network import NETWORK

import graphopt
from graphopt.api import Options
from graphopt.metrics import DifferenceMeter
from graphopt.report.html.thumbnails import picture_of
from graphopt.report.html.worst_samples import sample_rows


def pixels(uri: str) -> np.ndarray:
    """Return [H, W, C] of what ``picture_of`` has written."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (crc,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert crc == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 1 if colour == 0 else 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_the_first_image_is_drawn_from_black_to_white(channels: int, last: bool) -> None:
    image = np.arange(8 * 9 * channels, dtype=np.float32).reshape(8, 9, channels) / 100 - 2
    batch = np.stack([image, np.zeros_like(image)])
    found = pixels(picture_of(batch if last else batch.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found, (image - image.min()) / np.ptp(image) * 255, atol=1)


def test_an_image_of_the_largest_numbers_is_drawn() -> None:
    image = np.full((1, 1, 8, 8), 1.7e308)
    image[0, 0, 0, :2] = -1.7e308, 0
    assert pixels(picture_of(image))[0, :3, 0].tolist() == [0, 127, 255]


def test_a_large_image_is_thinned_out() -> None:
    assert pixels(picture_of(np.ones((1, 3, 1000, 700), np.uint8))).shape == (143, 100, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 3, 7, 99), np.float32),
        np.zeros((1, 4, 32, 32), np.float32),
        np.zeros((0, 3, 32, 32), np.float32),
        np.zeros((3, 32, 32), np.float32),
        np.full((1, 1, 32, 32), np.nan, np.float32),
        np.zeros((1, 1, 32, 32), bool),
    ],
)
def test_what_is_no_image_has_no_picture(array: np.ndarray) -> None:
    assert picture_of(array) == ""


def test_what_is_not_finite_in_an_image_is_black() -> None:
    image = np.ones((1, 1, 8, 8), np.float32)
    image[0, 0, 0] = np.inf
    image[0, 0, 1] = 0
    found = pixels(picture_of(image))
    assert (found[:2] == 0).all()
    assert (found[2:] == 255).all()


def test_the_few_largest_errors_are_remembered() -> None:
    meter = DifferenceMeter()
    for index, error in enumerate([0, 3, 1, 3, np.nan, 2]):
        meter.add(index, np.zeros(2, np.float32), np.array([0, error], np.float32))
    found = meter.result()
    assert found.worst == ((4, np.inf), (1, 3.0), (3, 3.0), (5, 2.0))
    assert found.worst_sample == 4


def quantized(text: str, feeds: list[dict[str, np.ndarray]]):
    return graphopt.optimize(
        ir.to_proto(networks.network(text)),
        "default,quantize-dynamic",
        samples=feeds,
        options=Options(measure=False),
    )


def test_the_worst_samples_are_shown_with_their_inputs(page, write) -> None:
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32) * scale}
        for scale in (1, 100, 0.01, 10, 3, 1)
    ]
    result = quantized(NETWORK, feeds)
    rows = sample_rows(result)
    assert [row.index for row in rows][:2] == [1, 3]
    assert len(rows) == 4
    errors = [row.error for row in rows]
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_allclose(
        pixels(rows[0].inputs[0].picture)[0, 0], pixels(picture_of(feeds[1]["x"]))[0, 0]
    )

    page.open(write(result))

    assert page.texts("#samples h3")[:2] == ["Sample 1", "Sample 3"]
    script = "return [...document.querySelectorAll('#samples img')].map(e => e.naturalWidth)"
    assert page.run(script) == [8] * 4
    page.open(write(result), width=360)
    assert page.run("return document.documentElement.scrollWidth") == 360


def test_what_is_no_image_is_shown_as_values(page, write) -> None:
    feeds = [{"x": np.full((2, 32), value, np.float32)} for value in (1, 1.23456789)]
    feeds[1]["x"][0, 0] = 7
    result = quantized(
        "g (float[N, 32] x) => (float[N, 32] y) <float[32, 32] w> { y = MatMul(x, w) }", feeds
    )

    page.open(write(result))

    assert "7, 1.235, 1.235," in " ".join(page.texts("#samples .values"))
    assert "x float32[2, 32]" in page.texts("#samples figcaption")


def test_equal_models_have_no_worst_sample(page, write) -> None:
    result = graphopt.optimize(
        ir.to_proto(networks.network("g (float[4] x) => (float[4] y) { y = Relu(x) }")),
        "simplify",
        options=Options(measure=False),
    )
    page.open(write(result))
    assert page.texts("#samples, nav a[href='#samples']") == []

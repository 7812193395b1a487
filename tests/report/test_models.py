"""Reports of models of the size that people have."""

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from networks import network
from selenium.webdriver.common.keys import Keys

import graphopt
from graphopt.api import Options

MODELS = pathlib.Path(__file__).resolve().parents[2] / ".cache" / "models"
LAYERS = 190
LARGEST = 5_000_000


def of_bert_size() -> ir.Model:
    """Return a network with as many nodes as an exported BERT: eight a layer."""
    nodes, weights = [], ["float[1] one = {1}", "int64[2] shape = {4, 8}"]
    x = "x"
    for at in range(LAYERS):
        weights += [f"float[8, 8] w{at}", f"float[8] b{at}"]
        steps = [
            ("i", f"Identity({x})"),
            ("m", f"MatMul(i{at}, w{at})"),
            ("a", f"Add(m{at}, b{at})"),
            ("r", f"Relu(a{at})"),
            ("s", f"Mul(r{at}, one)"),
            ("t", f"Reshape(s{at}, shape)"),
            ("u", f"Sigmoid(t{at})"),
            ("z", f"Add(u{at}, i{at})"),
        ]
        nodes += [f"{name}{at} = {step}" for name, step in steps]
        x = f"z{at}"
    body = "\n".join([*nodes, f"y = Relu({x})"])
    return network(f"g (float[4, 8] x) => (float[4, 8] y) <{', '.join(weights)}> {{ {body} }}")


def check(page, path: pathlib.Path) -> None:
    """Assert that the report is small, opens on both screens, and can be operated."""
    assert path.stat().st_size < LARGEST
    page.open(path, width=360)
    assert page.run("return document.documentElement.scrollWidth") == 360
    page.open(path)
    place = "#graph-view .strip"
    last = int(page.find(place).get_attribute("aria-valuemax"))
    page.focus(place)
    page.press(Keys.END)
    assert int(page.find(place).get_attribute("aria-valuenow")) == last
    assert page.texts("#graph-view .node.chosen")
    page.focus("#graph-side input:checked")
    page.press(Keys.ARROW_LEFT)
    assert page.texts("#graph-view .node.chosen")
    if page.texts("#layer-table"):
        page.focus("#layer-table tbody tr[tabindex='0']")
        page.press(Keys.ARROW_DOWN, Keys.ENTER)
        assert page.texts("#layer-details svg")


def test_a_graph_of_the_size_of_bert(page, tmp_path: pathlib.Path) -> None:
    model = of_bert_size()
    assert len(model.graph) > 1500

    result = graphopt.optimize(
        ir.to_proto(model), "default,quantize-dynamic", options=Options(measure=False)
    )

    path = result.report(tmp_path / "report.html")
    check(page, path)
    assert page.texts("#layer-table [role=status]") == [str(LAYERS)]
    page.focus("#layer-table input")
    page.press("MatMul_1505")
    assert page.texts("#layer-table th .clip") == ["MatMul_1505"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "samples", "passes"),
    [
        ("minilm/minilm.onnx", "minilm/samples", "int8-dynamic"),
        ("ocr/ch_PP-OCRv4_rec_infer.onnx", "ocr/samples", "int8-static"),
        ("speech/silero_vad_16k_op15.onnx", "speech/samples", "default"),
        ("zoo/bert.ts.onnx", None, "int8-dynamic"),
    ],
    ids=["minilm", "ocr", "speech", "bert"],
)
def test_real_models(page, tmp_path, file: str, samples: str | None, passes: str) -> None:
    result = graphopt.optimize(
        MODELS / file,
        passes,
        samples=None if samples is None else MODELS / samples,
        options=Options(measure=False),
    )
    check(page, result.report(tmp_path / "report.html"))


def test_kept_channels_and_distributions_of_a_pruned_network(page, tmp_path) -> None:
    model = network(
        """g (float[N, 3, 8, 8] x) => (float[N, 10] y)
        <float[16, 3, 3, 3] w1, float[10, 16] w2, int64[2] axes = {2, 3}>
        { c = Conv<pads = [1, 1, 1, 1]>(x, w1)
          r = Relu(c)
          p = ReduceMean<keepdims = 0>(r, axes)
          t = Transpose(w2)
          y = MatMul(p, t) }"""
    )
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}

    result = graphopt.optimize(
        ir.to_proto(model),
        "default,prune-channels{ratio=0.5}",
        samples=[feed],
        options=Options(measure=False),
    )

    page.open(result.report(tmp_path / "report.html"))
    rows = page.texts("#layer-table tbody tr")
    assert "8 of 16" in rows[0]
    assert "all" in rows[1]  # the classes; what is multiplied with is halved
    page.focus("#layer-table tbody tr[tabindex='0']")
    page.press(Keys.HOME, Keys.ENTER)
    panel = page.texts("#layer-details")[0]
    assert "[16, 3, 3, 3] → [8, 3, 3, 3]" in panel
    assert "not measured: its shape is" in panel

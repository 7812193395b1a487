"""What the report says, and how it is written."""

import dataclasses
import os
import pathlib

import click.testing
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import rich.console
from networks import network
from small_network import NETWORK

import graphopt
from graphopt.api import Options, Result
from graphopt.cli import main
from graphopt.errors import EXIT_INVALID, OutputError
from graphopt.report import console
from graphopt.report.html.collect import collect
from graphopt.report.html.distributions import bins_of_tensor
from graphopt.report.html.render import ASSETS
from graphopt.runtime import Latency

HOSTILE = (
    "</script><script>document.title='broken'</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} & <b>ünï \u2028 \U0001f600</b>",
    "n" * 10_000,
)


def optimized(model: onnx.ModelProto, passes: str = "default", **given) -> Result:
    return graphopt.optimize(model, passes, options=Options(measure=False), **given)


def test_hostile_names_are_only_text(page, write) -> None:
    model = ir.to_proto(network(NETWORK))
    names = dict(zip(["c1", "n1", "r1", "c2"], HOSTILE, strict=True))
    for node in model.graph.node:
        node.name = names.get(node.output[0], node.name)
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    model.graph.name = HOSTILE[0]

    path = write(optimized(model))

    page.open(path)
    assert page.driver.title.startswith("</script>")
    assert page.texts("h1") == [HOSTILE[0]]
    assert page.texts("img:not(.picture), b, main script") == []
    assert HOSTILE[0] in page.texts("#layer-table tbody .clip")
    for query in ("ünï", "onerror", "nnnnn"):
        page.run("document.querySelector('#graph-side input').click()")
        page.focus("#graph-view input[role=combobox]")
        page.press(query)
        assert page.texts("#graph-results li[role=option]"), query
        page.press("\ue007")
        assert query in page.texts("#graph-view aside")[0]
    page.open(path, width=360)
    assert page.run("return document.documentElement.scrollWidth") == 360


def test_the_same_result_gives_the_same_bytes(result, report, tmp_path) -> None:
    again = result.report(tmp_path / "again.html")
    assert again.read_bytes() == report.read_bytes()


def test_it_is_written_whole_or_not_at_all(result, tmp_path, monkeypatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("earlier")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space"):
        result.report(path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused(result, tmp_path: pathlib.Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        result.report(tmp_path / "nowhere" / "report.html")


def test_the_command_line_writes_it(page, tmp_path: pathlib.Path) -> None:
    model, output, path = (tmp_path / name for name in ("m.onnx", "o.onnx", "r.html"))
    onnx.save(ir.to_proto(network(NETWORK)), model)

    words = ["optimize", str(model), "-o", str(output), "--report", str(path)]
    done = click.testing.CliRunner().invoke(main, words)

    assert done.exit_code == 0, done.output
    assert f"wrote {path}" in " ".join(done.stderr.split())
    page.open(path)
    assert "Latency" in page.texts("#summary dt")
    assert page.texts("#waterfall-choice span") == ["Weights", "Nodes", "Latency"]
    facts = page.texts(".facts dt")
    for label in ("command", "pipeline", "seed", "onnxruntime", "samples"):
        assert label in facts


@pytest.mark.parametrize(
    ("ratio", "words"), [(0.9, "1.11x faster"), (0.9999, "1.00x"), (1.25, "0.80x")]
)
def test_what_is_as_fast_is_not_called_faster(result, ratio: float, words: str) -> None:
    latency = tuple(Latency(one, one, (one, one), one, (one, one), 9) for one in (1, ratio))
    out = rich.console.Console(width=100)
    with out.capture() as captured:
        out.print(console.summary_table(dataclasses.replace(result, latency=latency)))
    (row,) = [line for line in captured.get().splitlines() if "latency" in line]
    assert row.split("ms")[-1].strip() == words


def test_truth_values_that_differ_are_not_called_equal(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    text = """g (float[N, 64] x) => (bool[N, 64] y) <float zero = {0}>
              { a = MatMul(x, w) y = Greater(a, zero) }"""
    model = ir.to_proto(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 21]> {text}'))
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    result = graphopt.optimize(
        model,
        "quantize-dynamic",
        samples=[{"x": rng.standard_normal((64, 64)).astype(np.float32)}],
        options=Options(measure=False),
    )
    assert result.comparison.outputs[0].difference.equal < 1
    page = result.report(tmp_path / "r.html").read_text("utf-8")
    assert '<td class="number">equal</td>' not in page
    out = rich.console.Console(width=100)
    with out.capture() as captured:
        out.print(console.comparison_table(result.comparison))
    assert "inf" not in captured.get()


def test_a_run_that_fails_is_reported_too(page, tmp_path: pathlib.Path) -> None:
    model, output, path = (tmp_path / name for name in ("m.onnx", "o.onnx", "r.html"))
    onnx.save(ir.to_proto(network(NETWORK)), model)

    words = f"optimize {model} -o {output} --report {path} --passes quantize-dynamic"
    words = [*words.split(), "--no-measure", "--target", "1.0"]
    done = click.testing.CliRunner().invoke(main, words)

    assert done.exit_code == EXIT_INVALID
    assert not output.exists()
    page.open(path)
    assert page.texts(".verdict.bad") != []
    assert "cosine" in page.texts(".note")[0]
    assert page.texts("#layer-table tbody tr")


def test_nothing_of_a_weight_but_its_distribution_is_in_it(result, tmp_path) -> None:
    model = ir.to_proto(
        network(
            "g (float[4, 900] x) => (float[4, 900] y) <float[900, 900] w> { y = MatMul(x, w) }"
        )
    )

    path = optimized(model, "simplify").report(tmp_path / "report.html")

    own = sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file())
    assert path.stat().st_size < own + 10_000


def test_layers_of_subgraphs_are_told(tmp_path) -> None:
    model = network(
        """g (float[2, 4] x, bool c) => (float[2, 4] y)
        <float[4, 4] v, float[4, 4] w> {
            h = MatMul(x, v)
            [choice] y = If(c) <
                then_branch = t () => (float[2, 4] r) { r = MatMul(h, w) },
                else_branch = e () => (float[2, 4] s) { s = Neg(h) }> }"""
    )
    feeds = [{"x": np.ones((2, 4), np.float32), "c": np.array(True)}]

    result = optimized(ir.to_proto(model), "simplify", samples=feeds)
    outer, inner = collect(result, None, "").layers

    assert (outer.weight, outer.place, outer.fault) == ("v", "", "")
    assert (inner.weight, inner.place, inner.macs) == ("w", "choice.then_branch", 32)
    assert inner.error_db is None
    assert "from outside" in inner.fault


def test_a_distribution_counts_every_element() -> None:
    odd = [np.nan, np.inf, 0, 0]
    values = np.concatenate([np.linspace(-2, 2, 998), odd]).astype(np.float32)

    bins = bins_of_tensor(ir.tensor(values))

    assert bins is not None
    assert (bins.smallest, bins.largest) == (-2, 2)
    assert (bins.low, bins.high, len(bins.counts)) == (-2, 2, 40)
    assert sum(bins.counts) == 1000
    assert bins.zeros == pytest.approx(2 / 1000)


@pytest.mark.parametrize(
    ("values", "low", "high", "counts"),
    [
        (np.array([-2, 0, 0, 3], np.int8), -2.5, 3.5, (1, 0, 2, 0, 0, 1)),
        (np.array([3.0, 3.0], np.float32), 1.5, 4.5, (2,)),
        (np.array([0.0], np.float16), -0.5, 0.5, (1,)),
        (np.array([False, True, True]), 0.0, 1.0, (1, *(0,) * 38, 2)),
    ],
)
def test_few_values_get_a_bin_each(values, low, high, counts) -> None:
    bins = bins_of_tensor(ir.tensor(values))
    assert bins is not None
    assert (bins.low, bins.high, bins.counts) == (low, high, counts)


def test_what_has_no_numbers_has_no_distribution() -> None:
    assert bins_of_tensor(ir.tensor(np.array([], np.float32))) is None
    assert bins_of_tensor(ir.tensor(np.array([np.nan], np.float32))) is None
    assert bins_of_tensor(ir.StringTensor([b"a"], shape=ir.Shape([1]))) is None


def test_a_layer_has_its_reason_under_whatever_name_it_was_given() -> None:
    done = optimized(ir.to_proto(network(NETWORK)), "default,quantize-dynamic")

    rows = {row.weight: row for row in collect(done, None, "").layers}

    reason = "quantize-dynamic: ConvInteger is slower than float convolution on onnxruntime"
    assert rows["w1"].rewrites, "it was fused, and has a new name"
    assert [rows[name].reason for name in ("w1", "w2")] == [reason, reason]


def test_what_was_cut_was_not_left_alone() -> None:
    done = optimized(ir.to_proto(network(NETWORK)), "prune-channels{ratio=0.5,recovery=none}")

    rows = {row.weight: row for row in collect(done, None, "").layers}

    assert (rows["w1"].kept, rows["w1"].reason) == (8, "")
    assert rows["w3"].kept == rows["w3"].channels == 10
    assert rows["w3"].reason == "prune-channels: frozen: graph output 'y'"


def test_without_a_target_nothing_has_passed_and_without_times_there_is_no_column(
    page, write
) -> None:
    page.open(write(optimized(ir.to_proto(network(NETWORK)), "quantize-dynamic")))

    assert page.texts("#answers tbody td:last-child") == ["not judged"]
    columns = ["Pass", "Rewrites", "Nodes", "Weights", "What it did"]
    assert page.texts("#passes thead th") == columns
    assert {len(columns)} == set(
        page.run(
            "return [...document.querySelectorAll('#passes tr')].map(r => r.cells.length)"
        )
    )


def test_no_two_ticks_of_the_waterfall_say_the_same(page, write) -> None:
    done = optimized(ir.to_proto(network(NETWORK)), "default,quantize-dynamic")
    steps = [dataclasses.replace(one, weight_bytes=10_850_000) for one in done.measurements]
    last = dataclasses.replace(steps[-1], weight_bytes=7_700_000)

    page.open(write(dataclasses.replace(done, measurements=(*steps[:-1], last))))

    ticks = page.texts("#waterfall g[aria-label='x-axis tick label'] text")
    assert len(ticks) > 3
    assert len(set(ticks)) == len(ticks), ticks

"""What onnxruntime fuses, pattern by pattern, and what the knowledge of it says."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest
from fusion_patterns import PATTERNS
from fusion_since import SINCE, expected_in

from graphopt.errors import ExecutionError
from graphopt.runtime import Runtime
from graphopt.runtime.fusion_check import FusionReport, check_fusion
from graphopt.runtime.fusion_knowledge import Inputs, Output, kernels
from graphopt.runtime.optimized import OptimizedNode

SHORT = {
    "QuantizeLinear": "Q",
    "DequantizeLinear": "DQ",
    "DynamicQuantizeLinear": "DQL",
}


def counts(nodes: list[OptimizedNode]) -> Counter[str]:
    """Return how many nodes there are of each operator, as the table writes them."""
    return Counter(
        ("ms:" if node.domain == "com.microsoft" else "")
        + SHORT.get(node.op_type, node.op_type)
        for node in nodes
    )


def parse(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for part in text.split(", "):
        name, _, number = part.partition(" x")
        found[name] = int(number or 1)
    return found


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name: str, shared_runtime: Runtime) -> None:
    verdict, build, expected = PATTERNS[name]
    verdict, expected = expected_in(shared_runtime.version).get(name, (verdict, expected))
    model = ir.from_proto(build().model())
    if verdict == "error":
        with pytest.raises(ExecutionError, match=expected):
            shared_runtime.optimized_nodes(model)
        return
    nodes = shared_runtime.optimized_nodes(model)
    assert counts(nodes) == parse(expected)
    report = check_fusion(nodes, shared_runtime.version)
    if verdict in ("int8", "int8-move"):
        assert report.is_clean
        assert not report.boundaries
        assert bool(report.integer) == (verdict == "int8")
    elif verdict == "unfused":
        assert len(report.unfused) == 3
    elif verdict == "float":
        assert not report.integer
        assert report.stranded or report.boundaries


STRANDED = {
    "Conv+Relu zp 128",
    "Conv+Clip(0,6), range to 12.75",
    "Conv+LeakyRelu",
    "Conv without output Q",
    "Conv with a float reader",
    "MatMul without Q + float bias, static",
    "Gemm float bias",
    "MaxPool, another output scale",
    "weight-only Conv",
}
BOUNDARY = {
    "Sub",
    "Tanh",
    "LayerNormalization",
    "ReduceMean",
    "Pad",
    "HardSigmoid gate, Q/DQ everywhere",
}


@pytest.mark.parametrize("name", sorted(STRANDED))
def test_operator_that_could_run_on_integers_is_stranded(
    name: str, shared_runtime: Runtime
) -> None:
    model = ir.from_proto(PATTERNS[name][1]().model())
    report = check_fusion(shared_runtime.optimized_nodes(model))
    assert len(report.stranded) == 1
    assert not report.is_clean
    assert "stranded" in report.summary()


@pytest.mark.parametrize("name", sorted(BOUNDARY))
def test_operator_without_an_integer_kernel_is_a_boundary(
    name: str, shared_runtime: Runtime
) -> None:
    model = ir.from_proto(PATTERNS[name][1]().model())
    report = check_fusion(shared_runtime.optimized_nodes(model))
    assert report.is_clean
    assert len(report.boundaries) == 1


def around(*ops: OptimizedNode) -> FusionReport:
    """Return the report of operators whose inputs x, w are dequantized, outputs quantized."""
    dq = [OptimizedNode("DequantizeLinear", "", n, (f"{n}_q", "s", "z"), (n,)) for n in "xw"]
    q = [
        OptimizedNode("QuantizeLinear", "", f"q_{output}", (output, "s", "z"), (f"{output}q",))
        for op in ops
        for output in op.outputs
        if output
    ]
    return check_fusion([*dq, *ops, *q])


@pytest.mark.parametrize(
    "inputs",
    [("Reshape", ("x", "shape")), ("Where", ("condition", "x", "w")), ("Concat", ("x", "w"))],
)
def test_only_activations_need_a_dq_to_be_meant_for_integers(inputs) -> None:
    op_type, names = inputs
    report = around(OptimizedNode(op_type, "", "n", names, ("y",)))
    assert report.stranded == ((op_type, "n"),)


def test_output_that_is_left_out_needs_no_q() -> None:
    report = around(OptimizedNode("MaxPool", "", "n", ("x",), ("y", "")))
    assert report.stranded == (("MaxPool", "n"),)


@pytest.mark.parametrize(
    ("op_type", "domain"), [("Conv", "my.domain"), ("Conv", "com.microsoft"), ("Resize", "")]
)
def test_what_may_have_no_integer_kernel_is_a_boundary(op_type: str, domain: str) -> None:
    report = around(OptimizedNode(op_type, domain, "n", ("x", "w"), ("y",)))
    assert report.is_clean
    assert report.boundaries == ((op_type, "n"),)


def test_report_counts_and_names() -> None:
    nodes = [
        OptimizedNode("DequantizeLinear", "", "d", ("q", "s", "z"), ("x",)),
        OptimizedNode("QLinearConv", "com.microsoft", "c", ("q",), ("r",)),
        OptimizedNode("Add", "", "a", ("x", "x"), ("y",)),
        OptimizedNode("QuantizeLinear", "", "e", ("y", "s", "z"), ("t",)),
        OptimizedNode("MatMulInteger", "", "m", ("t", "t"), ("u",)),
    ]
    report = check_fusion(nodes)
    assert report == FusionReport(
        {"QLinearConv": 1}, (("Add", "a"),), (), (("MatMulInteger", "m"),)
    )
    assert report.summary() == (
        "integer kernels: 1 QLinearConv; stranded: Add 'a'; unfused: MatMulInteger 'm'"
    )


@pytest.mark.parametrize(
    ("version", "measured", "modes"),
    [
        ("", True, {"mode": "nearest"}),
        ("1.31.1", True, {"mode": "nearest"}),
        ("1.27.0", True, {"mode": "nearest"}),
        ("1.26.0", True, {}),
        ("1.23.2", True, {}),
        ("1.32.0", False, {"mode": "nearest"}),
        ("2.0.1", False, {"mode": "nearest"}),
        ("1.19.2", False, {}),
    ],
)
def test_row_is_picked_by_the_release(
    version: str, measured: bool, modes: dict, caplog: pytest.LogCaptureFixture
) -> None:
    assert kernels(version)["Resize"].requires == modes
    assert ("was not measured (1.23 to 1.31 were)" in caplog.text) == (not measured)


def test_rows_of_other_releases_are_about_patterns_that_there_are() -> None:
    assert {name for row in SINCE.values() for name in row} <= set(PATTERNS)
    assert expected_in("1.31.1") == {}
    assert expected_in("1.24.4") is SINCE[(1, 23)]
    assert expected_in("1.25.1") is SINCE[(1, 25)]


def test_release_is_that_of_the_child_process(shared_runtime: Runtime) -> None:
    import onnxruntime

    assert shared_runtime.version == onnxruntime.__version__


@pytest.mark.parametrize("version", ["", "1.31.1", "1.32.0", "2.0", "1.19.2"])
def test_knowledge_of_any_version_has_the_same_operators(version: str) -> None:
    table = kernels(version)
    assert table["Conv"].output is Output.QUANTIZED
    assert table["MatMul"].output is Output.EITHER
    assert table["Add"].inputs is Inputs.ALL
    with pytest.raises(TypeError):
        table["Conv"] = table["Add"]

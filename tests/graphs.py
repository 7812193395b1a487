"""Small graphs for tests: parse ONNX text, print it back normalized, run it, compare it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt.passbase import Context, Pass, PassResult

HEADER = '<ir_version: 10, opset_import: ["" : {opset}{more}]>\n'
SIZES = {"N": 2, "M": 3, "H": 6, "W": 5}
"""Sizes of symbolic dimensions in random feeds; any other name is 4."""


def load(text: str, opset: int = 21, domains: tuple[str, ...] = ()) -> ir.Model:
    """Return the model of one graph in ONNX text, checked, with inferred shapes."""
    more = "".join(f', "{domain}" : 1' for domain in domains)
    header = "" if text.lstrip().startswith("<") else HEADER.format(opset=opset, more=more)
    proto = onnx.shape_inference.infer_shapes(
        onnx.parser.parse_model(header + text), True, True
    )
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def text_of(model: ir.Model) -> str:
    """Return the text of ``model`` without node names and re-emitted value_info.

    Initializers are sorted by name: passes register theirs in the order they make them, which
    is not what a test is about.
    """
    proto = ir.to_proto(model)
    _strip(proto.graph)
    for function in proto.functions:
        for node in function.node:
            node.ClearField("name")
        del function.value_info[:]
    return onnx.printer.to_text(proto)


def _strip(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    weights = sorted(graph.initializer, key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(weights)
    for node in graph.node:
        node.ClearField("name")
        for attr in node.attribute:
            if attr.HasField("g"):
                _strip(attr.g)


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of ``model`` in onnxruntime without any optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, dict(feeds))


def check(model: ir.Model) -> None:
    """Check ``model`` with the official checker, shapes included."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def random_feeds(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Return values for the inputs of ``model`` that a caller has to feed."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        assert value.shape is not None
        assert value.dtype is not None
        shape = [d if isinstance(d, int) else SIZES.get(str(d), 4) for d in value.shape]
        dtype = value.dtype.numpy()
        if dtype == np.bool_:
            data = rng.integers(0, 2, shape)
        elif np.issubdtype(dtype, np.integer):
            data = rng.integers(0, 3, shape)
        else:
            data = rng.standard_normal(shape)
        feeds[value.name or ""] = np.asarray(data, dtype)
    return feeds


def with_specials(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``feeds`` with NaN, infinities, -0.0 and a subnormal among the floats."""
    specials = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-42, -1e38]
    result = {}
    for name, array in feeds.items():
        copy = array.copy()
        if np.issubdtype(copy.dtype, np.floating):
            flat = copy.reshape(-1)
            with np.errstate(over="ignore"):
                flat[: len(specials)] = np.array(specials[: flat.size], copy.dtype)
        result[name] = copy
    return result


def assert_same_bits(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Assert equality of types, shapes and values, the sign of zero included; NaN == NaN."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, strict=True)
        if np.issubdtype(one.dtype, np.floating):
            number = ~np.isnan(one)
            np.testing.assert_array_equal(np.signbit(one)[number], np.signbit(other)[number])


def apply(model: ir.Model, pass_: Pass, context: Context | None = None) -> PassResult:
    """Run ``pass_`` and hold it to its contract: an exact ``modified``, a valid model."""
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = pass_.run(model, context or Context())
    after = ir.to_proto(result.model).SerializeToString(deterministic=True)
    assert result.modified == (before != after)
    check(result.model)
    return result


def assert_rewrites(
    pass_: Pass,
    before: str,
    after: str,
    *,
    context: Context | None = None,
    opset: int = 21,
    domains: tuple[str, ...] = (),
    rtol: float | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> ir.Model:
    """Assert that ``pass_`` turns ``before`` into ``after``, that is, all of the contract.

    Args:
        pass_: The pass.
        before: ONNX text of the graph it is given.
        after: ONNX text of what it must make of it, the whole graph.
        context: What the pass is run with.
        opset: Version of the ONNX operator set of both.
        domains: Further operator domains of both.
        rtol: Largest difference of an output to the original's, relative to the largest value
            of that output; ``None``: bit for bit the same, also for NaN and infinities.
        feeds: Inputs to compare the outputs on; default: random ones.

    Returns:
        The rewritten model.
    """
    original = load(before, opset, domains)
    model = load(before, opset, domains)
    result = apply(model, pass_, context)
    assert text_of(result.model) == text_of(load(after, opset, domains))
    assert result.modified
    again = apply(result.model, pass_, context)
    assert not again.modified
    assert_same_answers(result.model, original, rtol, feeds)
    return result.model


def assert_same_answers(
    model: ir.Model,
    original: ir.Model,
    rtol: float | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Assert that two models give the same outputs in onnxruntime; see ``assert_rewrites``."""
    feeds = random_feeds(original) if feeds is None else feeds
    if rtol is None:
        for feed in (feeds, with_specials(feeds)):
            assert_same_bits(run(model, feed), run(original, feed))
        return
    for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        scale = float(np.abs(other).max(initial=0.0))
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * max(scale, 1e-30))


def assert_unchanged(
    pass_: Pass,
    text: str,
    *,
    context: Context | None = None,
    opset: int = 21,
    domains: tuple[str, ...] = (),
    reason: str | None = None,
) -> None:
    """Assert that ``pass_`` leaves the graph alone, and says so.

    Args:
        pass_: The pass.
        text: ONNX text of the graph.
        context: What the pass is run with.
        opset: Version of the ONNX operator set.
        domains: Further operator domains.
        reason: Text that the reason in the ledger must contain; ``None``: not looked at.
    """
    model = load(text, opset, domains)
    before = text_of(model)
    context = context or Context()
    result = apply(model, pass_, context)
    assert not result.modified
    assert text_of(model) == before
    if reason is not None:
        reasons = [skip.reason for skip in context.ledger.skips]
        assert any(reason in found for found in reasons), reasons

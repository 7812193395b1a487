"""All node tests of the onnx package through the default pipeline.

Each in three forms: as is, with all inputs baked in as initializers, with all but the first
baked in. No crash, no invalid model, no changed answer against onnxruntime without
optimization. Float answers may differ in the order of additions; half-precision ones by their
rounding, since onnxruntime computes fp16 in float32 and rounds wherever its casts end up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from backend_cases import cases, run, variants

from graphopt import model_io, pipeline
from graphopt.manager import PassManager
from graphopt.passbase import Context
from graphopt.runtime import Runtime

SHARDS = 12
RANDOM = ("bernoulli", "dropout", "multinomial", "random")
TOLERANCES = {"float16": 1e-2, "bfloat16": 1e-1, "float32": 1e-5, "float64": 1e-12}


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


def _names(shard: int) -> list[str]:
    names = sorted(cases())
    random.Random(7).shuffle(names)
    return names[shard::SHARDS]


def _same(actual: object, expected: object) -> bool:
    if isinstance(actual, list) and isinstance(expected, list):
        pairs = zip(actual, expected, strict=False)
        return len(actual) == len(expected) and all(_same(a, b) for a, b in pairs)
    if not isinstance(actual, np.ndarray) or not isinstance(expected, np.ndarray):
        return bool(actual == expected)
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return False
    tolerance = TOLERANCES.get(str(actual.dtype))
    if tolerance is None:
        return actual.tolist() == expected.tolist()
    one, other = actual.astype(np.float64), expected.astype(np.float64)
    largest = np.abs(other[np.isfinite(other)]).max(initial=0.0)
    return np.allclose(one, other, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _problem(model: onnx.ModelProto, feeds: dict[str, object], runtime: Runtime) -> str:
    """Return what the default pipeline does wrong with ``model``; empty if nothing."""
    context = Context()
    context.share(runtime)
    loaded = model_io.load(model)
    PassManager(pipeline.parse("default")).run(loaded, context)
    result = ir.to_proto(loaded)
    if _is_valid(model) and not _is_valid(result):
        return "the checker refuses it"
    expected = run(model, feeds)
    if expected is None:
        return ""  # onnxruntime cannot run it as it is
    actual = run(result, feeds)
    if actual is None:
        return "it does not run any more"
    return "" if _same(actual, expected) else "its answers changed"


def _check(shard: int, runtime: Runtime) -> None:
    problems = []
    for name in _names(shard):
        if any(word in name for word in RANDOM):
            continue
        for form, model, feeds in variants(name):
            problem = _problem(model, feeds, runtime)
            if problem:
                problems.append(f"{name} {form}: {problem}")
    assert not problems


# The names are shuffled once, with a seed: a third of all is always the same third.
@pytest.mark.parametrize("shard", range(0, SHARDS, 3))
def test_a_third_of_the_node_tests(shard: int, runtime: Runtime) -> None:
    _check(shard, runtime)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [s for s in range(SHARDS) if s % 3])
def test_the_other_node_tests(shard: int, runtime: Runtime) -> None:
    _check(shard, runtime)


def test_there_are_as_many_as_there_should_be() -> None:
    assert len(cases()) > 1500

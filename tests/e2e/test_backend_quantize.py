"""Node tests of the onnx package through the passes for quantization.

As they are, and with all inputs but the first baked in as weights. No crash, no invalid model,
none that onnxruntime refuses; the answers stay what 8 bits, 16 bits or none can keep of them.
"""

from __future__ import annotations

import random
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from backend_cases import cases, run, variants

from graphopt import pipeline
from graphopt.errors import GraphoptError, PassError
from graphopt.manager import PassManager
from graphopt.passbase import Context
from graphopt.runtime import Runtime
from graphopt.samples import Samples

PIPELINES = {
    "equalize-layers": 1e-5,
    "convert-float16{min-elements=1}": 0.01,
    "convert-float16{compute=true}": 0.02,
    "read-qdq": 0.05,
    "adaround": 0.05,
    "quantize-static{form=qoperator},correct-bias": 0.05,
    "quantize-static{portable=true,symmetric=true}": 0.05,
}
SHARDS = 40


def _names(shard: int, shards: int) -> list[str]:
    names = sorted(cases())
    random.Random(11).shuffle(names)
    return names[shard::shards]


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def _check(names: list[str]) -> None:
    wrong = []
    with Runtime() as runtime:
        for name in names:
            for form, proto, feeds in variants(name):
                if form == "all_baked" or not all(
                    isinstance(data, np.ndarray) for data in feeds.values()
                ):
                    continue
                expected = run(proto, feeds)
                if expected is None or not _is_valid(proto):
                    continue
                for text, tolerance in PIPELINES.items():
                    said = _try(text, proto, feeds, expected, tolerance, runtime)
                    if said:
                        wrong.append(f"{name} {form} {text}: {said}")
    assert not wrong


def _try(
    text: str,
    proto: onnx.ModelProto,
    feeds: dict[str, object],
    expected: list[object],
    tolerance: float,
    runtime: Runtime,
) -> str:
    context = Context(samples=Samples.from_feeds([feeds]))
    context.share(runtime)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of the inputs are nothing but 0
            model, _ = PassManager(pipeline.parse(text)).run(ir.from_proto(proto), context)
    except PassError as error:
        return f"failed: {error}"
    except GraphoptError:
        return ""  # refused, in words: a weight or an input that is not finite
    if not len(context.ledger):
        return ""
    result = ir.to_proto(model)
    if not _is_valid(result):
        return "is not valid"
    found = run(result, feeds)
    if found is None:
        return "does not run"
    for one, other in zip(found, expected, strict=True):
        if not isinstance(other, np.ndarray) or other.dtype.kind != "f":
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return "another type or shape"
        finite = np.isfinite(other)
        if (finite != np.isfinite(one)).any():
            return "not finite where it was"
        largest = np.abs(other[finite]).max(initial=0.0)
        off = np.abs(one[finite].astype(np.float64) - other[finite]).max(initial=0.0)
        if off > tolerance * largest + 1e-6:
            return f"off by {off:g} of {largest:g}"
    return ""


def test_some_of_the_node_tests() -> None:
    _check(_names(0, SHARDS))


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(1, SHARDS, 3))
def test_all_of_the_node_tests(shard: int) -> None:
    _check([*_names(shard, SHARDS), *_names(shard + 1, SHARDS), *_names(shard + 2, SHARDS)])

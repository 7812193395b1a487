"""Node tests of all operators with optional outputs: each output alone gives what it gave."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from backend_cases import cases, run
from graphopt.passes.simplify.eliminate_unused_outputs import (
    UNSAFE,
    EliminateUnusedOutputs,
    optional_outputs,
)

from graphopt.passbase import Context


def _operators() -> set[str]:
    schemas = onnx.defs.get_all_schemas_with_history()
    return {schema.name for schema in schemas if optional_outputs(schema)}


def _with_output(proto: onnx.ModelProto, index: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    kept = copy.graph.output[index]
    del copy.graph.output[:]
    copy.graph.output.append(kept)
    return copy


@pytest.mark.timeout(600)  # all node tests are made first
def test_every_operator_with_optional_outputs() -> None:
    tried, problems = set(), []
    for name, (proto, inputs) in sorted(cases().items()):
        nodes = proto.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in _operators() or "seed" in name:
            continue
        feeds = {v.name: data for v, data in zip(proto.graph.input, inputs, strict=False)}
        for index in range(len(proto.graph.output)):
            model = _with_output(proto, index)
            expected = run(model, feeds)
            result = ir.from_proto(model)
            modified = EliminateUnusedOutputs().run(result, Context()).modified
            if expected is None or not modified:
                continue
            tried.add(nodes[0].op_type)
            actual = run(ir.to_proto(result), feeds)
            same = actual and np.array_equal(actual[0], expected[0], equal_nan=True)
            if not same:
                problems.append(f"{name}: output {index}")
    assert not problems
    # What has no node test with several outputs, or one of a version that onnxruntime has not;
    # test_eliminate_unused_outputs.py has them.
    assert _operators() - tried - set(UNSAFE) <= {"RNN", "Unique"}

"""The work of the default pipeline grows with the graph, and not with its square.

Counted are the calls that the interpreter makes, which no other program disturbs.
"""

from __future__ import annotations

import sys

import onnx
import pytest
from graphopt.tools.bench_scale import GRAPHS, graph_of

from graphopt import model_io, pipeline
from graphopt.manager import PassManager
from graphopt.passbase import Context
from graphopt.runtime import Runtime

SMALL, LARGE = 200, 800
SPARE = 1.15
"""Sets and dictionaries grow in steps, and hashes collide."""


def calls(proto: onnx.ModelProto, runtime: Runtime) -> int:
    """Return how many calls of Python and C functions simplifying a model takes."""
    count = 0

    def look(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    context = Context()
    context.share(runtime)
    model = model_io.load(proto)
    sys.setprofile(look)
    try:
        PassManager(pipeline.parse("default")).run(model, context)
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture(scope="module")
def runtime():
    with Runtime() as runtime:
        yield runtime


@pytest.mark.parametrize("kind", GRAPHS)
def test_calls_grow_with_the_nodes(kind: str, runtime: Runtime) -> None:
    small, large = graph_of(kind, SMALL), graph_of(kind, LARGE)
    calls(small, runtime)  # what is made once is not counted
    times = len(large.graph.node) / len(small.graph.node)
    assert calls(large, runtime) < SPARE * times * calls(small, runtime)

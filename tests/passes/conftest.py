"""Shared by the tests of the passes."""

from collections.abc import Iterator

import pytest

from graphopt.passbase import Context
from graphopt.runtime import Runtime


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    """One child process with onnxruntime for all tests; starting one takes a while."""
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def context(runtime: Runtime) -> Context:
    """A run of its own over the shared runtime."""
    context = Context()
    context.share(runtime)
    return context

"""One runtime for the tests that do not harm it."""

from collections.abc import Iterator

import pytest

from graphopt.runtime import Runtime


@pytest.fixture(scope="session")
def shared_runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime

import numpy as np
import pytest
from graphopt.passes.prune import one_thread as module
from graphopt.passes.prune.one_thread import one_thread


class Library:
    def __init__(self):
        self.threads = 8

    def scipy_openblas_get_num_threads64_(self):
        return self.threads

    def scipy_openblas_set_num_threads64_(self, count):
        self.threads = count


def test_one_thread_in_the_block_and_as_many_as_before_after_it(monkeypatch):
    library = Library()
    monkeypatch.setattr(module, "_openblas", lambda: library)
    with one_thread():
        assert library.threads == 1
    assert library.threads == 8
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert library.threads == 8


def test_a_function_takes_one_thread_at_each_call(monkeypatch):
    library = Library()
    monkeypatch.setattr(module, "_openblas", lambda: library)
    seen = one_thread()(lambda: library.threads)
    assert [seen(), seen()] == [1, 1]
    assert library.threads == 8


def test_another_blas_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(np, "__file__", str(tmp_path / "numpy" / "__init__.py"))
    assert module._openblas() is None
    with one_thread():
        pass

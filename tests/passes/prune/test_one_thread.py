import pytest
import threadpoolctl
from graphopt.passes.prune.one_thread import one_thread


def threads():
    return {
        one["filepath"]: one["num_threads"]
        for one in threadpoolctl.threadpool_info()
        if one["user_api"] == "blas"
    }


@pytest.fixture
def before():
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        yield threads()


def test_one_thread_in_the_block_and_as_many_as_before_after_it(before):
    with one_thread():
        assert threads() == dict.fromkeys(before, 1)
    assert threads() == before
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert threads() == before


def test_a_function_takes_one_thread_at_each_call(before):
    seen = one_thread()(threads)
    assert [seen(), seen()] == [dict.fromkeys(before, 1)] * 2
    assert threads() == before

"""Messages come out as they went in, whole or not at all."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.runtime.wire import ELEMENT_TYPES, Channel, ClosedError, Opaque


@pytest.fixture
def ends():
    a, b = socket.socketpair()
    first, second = Channel(a), Channel(b)
    yield first, second
    for channel in (first, second):
        with contextlib.suppress(OSError):
            channel.close()


def echo(first: Channel, second: Channel, head: object, values: list) -> tuple:
    """Send from a thread: a large message does not fit into the buffers of the socket."""
    sender = threading.Thread(target=first.send, args=(head, values))
    sender.start()
    result = second.receive(time.monotonic() + 30)
    sender.join()
    return result


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tobytes() == want.tobytes()
    assert got.flags.writeable
    assert got.flags.aligned


arrays = st.sampled_from(list(ELEMENT_TYPES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=5))
)


@given(st.lists(arrays, max_size=6), st.sampled_from([0, 70_000]))
@settings(max_examples=150, deadline=None)
def test_arrays_of_all_types_and_shapes_survive(values, extra):
    # The extra bytes decide between one piece and several.
    values = [*values, np.zeros(extra, np.uint8)]
    a, b = socket.socketpair()
    first, second = Channel(a), Channel(b)
    try:
        head, got = echo(first, second, ("operation", {"n": 1}), values)
    finally:
        first.close()
        second.close()
    assert head == ("operation", {"n": 1})
    for array, want in zip(got, values, strict=True):
        assert_same(array, want)


def test_large_arrays_survive(ends):
    values = [np.random.default_rng(0).standard_normal((n, 1000)) for n in (1, 3000, 7)]
    _, got = echo(*ends, None, values)
    for array, want in zip(got, values, strict=True):
        assert_same(array, want)


def test_many_small_arrays_in_a_large_message_survive(ends):
    values = [np.full(100 + n, n, np.int64) for n in range(700)]
    _, got = echo(*ends, None, values)
    for array, want in zip(got, values, strict=True):
        assert_same(array, want)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(40, dtype=np.int32)[::3],
        np.broadcast_to(np.float32(3), (50, 50, 50)),
        np.asfortranarray(np.ones((200, 300))),
    ],
)
def test_views_arrive_in_row_order(ends, array):
    _, (got,) = echo(*ends, None, [array])
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, array)


def test_what_is_no_array_is_pickled(ends):
    strings = np.array(["a", "ü\0"], object)
    _, got = echo(*ends, None, [strings, [np.ones(2)], {"k": 1.5}, None])
    np.testing.assert_array_equal(got[0], strings)
    np.testing.assert_array_equal(got[1][0], np.ones(2))
    assert got[2:] == [{"k": 1.5}, None]


def test_types_that_numpy_lacks_travel_as_bytes(ends):
    sent = Opaque(22, (3,), np.array([0x21, 0x03], np.uint8))
    _, (got,) = echo(*ends, None, [sent])
    assert (got.element_type, got.shape) == (22, (3,))
    np.testing.assert_array_equal(got.data, sent.data)


def test_messages_do_not_run_into_each_other(ends):
    first, second = ends
    for number in range(50):
        first.send(number, [np.full(3, number)])
    for number in range(50):
        head, (array,) = second.receive()
        assert head == number
        np.testing.assert_array_equal(array, np.full(3, number))


def test_receiving_gives_up_at_the_deadline(ends):
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].receive(start + 0.05)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("size", [3, 1 << 16])
def test_what_has_come_is_received_after_the_deadline_too(ends, size):
    ends[1].send("head", [np.ones(size, np.uint8)])
    head, (array,) = ends[0].receive(time.monotonic() - 1)
    assert head == "head"
    assert array.size == size
    with pytest.raises(TimeoutError):
        ends[0].receive(time.monotonic() - 1)


def test_sending_to_one_that_does_not_read_gives_up_at_the_deadline(ends):
    with pytest.raises(TimeoutError):
        ends[0].send(None, [np.zeros(1 << 26, np.uint8)], time.monotonic() + 0.05)


def test_the_end_of_the_other_side_is_noticed_by_both_directions(ends):
    first, second = ends
    second.close()
    with pytest.raises(ClosedError):
        first.receive()
    with pytest.raises(ClosedError):
        first.send(None, [np.zeros(1 << 22, np.uint8)])


def test_a_message_that_breaks_off_is_not_delivered(ends):
    first, second = ends
    part = threading.Thread(target=lambda: first._end.sendall(b"\x40" + bytes(20)))
    part.start()
    part.join()
    first.close()
    with pytest.raises(ClosedError):
        second.receive()

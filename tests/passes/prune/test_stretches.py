import contextlib
import errno
import tempfile

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.prune.prefix import model_of, part_to
from graphopt.passes.prune.shelf import Shelf
from graphopt.passes.prune.stretches import Stretches
from graphs import random_feeds, run
from networks import network

SOME = """g (float[N, 8] x, float[N, 8] m) => (float[N, 3] y)
    <float[8, 6] w1, float[6, 6] w2, float[6, 8] w3, float[8, 3] w4, int64[1] one = {1}>
    { a = MatMul(x, w1)
      n = Neg(one)
      b = Relu(a)
      k = Abs(n)
      c = MatMul(b, w2)
      d = Add(b, c)
      f = MatMul(d, w3)
      e = Add(f, m)
      q = SequenceConstruct(e, f)
      z = SequenceAt(q, k)
      h = Add(z, x)
      y = MatMul(h, w4) }"""
IF = """g (float[N, 8] x, bool c) => (float[N, 3] y)
    <float[8, 6] w, float[6, 6] u, float[6, 3] v>
    { h = MatMul(x, w)
      i = Relu(h)
      z = If(c) <
        then_branch = one () => (float[N, 6] p) { p = MatMul(i, u) },
        else_branch = two () => (float[N, 6] q) { q = Add(i, h) }>
      y = MatMul(z, v) }"""


class Counting:
    """A runtime that notes the operators it is given."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.given = []

    def session(self, model):
        self.given.append(sorted(node.op_type for node in model.graph))
        return self.runtime.session(model)


def values_of(model):
    found = {value.name: value for node in model.graph for value in node.outputs}
    return {**found, **{value.name: value for value in model.graph.inputs}}


def stretched(model, names, feeds, runtime, shelf):
    """Return name -> what it is on every feed, found in stretches."""
    values = values_of(model)
    stretches = Stretches(model, [values[name] for name in names], runtime, shelf)
    found = []
    for number in range(len(names)):
        with stretches.to(number) as value_on:
            found.append([value_on(feed) for feed in feeds])
    return found


def expected(model, names, feeds):
    found = []
    for name in names:
        if name in feeds[0]:
            found.append([feed[name] for feed in feeds])
            continue
        whole = model.clone()
        whole.graph.outputs[:] = [values_of(whole)[name]]
        found.append([run(whole, feed)[0] for feed in feeds])
    return found


def assert_all_close(found, wanted):
    for mine, other in zip(found, wanted, strict=True):
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("room", [1 << 20, 700, 0])
@pytest.mark.parametrize(
    ("text", "names"),
    [(SOME, ["x", "a", "b", "b", "d", "e", "h", "y"]), (IF, ["h", "i", "z", "y"])],
)
def test_stretches_give_what_the_whole_model_gives(text, names, room, runtime):
    model = network(text)
    feeds = [random_feeds(model, seed) for seed in range(3)]
    with contextlib.closing(Shelf(room)) as shelf:
        found = stretched(model, names, feeds, runtime, shelf)
        assert not shelf.kinds
    assert_all_close(found, expected(model, names, feeds))


def test_every_node_runs_once_but_what_cannot_be_kept(runtime):
    model = network(SOME)
    feeds = [random_feeds(model, seed) for seed in range(2)]
    counting = Counting(runtime)
    with contextlib.closing(Shelf(1 << 20)) as shelf:
        stretched(model, ["a", "d", "e", "y"], feeds, counting, shelf)
    assert counting.given == [
        ["MatMul"],
        ["Add", "MatMul", "Relu"],
        ["Add", "MatMul"],
        ["Abs", "Add", "MatMul", "Neg", "SequenceAt", "SequenceConstruct"],
    ]


def test_a_value_that_is_needed_again_is_read_and_not_run(runtime):
    model = network(SOME)
    feeds = [random_feeds(model, 0)]
    counting = Counting(runtime)
    with contextlib.closing(Shelf(1 << 20)) as shelf:
        first, second = stretched(model, ["d", "d"], feeds, counting, shelf)
    np.testing.assert_array_equal(first, second)
    assert len(counting.given) == 1


def test_weights_of_later_stretches_may_change(runtime):
    model = network(SOME)
    feeds = [random_feeds(model, 0)]
    values = values_of(model)
    with contextlib.closing(Shelf(1 << 20)) as shelf:
        stretches = Stretches(model, [values["d"], values["f"]], runtime, shelf)
        with stretches.to(0) as value_on:
            value_on(feeds[0])
        weight = model.graph.initializers["w3"]
        weight.const_value = ir.tensor(np.zeros((6, 8), np.float32), name="w3")
        with stretches.to(1) as value_on:
            assert not value_on(feeds[0]).any()


def test_a_part_has_inputs_where_it_begins():
    model = network(SOME)
    values = values_of(model)
    part = part_to([values["e"]], {values["d"]})
    assert [node.op_type for node in part[0]] == ["MatMul", "Add"]
    assert part[1] == [values["d"], values["m"]]
    kinds = {values["d"]: np.dtype(np.float32)}
    found = model_of(model, part, [values["e"]], kinds)
    assert [value.name for value in found.graph.inputs] == ["d", "m"]
    assert found.graph.inputs[0].shape is None
    assert set(found.graph.initializers) == {"w3"}


@pytest.mark.parametrize(
    "array", [[np.zeros(2)], np.array(["a"], object), {"a": 1}, np.zeros(9)]
)
def test_the_shelf_takes_numbers_as_long_as_there_is_room(array):
    shelf = Shelf(200)
    value = ir.Value(name="a")
    assert not shelf.put(value, array) or array.nbytes < 100
    shelf.close()


def test_room_is_free_again_when_a_value_goes():
    shelf = Shelf(400)
    first, second = ir.Value(name="a"), ir.Value(name="b")
    assert shelf.put(first, np.ones(20))
    assert not shelf.put(second, np.ones(20))
    assert not shelf.put(first, np.ones(20))  # no room for its second feed: it goes whole
    assert not shelf.kinds
    assert shelf.put(second, np.full(20, 2.0))
    shelf.rewind(second)
    np.testing.assert_array_equal(shelf.next(second), np.full(20, 2.0))
    shelf.close()


class Full:
    """A disk that takes so many bytes, and then no more."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)


@pytest.mark.parametrize("room", [0, 200, 300])
def test_a_value_that_the_disk_does_not_take_is_computed_again(room, runtime, monkeypatch):
    opened = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: Full(opened(**how), room))
    model = network(SOME)
    feeds = [random_feeds(model, seed) for seed in range(3)]
    names = ["a", "d", "e", "y"]
    with contextlib.closing(Shelf()) as shelf:
        found = stretched(model, names, feeds, runtime, shelf)
        assert not shelf.kinds
    assert_all_close(found, expected(model, names, feeds))


def test_nothing_is_kept_where_no_file_can_be_made(monkeypatch):
    def refuse(**how):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with contextlib.closing(Shelf()) as shelf:
        assert not shelf.put(ir.Value(name="a"), np.ones(2))
        assert not shelf.kinds


def test_there_is_no_room_where_there_is_no_folder_for_temporary_files(monkeypatch):
    def refuse():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    with contextlib.closing(Shelf()) as shelf:
        assert not shelf.put(ir.Value(name="a"), np.ones(2))


def test_what_a_failed_write_left_does_not_become_room(monkeypatch):
    opened = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: Full(opened(**how), 200))
    with contextlib.closing(Shelf(1000)) as shelf:
        for _ in range(20):
            assert not shelf.put(ir.Value(name="a"), np.ones(20))
        monkeypatch.setattr(tempfile, "TemporaryFile", opened)
        assert not shelf.put(ir.Value(name="b"), np.ones(200))

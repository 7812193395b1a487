"""Samples: every source, every mistake, and never all of it in memory."""

import io
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import SamplesError
from graphopt.samples import Samples, TensorSpec

X = TensorSpec("x", np.dtype(np.float32), ("N", 3))
IDS = TensorSpec("ids", np.dtype(np.int64), ("N", "S"))
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def read(source: Samples | Callable[[], Samples]) -> list:
    return list((source() if callable(source) else source).feeds())


def refused(source: Samples | Callable[[], Samples], code: str) -> SamplesError:
    """Return the error that making or reading samples ends in."""
    with pytest.raises(SamplesError) as caught:
        read(source)
    assert caught.value.code == f"samples/{code}"
    assert "\n" not in str(caught.value)
    return caught.value


def equal(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


# An .npz file.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_is_cut_along_the_first_axis(tmp_path, save, order):
    x, ids = np.asarray(floats(7, 3), order=order), np.arange(14).reshape(7, 2)
    save(tmp_path / "s.npz", x=x, ids=ids)
    samples = Samples.from_path(tmp_path / "s.npz", [X, IDS])
    expected = [{"x": x[i : i + 1], "ids": ids[i : i + 1]} for i in range(7)]
    for _ in range(2):
        equal(list(samples.feeds()), expected)
    assert samples.total == 7
    assert samples.describe().endswith("s.npz: 7 samples in batches of 1")
    batched = Samples.from_path(tmp_path / "s.npz", [X, IDS], batch_size=3)
    equal(
        list(batched.feeds()),
        [{"x": x[i : i + 3], "ids": ids[i : i + 3]} for i in (0, 3, 6)],
    )
    assert batched.total == 3


def test_feeds_do_not_share_memory_with_the_file(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.ones((2, 3), np.float32))
    samples = Samples.from_path(tmp_path / "s.npz", [X])
    for feed in samples.feeds():
        feed["x"][:] = 5
    assert all((feed["x"] == 1).all() for feed in samples.feeds())


def test_a_fixed_batch_takes_whole_batches_and_says_what_is_left(tmp_path, caplog):
    np.savez(tmp_path / "s.npz", x=floats(11, 3))
    fixed = TensorSpec("x", np.dtype(np.float32), (4, 3))
    samples = Samples.from_path(tmp_path / "s.npz", [fixed])
    assert [feed["x"].shape for feed in samples.feeds()] == [(4, 3), (4, 3)]
    assert samples.total == 2
    assert "the last 3 left out" in samples.describe()
    assert "the last 3 left out" in caplog.text
    error = refused(
        lambda: Samples.from_path(tmp_path / "s.npz", [fixed], batch_size=2), "batch-size"
    )
    assert "exactly 4" in error.message
    np.savez(tmp_path / "few.npz", x=floats(3, 3))
    refused(lambda: Samples.from_path(tmp_path / "few.npz", [fixed]), "empty")


def test_whole_inputs_one_after_the_other(tmp_path):
    image = TensorSpec("x", np.dtype(np.float32), (1, 3, 8, 8))
    scale = TensorSpec("scale", np.dtype(np.float32), ())
    x, scales = floats(5, 1, 3, 8, 8), floats(5)
    np.savez(tmp_path / "s.npz", x=x, scale=scales)
    samples = Samples.from_path(tmp_path / "s.npz", [image, scale])
    equal(list(samples.feeds()), [{"x": x[i], "scale": scales[i]} for i in range(5)])
    refused(
        lambda: Samples.from_path(tmp_path / "s.npz", [image, scale], batch_size=2),
        "batch-size",
    )


def test_arrays_of_different_lengths(tmp_path):
    np.savez(tmp_path / "s.npz", x=floats(5, 3), ids=np.zeros((4, 2), np.int64))
    error = refused(lambda: Samples.from_path(tmp_path / "s.npz", [X, IDS]), "length")
    assert "5 entries for 'x' and 4 for 'ids'" in error.message


def test_a_folder_of_npy_files_is_an_archive(tmp_path):
    x = floats(4, 3)
    np.save(tmp_path / "x.npy", x)
    samples = Samples.from_path(tmp_path, [X], batch_size=2)
    equal(list(samples.feeds()), [{"x": x[:2]}, {"x": x[2:]}])
    error = refused(lambda: Samples.from_path(tmp_path / "x.npy", [X]), "missing-input")
    assert "folder" in error.hint


def test_a_folder_of_npz_files_is_one_feed_each(tmp_path):
    feeds = [{"x": floats(n, 3), "ids": np.zeros((n, n + 1), np.int64)} for n in (1, 4, 2)]
    for index, feed in enumerate(feeds):
        (np.savez, np.savez_compressed)[index % 2](tmp_path / f"{index}.npz", **feed)
    samples = Samples.from_path(tmp_path, [X, IDS])
    equal(list(samples.feeds()), feeds)
    assert samples.total == 3
    refused(lambda: Samples.from_path(tmp_path, [X, IDS], batch_size=2), "batch-size")


def test_a_path_with_nothing_in_it(tmp_path):
    refused(lambda: Samples.from_path(tmp_path / "no.npz", [X]), "missing-file")
    refused(lambda: Samples.from_path(tmp_path, [X]), "empty")
    np.savez(tmp_path / "s.npz")
    refused(lambda: Samples.from_path(tmp_path / "s.npz", [X]), "empty")
    np.savez(tmp_path / "z.npz", x=floats(0, 3))
    refused(lambda: Samples.from_path(tmp_path / "z.npz", [X]), "empty")
    refused(lambda: Samples.from_path(tmp_path / "z.npz", [X], batch_size=0), "batch-size")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and then nothing"])
def test_a_file_that_is_no_archive(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    refused(lambda: Samples.from_path(tmp_path / "s.npz", [X]), "damaged")


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "s.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, x=floats(50, 3), ids=np.zeros((50, 2), np.int64))
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(150):
            content = bytearray(whole)
            if rng.integers(2):
                del content[int(rng.integers(len(content))) :]
            else:
                content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            try:
                list(Samples.from_path(path, [X, IDS]).feeds())
            except SamplesError as caught:
                error = caught
            else:
                error = None  # a bit of a number, or of a time, was changed
            assert "\n" not in str(error)


def archive(path: pathlib.Path, header: str, data: bytes, compression: int) -> pathlib.Path:
    text = header.encode().ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x.npy", member)
    return path


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9, ",
        "{'descr': '<f4', 'fortran_order': False,\n  'shape': (9, 3)",
        " {'descr'\n\t: 1",
        "(" * 100,
        "{1: 2, 'a': 3}",
        "[1, 2]",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9, 'a')}",
        "{'descr': [1], 'fortran_order': False, 'shape': (9, 3)}",
    ],
)
def test_a_header_that_makes_no_sense(tmp_path, header):
    path = archive(tmp_path / "s.npz", header, bytes(24), zipfile.ZIP_STORED)
    refused(lambda: Samples.from_path(path, [X]), "damaged")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", ["(9, 3)", "(1125899906842624, 3)", "(2, 1099511627776)"])
def test_a_header_that_promises_more_than_there_is(tmp_path, compression, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    path = archive(tmp_path / "s.npz", header, bytes(24), compression)
    refused(lambda: Samples.from_path(path, [X]), "damaged")


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "s.npz", x=np.array([Bomb()], object))
    refused(lambda: Samples.from_path(tmp_path / "s.npz", [X]), "pickled")
    np.save(tmp_path / "x.npy", np.array([Bomb()], object))
    (tmp_path / "s.npz").unlink()
    refused(lambda: Samples.from_path(tmp_path, [X]), "pickled")
    assert not (tmp_path / "exploded").exists()


MEASURED = """
import resource, sys
import numpy as np
from graphopt.samples import Samples, TensorSpec
spec = TensorSpec("x", np.dtype(np.float32), ("N", 1000))
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    before = peak()
    count = sum(1 for feed in Samples.from_path(path, [spec]).feeds())
    print(count, peak() - before)
"""


def test_an_archive_is_never_all_in_memory(tmp_path):
    # Compressed first: mapped pages count as memory as well, though the kernel may drop them.
    x = np.broadcast_to(floats(1, 1000), (40_000, 1000))
    paths = [tmp_path / "compressed.npz"]
    with zipfile.ZipFile(paths[0], "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": x.shape}
        )
        with file.open("x.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for start in range(0, len(x), 1000):
                member.write(x[start : start + 1000].tobytes())
    command = [sys.executable, "-c", MEASURED, *paths]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    count, growth = map(int, out.split())
    assert count == 40_000
    assert growth < 20_000  # kB, of 160 MB


# What a feed may be.


def test_names_are_checked_and_the_nearest_is_named():
    error = refused(Samples.from_feeds([{"ix": floats(1, 3)}], [X]), "unknown-input")
    assert "sample 0 has 'ix'" in error.message
    feeds = [{"x": floats(1, 3), "idx": np.zeros((1, 2), np.int64)}]
    error = refused(Samples.from_feeds(feeds, [X, IDS]), "unknown-input")
    assert error.hint == "Did you mean 'ids'?"
    good = {"x": floats(1, 3), "ids": np.zeros((1, 2), np.int64)}
    error = refused(Samples.from_feeds([good, {"x": floats(1, 3)}], [X, IDS]), "missing-input")
    assert "sample 1 has nothing for the input 'ids'" in error.message
    assert "ids: int64[N, S]" in error.hint


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1), (1, 4), (2, 2), ()])
def test_a_wrong_shape(shape):
    error = refused(Samples.from_feeds([{"x": floats(*shape)}], [X]), "shape")
    assert str(list(shape)) in error.message
    assert "float32[N, 3]" in error.message


def test_a_wrong_shape_in_an_archive_is_found_before_anything_runs(tmp_path):
    for shape in [(5, 4), (5,), (5, 3, 1, 1)]:
        np.savez(tmp_path / "s.npz", x=floats(*shape))
        with pytest.raises(SamplesError, match="samples/shape"):
            Samples.from_path(tmp_path / "s.npz", [X])


def spec(dtype: object) -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), ("N",))


@pytest.mark.parametrize(
    ("given", "declared"),
    [
        (np.array([1, 2], np.int32), np.int64),
        (np.array([-1, 127], np.int64), np.int8),
        (np.array([255], np.int64), np.uint8),
        (np.array([1], np.uint64), np.int64),
        (np.array([0.5, 2], np.float64), np.float32),
        (np.array([0.5], np.float16), np.float32),
        (np.array([0.5], np.float32), ml_dtypes.bfloat16),
        (np.array([1.5], ml_dtypes.bfloat16), np.float16),
        (np.array([1.5], np.float16), ml_dtypes.bfloat16),
        (np.array([1.5], ml_dtypes.float8_e5m2), ml_dtypes.float8_e4m3fn),
        (np.array([1.5], ">f4"), np.float32),
        (np.array([7], ">i8"), np.int64),
        (np.array(["a", "bcd"]), object),
        (np.array(["a", "bcd"], object), object),
        ([1, 2, 3], np.int64),
        (np.zeros(0, np.int64), np.int8),
    ],
    ids=str,
)
def test_types_are_changed_where_every_value_survives(given, declared):
    full = np.asarray(given) if np.size(given) else np.ones(1, declared)
    feed, _ = Samples.from_feeds([{"x": given}, {"x": full}], [spec(declared)]).feeds()
    assert feed["x"].dtype == np.dtype(declared)
    assert feed["x"].dtype.isnative
    np.testing.assert_array_equal(feed["x"].astype(object), np.asarray(given).astype(object))


@pytest.mark.parametrize(
    ("given", "declared"),
    [
        (np.array([1 << 40]), np.int32),
        (np.array([-1]), np.uint8),
        (np.array([-1]), np.uint64),
        (np.array([1 << 63], np.uint64), np.int64),
        (np.array([0.1]), np.float32),
        (np.array([1e300]), np.float32),
        (np.array([1]), np.float32),
        (np.array([1.0]), np.int64),
        (np.array([True]), np.int64),
        (np.array([1]), np.bool_),
        (np.array(["1"]), np.int64),
        (np.array([b"a"]), object),
        (np.array([1]), object),
        (np.array([None], object), object),
        (np.array([1, 2], object), np.int64),
        (np.array([1 + 2j]), np.float32),
        (np.zeros(2, "V8"), object),
        (np.zeros(2, "V4"), np.float32),
        (np.zeros(2, [("a", "<f4")]), np.float32),
        (np.zeros(2, [("a", "<u2")]), ml_dtypes.bfloat16),
        (np.array([1], ml_dtypes.int4), ml_dtypes.float8_e4m3fn),
    ],
    ids=str,
)
def test_types_are_not_changed_where_a_value_would(given, declared):
    error = refused(Samples.from_feeds([{"x": given}], [spec(declared)]), "dtype")
    assert "input 'x' of sample 0" in error.message


def test_a_wrong_kind_in_an_archive_is_found_before_anything_runs(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((5, 3), np.int64))
    with pytest.raises(
        SamplesError, match=r"is int64; the model expects float32.*np\.float32"
    ):
        Samples.from_path(tmp_path / "s.npz", [X])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_small_floats_come_back_from_an_archive(tmp_path, dtype):
    x = np.array([[1.5], [-2]], dtype)
    np.savez(tmp_path / "s.npz", x=x)  # numpy writes them as raw bytes
    declared = TensorSpec("x", np.dtype(dtype), ("N", 1))
    feeds = list(Samples.from_path(tmp_path / "s.npz", [declared], batch_size=2).feeds())
    equal(feeds, [{"x": x}])
    bad = np.array([[1.5], [np.nan]], dtype)
    np.savez(tmp_path / "s.npz", x=bad)
    error = refused(Samples.from_path(tmp_path / "s.npz", [declared]), "not-finite")
    assert "sample 1" in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_not_finite_values_name_input_and_sample(tmp_path, value, batch_size):
    x = floats(7, 3)
    x[5, 1] = value
    np.savez(tmp_path / "s.npz", x=x, ids=np.zeros((7, 1), np.int64))
    samples = Samples.from_path(tmp_path / "s.npz", [X, IDS], batch_size=batch_size)
    error = refused(samples, "not-finite")
    assert "input 'x' of sample 5" in error.message
    feeds = [{"x": floats(1, 3)}, {"x": x[4:6]}]
    assert "of sample 1" in refused(Samples.from_feeds(feeds, [X]), "not-finite").message
    kept = list(samples.dropping_not_finite().feeds())
    assert sum(len(feed["x"]) for feed in kept) == {1: 6, 2: 5, 4: 4}[batch_size]


def test_all_dropped_is_nothing_left():
    feeds = [{"x": np.full((1, 3), np.nan, np.float32)}] * 3
    error = refused(Samples.from_feeds(feeds, [X]).dropping_not_finite(), "empty")
    assert "3 feeds were dropped" in error.message


def test_no_feed_at_all():
    refused(Samples.from_feeds([], [X]), "empty")
    refused(Samples.from_feeds(lambda: iter(()), [X]), "empty")


def test_empty_batches_alone_are_no_data_and_among_others_they_are_valid():
    empty = {"x": np.zeros((0, 3), np.float32)}
    refused(Samples.from_feeds([empty, empty], [X]), "no-data")
    assert len(list(Samples.from_feeds([empty, {"x": floats(2, 3)}], [X]).feeds())) == 2


def test_an_input_that_is_zero_everywhere_is_worth_a_word(caplog):
    zero = {"x": np.zeros((1, 3), np.float32), "ids": np.zeros((1, 1), np.int64)}
    list(Samples.from_feeds([zero, zero], [X, IDS]).feeds())
    assert "'x' is zero everywhere" in caplog.text
    assert "'ids'" not in caplog.text  # token types are
    caplog.clear()
    list(Samples.from_feeds([zero, zero | {"x": floats(1, 3)}], [X, IDS]).feeds())
    assert not caplog.text


def test_batches_of_different_sizes_are_valid():
    feeds = [{"x": floats(n, 3)} for n in (1, 5, 2)]
    equal(list(Samples.from_feeds(feeds, [X]).feeds()), feeds)


def test_without_specs_only_values_are_checked():
    feeds = [{"anything": np.array([np.nan])}]
    refused(Samples.from_feeds(feeds), "not-finite")
    refused(Samples.from_feeds([[1, 2]]), "not-a-feed")


# Readers and iterators.


class Reader:
    """The protocol of onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self, count: int = 3) -> None:
        self.feeds = iter([{"x": np.full((1, 3), n, np.float32)} for n in range(1, count + 1)])
        self.calls = 0

    def get_next(self):
        self.calls += 1
        return next(self.feeds, None)


class Rewinding(Reader):
    def rewind(self):
        self.__init__()


def first_values(samples: Samples) -> list[float]:
    return [float(feed["x"][0, 0]) for feed in samples.feeds()]


@pytest.mark.parametrize("make", [Reader, lambda: Reader, lambda: Reader(), Rewinding])
@pytest.mark.parametrize("call", [True, False])
def test_a_reader_can_be_read_again(make, call):
    given = make() if call else make
    if call and isinstance(given, type):
        given = given()
    samples = Samples.from_reader(given if isinstance(given, Reader) else Reader, [X])
    for _ in range(3):
        assert first_values(samples) == [1, 2, 3]


def test_a_reader_without_rewind_is_read_once():
    reader = Reader()
    samples = Samples.from_reader(reader, [X])
    assert next(iter(samples.feeds()))["x"][0, 0] == 1
    assert reader.calls == 1
    assert first_values(samples) == [1, 2, 3]
    assert first_values(samples) == [1, 2, 3]
    assert reader.calls == 4


def test_two_passes_over_one_reader_at_a_time():
    samples = Samples.from_reader(Reader(), [X])
    pairs = zip(samples.feeds(), samples.feeds(), strict=True)
    assert [one["x"][0, 0] == other["x"][0, 0] for one, other in pairs] == [True] * 3


def test_onnxruntimes_own_base_class_is_a_reader():
    from onnxruntime.quantization import CalibrationDataReader

    class Own(CalibrationDataReader):
        def __init__(self) -> None:
            self.reader = Reader()

        def get_next(self) -> dict:
            return self.reader.get_next()

    assert first_values(Samples.from_reader(Own(), [X])) == [1, 2, 3]
    assert "Own" in Samples.from_reader(Own, [X]).describe()


def test_a_reader_that_never_ends():
    class Endless:
        def get_next(self):
            return {"x": np.ones((1, 3), np.float32)}

    error = refused(Samples.from_reader(Endless(), [X], max_feeds=50), "endless")
    assert "50 feeds" in error.message
    assert len(list(Samples.from_reader(Endless(), [X]).take(5).feeds())) == 5


def test_what_a_reader_raises_passes_through():
    class Broken:
        def get_next(self):
            raise ConnectionError("the camera is gone")

    with pytest.raises(ConnectionError, match="the camera is gone"):
        list(Samples.from_reader(Broken(), [X]).feeds())


def test_what_is_no_reader():
    refused(lambda: Samples.from_reader(42, [X]), "not-a-reader")
    refused(lambda: Samples.from_reader(lambda: [1], [X]), "not-a-reader")


def test_an_iterator_is_read_once_and_kept_on_disk():
    read = []

    def feeds():
        for n in (1, 2, 3):
            read.append(n)
            yield {"x": np.full((1, 3), n, np.float32)}

    samples = Samples.from_feeds(feeds(), [X])
    assert first_values(samples.take(2)) == [1, 2]
    assert read == [1, 2]
    assert first_values(samples) == [1, 2, 3]
    assert first_values(samples) == [1, 2, 3]
    assert read == [1, 2, 3]


def test_a_factory_is_called_for_each_pass():
    calls = []
    samples = Samples.from_feeds(lambda: calls.append(1) or [{"x": floats(1, 3)}], [X])
    for _ in range(3):
        list(samples.feeds())
    assert len(calls) == 3


def test_a_single_feed():
    assert len(list(Samples.from_feeds({"x": floats(1, 3)}, [X]).feeds())) == 1


def test_take():
    samples = Samples.from_feeds([{"x": floats(1, 3)} for _ in range(5)], [X])
    assert len(list(samples.take(3).take(4).feeds())) == 3
    assert samples.take(3).total == 3
    assert samples.take(9).total == 5
    assert samples.take(3).describe() == "the first 3 of 5 feeds"
    assert len(list(samples.feeds())) == 5


def test_what_is_not_a_stream_of_feeds():
    error = refused(Samples.from_feeds(lambda: None), "not-a-feed")
    assert "NoneType" in error.message


def test_a_feed_that_cannot_be_kept_is_an_error_every_time():
    feeds = iter([{"x": floats(1, 3)}, {"x": lambda: None}, {"x": floats(1, 3)}])
    samples = Samples.from_feeds(feeds)
    with pytest.raises(Exception, match="pickle"):
        read(samples)
    assert len(read(samples.take(1))) == 1

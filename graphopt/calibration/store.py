"""Writes statistics of activations to a file, and reads them back for the same model.

The file is an ``.npz``. Its entry ``header`` is JSON: the format and its version, the
fingerprint of the model, and how many feeds were seen; the others are one array for each
field of the statistics, with a row for each tensor.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration.collect import collect
from graphopt.calibration.histogram import BINS, Histogram
from graphopt.calibration.statistics import ExactSum, TensorStatistics
from graphopt.errors import OutputError, SamplesError

if TYPE_CHECKING:
    from graphopt.passbase import Context
    from graphopt.samples import Samples

__all__ = [
    "add_to_digest",
    "collect_saved",
    "digest_of",
    "fingerprint",
    "load_statistics",
    "save_statistics",
]

FORMAT = "graphopt/calibration"
VERSION = 1
_FIELDS = ("count", "zeros", "low", "high", "not_finite", "first_not_finite")


def collect_saved(
    path: str | os.PathLike[str],
    model: ir.Model,
    values: Sequence[str],
    samples: Samples,
    context: Context,
) -> dict[str, TensorStatistics]:
    """Return statistics of ``values`` from a file; what it lacks is collected and added.

    Raises:
        SamplesError: The file is another one, or of another model or other samples.
        OutputError: The file cannot be written.
    """
    key = f"{fingerprint(model)} {digest_of(samples.feeds())}"
    known = load_statistics(path, key) if os.path.exists(path) else {}
    missing = [name for name in values if name not in known]
    if missing:
        known |= collect(model, missing, samples, context)
        save_statistics(path, known, key)
    return {name: known[name] for name in values}


def fingerprint(model: ir.Model) -> str:
    """Return a text that changes when an operator, a connection, a weight or an end does."""
    digest = hashlib.blake2b(digest_size=16)
    ends = [value.name for side in (model.graph.inputs, model.graph.outputs) for value in side]
    digest.update(repr((ends, sorted(model.opset_imports.items()))).encode())
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    walks = [ir.traversal.RecursiveGraphIterator(body) for body in bodies]
    for node in itertools.chain.from_iterable(walks):
        inputs = [value.name if value is not None else "" for value in node.inputs]
        outputs = [value.name for value in node.outputs]
        digest.update(repr((node.domain, node.op_type, inputs, outputs)).encode())
        for name, attr in sorted(node.attributes.items()):
            plain = attr.value
            if isinstance(plain, (int, float, str, list, tuple)):
                digest.update(repr((name, plain)).encode())
            elif isinstance(plain, ir.TensorProtocol):
                _update(digest, name, plain)
    for graph in model.graphs():
        for name, value in sorted(graph.initializers.items()):
            if value.const_value is not None:
                _update(digest, name, value.const_value)
    return digest.hexdigest()


def digest_of(feeds: Iterable[Mapping[str, Any]]) -> str:
    """Return a text that changes when a number in a feed does, or their order."""
    digest = hashlib.blake2b(digest_size=16)
    for feed in feeds:
        add_to_digest(digest, feed)
    return digest.hexdigest()


def add_to_digest(digest: hashlib.blake2b, values: Mapping[str, Any]) -> None:
    """Take in names and values: of a feed, or of what a model makes of one."""
    for name, value in values.items():
        array = np.asarray(value) if isinstance(value, np.generic | np.ndarray) else None
        if array is None or array.dtype == object:
            # Strings, sequences and maps: of these the words are the value.
            plain = value if array is None else array.tolist()
            digest.update(repr((name, plain)).encode())
            continue
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())


def _update(digest: hashlib.blake2b, name: str, tensor: ir.TensorProtocol) -> None:
    # The same bytes are another weight in another shape or type.
    digest.update(repr((name, tensor.dtype, tuple(tensor.shape.numpy()))).encode())
    digest.update(tensor.tobytes())


def save_statistics(
    path: str | os.PathLike[str], statistics: Mapping[str, TensorStatistics], key: str
) -> None:
    """Write statistics, whole or not at all.

    Args:
        path: The file.
        statistics: Name of a value -> its statistics.
        key: Fingerprint of the model, and of whatever else they are true of.

    Raises:
        OutputError: The file cannot be written.
    """
    path = pathlib.Path(path)
    stats = list(statistics.values())
    header = {"format": FORMAT, "version": VERSION, "key": key, "tensors": list(statistics)}
    arrays: dict[str, Any] = {
        "header": np.array(json.dumps(header)),
        **{name: np.array([getattr(one, name) for one in stats]) for name in _FIELDS},
        **_histograms([one.histogram for one in stats]),
        **_sums("row_lows", [one.row_lows for one in stats]),
        **_sums("row_highs", [one.row_highs for one in stats]),
    }
    name = ""
    try:
        handle, name = tempfile.mkstemp(".tmp", f".{path.name}-", path.parent)
        with open(handle, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(name, path)
    except OSError as error:
        raise OutputError("unwritable", f"{path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)


def load_statistics(path: str | os.PathLike[str], key: str) -> dict[str, TensorStatistics]:
    """Read what ``save_statistics`` wrote.

    Args:
        path: The file.
        key: What its key must be.

    Raises:
        SamplesError: It is no such file, or holds the statistics of something else.
    """
    try:
        # Opened here: numpy leaves a damaged archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            header = _checked(json.loads(str(archive["header"])))
            found_key = header["key"]
            arrays = {name: archive[name] for name in archive.files if name != "header"}
            found = {
                str(name): _read(arrays, index) for index, name in enumerate(header["tensors"])
            }
    except Exception as error:
        # A file that is damaged or none of ours: zipfile, zlib, tokenize and json all have
        # exceptions of their own.
        raise SamplesError("statistics", f"{path} holds no statistics: {error}.") from error
    if found_key != key:
        raise SamplesError(
            "foreign-statistics",
            f"{path} holds the statistics of another model, or of other samples.",
            hint="Give another file, or remove this one to run the samples again.",
        )
    return found


def _checked(header: dict[str, Any]) -> dict[str, Any]:
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}")
    if header["version"] != VERSION:
        raise ValueError(f"its version is {header['version']}, not {VERSION}")
    return header


def _histograms(histograms: list[Histogram]) -> dict[str, Any]:
    return {
        "histogram_low": np.array([one.low for one in histograms]),
        "histogram_high": np.array([one.high for one in histograms]),
        "histogram_exponent": np.array([one.exponent for one in histograms]),
        "histogram_start": np.array([one.start for one in histograms]),
        "histogram_counts": np.array([one.counts for one in histograms]).reshape(-1, BINS),
    }


def _sums(name: str, sums: list[ExactSum]) -> dict[str, Any]:
    return {
        f"{name}_parts": np.array([one.parts for one in sums]),
        f"{name}_count": np.array([one.count for one in sums]),
    }


def _read(arrays: Mapping[str, Any], index: int) -> TensorStatistics:
    histogram = Histogram()
    histogram.low, histogram.high = (
        float(arrays[f"histogram_{end}"][index]) for end in ("low", "high")
    )
    histogram.exponent = int(arrays["histogram_exponent"][index])
    histogram.start = int(arrays["histogram_start"][index])
    counts = arrays["histogram_counts"][index]
    if counts.shape != (BINS,) or counts.dtype != np.int64 or counts.min() < 0:
        raise ValueError("its counts are none")
    histogram.counts = counts.copy()
    row_lows, row_highs = (
        _read_sum(arrays, name, index) for name in ("row_lows", "row_highs")
    )
    count, zeros, not_finite, first_not_finite = (
        int(arrays[name][index])
        for name in ("count", "zeros", "not_finite", "first_not_finite")
    )
    low, high = float(arrays["low"][index]), float(arrays["high"][index])
    return TensorStatistics(
        count, zeros, low, high, histogram, row_lows, row_highs, not_finite, first_not_finite
    )


def _read_sum(arrays: Mapping[str, Any], name: str, index: int) -> ExactSum:
    total = ExactSum()
    parts = arrays[f"{name}_parts"][index]
    if parts.shape != total.parts.shape or parts.dtype != np.int64:
        raise ValueError("its sums are none")
    total.parts, total.count = parts.copy(), int(arrays[f"{name}_count"][index])
    return total

"""Reads a model: a valid one, or a clear refusal; the weights stay on disk."""

from __future__ import annotations

import logging
import os
import pathlib

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import ModelError
from graphopt.model_io import sniff
from graphopt.model_io.check_model import Kept, ModelChecker, NotOursError
from graphopt.model_io.collector import collection_paused
from graphopt.model_io.opening import open_model
from graphopt.model_io.weights import Weights
from graphopt.samples import TensorSpec

__all__ = ["input_specs", "kept_of", "load", "reason_of"]

logger = logging.getLogger(__name__)

_KEPT = "graphopt.kept"


def load(
    source: str | os.PathLike[str] | onnx.ModelProto,
    *,
    folder: str | os.PathLike[str] | None = None,
    allow_hardlinks: bool = False,
) -> ir.Model:
    """Return the model in a file or a proto, checked.

    The data of tensors stays where it is, in the file or in files with external data, and is
    mapped when it is looked at. The files are kept open: the model stays usable when they are
    replaced by others of the same name.

    Args:
        source: Path of a model, or a proto, which is left as it is.
        folder: Where the external data of a proto is; for a path it is the folder of the file.
        allow_hardlinks: Accept external data that has a second name somewhere. By default it
            is refused, as it could be a file that the model's author should not get at.

    Returns:
        The model. Names, order and types of inputs and outputs are those of the file.

    Raises:
        ModelError: There is no model, or not a valid one; the message says what and where.
    """
    if isinstance(source, onnx.ModelProto):
        weights = Weights(None if folder is None else pathlib.Path(folder), allow_hardlinks)
        try:
            return _model(source, weights, ours=False)
        except NotOursError:
            copy = onnx.ModelProto()
            copy.CopyFrom(source)
            weights = Weights(
                None if folder is None else pathlib.Path(folder), allow_hardlinks
            )
            return _model(copy, weights, ours=True)
    path = pathlib.Path(source)
    file = open_model(path)
    sniff.check_is_model(file)
    weights = Weights(path.parent, allow_hardlinks)
    proto = weights.parse(file)
    try:
        return _model(proto, weights, ours=True)
    except ModelError as error:
        case = error.code.split("/", 1)[1]
        raise ModelError(
            case, f"{path}: {error.message}", hint=error.hint
        ) from error.__cause__


def _model(proto: onnx.ModelProto, weights: Weights, ours: bool) -> ir.Model:
    checker = ModelChecker(proto, weights, ours)
    with collection_paused():
        checker.check()
        try:
            model = ir.from_proto(proto)
        except ir.serde.SerdeError as error:
            raise ModelError(
                "unsupported", f"the model cannot be held: {reason_of(error)}."
            ) from error
        weights.attach(model)
    model.graph.meta[_KEPT] = checker.kept
    for note in checker.kept.notes:
        logger.warning("%s", note)
    return model


def reason_of(error: ir.serde.SerdeError) -> str:
    """Return in one line what went wrong first."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (str(cause).splitlines() or [type(cause).__name__])[0][:200]


def kept_of(model: ir.Model) -> Kept:
    """Return what is kept of a model beside its graph."""
    kept = model.graph.meta.get(_KEPT)
    return kept if isinstance(kept, Kept) else Kept()


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller has to feed: graph inputs that are not initializers.

    Raises:
        ModelError: An input is not a tensor.
    """
    specs = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        if not isinstance(value.type, ir.TensorType):
            raise ModelError(
                "input-type",
                f"input {value.name!r} is {value.type or 'of a type'} that cannot be fed; "
                "expected is a tensor.",
            )
        dtype = value.type.dtype
        kind = np.dtype(object) if dtype == ir.DataType.STRING else np.dtype(dtype.numpy())
        dims = () if value.shape is None else tuple(value.shape)
        shape = tuple(dim if isinstance(dim, int) else (dim.value or None) for dim in dims)
        specs.append(TensorSpec(value.name or "", kind, shape, value.shape is not None))
    return tuple(specs)

"""The facts about one model that every report shows."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.analysis import cost, shapes
from graphopt.model_io import MappedTensor

__all__ = [
    "ModelSummary",
    "files_of",
    "known_shapes",
    "macs_label",
    "size_on_disk",
    "summarize",
]


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """Facts about one model.

    Attributes:
        size_bytes: Size of the file, with its external data.
        nodes: Number of nodes, those of subgraphs and functions included.
        operators: Operator -> how many, most frequent first.
        parameters: Elements of all initializers and constants.
        parameter_bytes: Their bytes.
        macs: Multiply-accumulate operations of one run: with the sizes of the first sample,
            or with every symbolic dimension 1.
        macs_unknown: Number of matrix and convolution nodes whose shapes are not known.
        opsets: Domain (``""``: ONNX) -> version.
        dtypes: Element type -> bytes of the parameters of that type.
        inputs, outputs: ``name: type[shape]``.
        ir_version: Version of the file format.
        producer: What made the model.
    """

    size_bytes: int
    nodes: int
    operators: dict[str, int]
    parameters: int
    parameter_bytes: int
    macs: int
    macs_unknown: int
    opsets: dict[str, int]
    dtypes: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ir_version: int
    producer: str

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return dataclasses.asdict(self)


def files_of(model: ir.Model) -> set[pathlib.Path]:
    """Return the files that weights of ``model`` are read from."""
    return {
        pathlib.Path(tensor.source.path)
        for tensor in cost.weights(model)
        if isinstance(tensor, MappedTensor)
    }


def size_on_disk(model: ir.Model, path: pathlib.Path) -> int:
    """Return the bytes of the file that ``model`` was read from, with its external data."""
    files = {path.resolve(), *(file.resolve() for file in files_of(model))}
    return sum(file.stat().st_size for file in files)


def summarize(
    model: ir.Model, size_bytes: int, fed: Mapping[str, Sequence[int]] | None = None
) -> ModelSummary:
    """Return the facts about ``model``. Nothing is changed.

    Args:
        model: The model.
        size_bytes: What it takes on disk.
        fed: Name of an input -> its shape in the run whose operations are counted.
    """
    operators: collections.Counter[str] = collections.Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for node in cost.all_nodes(model)
    )
    parameters, parameter_bytes = cost.parameters_of(model)
    macs, macs_unknown = cost.total_macs(model, shape_of=known_shapes(model, fed))
    dtypes: collections.Counter[str] = collections.Counter()
    for tensor in cost.weights(model):
        dtypes[tensor.dtype.name.lower()] += tensor.nbytes
    return ModelSummary(
        size_bytes=size_bytes,
        nodes=sum(operators.values()),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        parameters=parameters,
        parameter_bytes=parameter_bytes,
        macs=macs,
        macs_unknown=macs_unknown,
        opsets=dict(model.opset_imports),
        dtypes=dict(dtypes.most_common()),
        inputs=tuple(_describe(v) for v in model.graph.inputs if not v.is_initializer()),
        outputs=tuple(_describe(v) for v in model.graph.outputs),
        ir_version=model.ir_version or 0,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
    )


def macs_label(model: ir.Model, *, sampled: bool) -> str:
    """Return what to call ``ModelSummary.macs``: how they are counted must not be missed."""
    inputs = (value for value in model.graph.inputs if not value.is_initializer())
    fixed = all(isinstance(dim, int) for value in inputs for dim in value.shape or ())
    return "MACs" if fixed else "MACs, first sample" if sampled else "MACs, open sizes 1"


def known_shapes(
    model: ir.Model, fed: Mapping[str, Sequence[int]] | None = None
) -> dict[ir.Value, ir.Shape | None]:
    """Return inferred shapes; none where onnx finds a contradiction in the model.

    Args:
        model: The model.
        fed: Name of an input -> its shape in the run in question; default: any run.
    """
    if fed is not None:
        return shapes.shapes_of_run(model, fed)
    try:
        return {value: shape for value, (_, shape) in shapes.infer(model).items()}
    except onnx.shape_inference.InferenceError:
        return {}


def _describe(value: ir.Value) -> str:
    dims = "?" if value.shape is None else ", ".join(str(dim) for dim in value.shape)
    kind = value.type
    dtype = str(kind) if kind is None or value.dtype is None else str(value.dtype).lower()
    return f"{value.name}: {dtype}[{dims}]"

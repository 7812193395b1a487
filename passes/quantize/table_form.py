"""Writes the lookup of an int8 table into a graph.

Before -> after::

    y = Gather(T, i)    ->    y = Mul(Cast(Gather(T8, i)), Gather(ST, i))

``T8`` is int8, symmetric, with one scale a row in ``ST`` ``[V, 1]``. Only the rows that are
looked up are turned into float; a DequantizeLinear in front of the Gather would turn the whole
table into float in every run (onnxruntime 1.31 does not fold it).
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.qparams import QParams, channel_absmax, symmetric
from graphopt.edit import Edit
from graphopt.rewrite import Reason

from .linear import Lookup, finite_array, read_lookup
from .selection import label
from .weights import WeightStore, drop_unused

__all__ = ["quantize_table", "read_table", "row_scales"]

MIN_TABLE = 4096
"""Elements of the smallest table worth looking up as integers: below 16 KiB the three nodes
more cost more than the bytes are worth."""


def read_table(node: ir.Node) -> Lookup | Reason | None:
    """Return ``node``, a Gather, as the lookup of a table worth quantizing, or why it is none.

    ``None`` where it looks up no weights at all.
    """
    lookup = read_lookup(node)
    if isinstance(lookup, Lookup):
        tensor = tensor_of(lookup.table)
        if tensor is not None and tensor.size < MIN_TABLE:
            return Reason(f"its table has {tensor.size} elements, fewer than {MIN_TABLE}")
    return lookup


def row_scales(lookup: Lookup) -> QParams:
    """Return symmetric parameters with one scale a row."""
    return symmetric(channel_absmax(finite_array(lookup.table), 0), 0)


def quantize_table(edit: Edit, op: Lookup, qparams: QParams, store: WeightStore) -> None:
    """Let ``op`` look up integers.

    Args:
        edit: The transaction.
        op: The lookup.
        qparams: One scale a row.
        store: Where int8 copies are found again.
    """
    node, (y,) = op.node, op.node.outputs
    table = finite_array(op.table)
    quantized = store.constant(
        edit,
        op.table,
        ("int8", 0, False),
        f"{op.table.name}_quantized",
        lambda: qparams.quantize(table),
    )
    scale = store.constant(
        edit, op.table, ("rows",), f"{op.table.name}_scale", lambda: qparams.scale[:, None]
    )
    stem = label(node)
    (rows,) = edit.node("Gather", [quantized, op.indices], before=node, name=stem)
    (number,) = edit.node(
        "Cast",
        [rows],
        before=node,
        attributes={"to": int(ir.DataType.FLOAT)},
        name=f"{stem}_Cast",
        like=[y],
    )
    (scales,) = edit.node("Gather", [scale, op.indices], before=node, name=f"{stem}_scale")
    (result,) = edit.node("Mul", [number, scales], before=node, name=f"{stem}_Mul", like=[y])
    if y.shape is not None:
        edit.set_type(rows, ir.TensorType(ir.DataType.INT8), y.shape.copy())
        shape = ir.Shape([*y.shape[:-1], 1])
        edit.set_type(scales, ir.TensorType(ir.DataType.FLOAT), shape)
    edit.replace(y, result)
    edit.remove(node)
    drop_unused(edit, op.table, [node])
    edit.note(f"table of {table.shape[0]} rows of {table.shape[1]} to int8")

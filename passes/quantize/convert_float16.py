"""Store weights as float16, and, where asked, compute with float16 too.

Before -> after (default: stored as float16, computed as float32)::

    y = MatMul(x, W)   ->   y = MatMul(x, Cast<to=float>(W16))

    (``compute=true``)  ->   y = Cast<to=float>(MatMul(Cast<to=float16>(x), W16))

The file is half as large. onnxruntime folds the Cast of a constant when it loads the model, so
that the first form runs exactly as fast as before and takes the memory it took before. With
``compute=true`` Casts stand only where a float16 value meets a float32 one; inputs and outputs
of the graph keep their types. onnxruntime has hardly any float16 kernel for x64 CPUs and puts
Casts around each operator: there this form is slower (figures in docs/quantize.md); it is
meant for devices that compute with float16.

Preconditions, per weight (per operator with ``compute=true``):
    1. The operators that use it are selected by ``include`` and ``exclude``.
    2. It is a float32 constant of ``min_elements`` elements at least, and not a graph output.
       (``compute=true``: constants of any size.)
    3. The operators that use it are linear in it, so that an error relative to its largest
       elements is what counts. (``compute=true``: the operator's definition allows float16,
       and it is none that is known to need more: powers, logarithms, long sums.)
    4. It is finite and no element is beyond 65504, the largest float16.
    5. What it loses is 60 dB below what it holds: less where elements are so small that
       float16 has few bits for them, or none.
    6. (``compute=true``, with samples) No activation around it comes within a factor of 2 of
       65504.

Numerics: lossy. An element is off by at most 2^-11 of itself, or by 3e-8 where that is more.
Scope: main graph and subgraphs; with ``compute=true`` the main graph.
Leaves alone: what is not float32 already. Run it last: folding would undo it.
Reference: IEEE 754-2019, binary16; onnxruntime 1.31, constant_folding.cc,
insert_cast_transformer.cc.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason

from .float16_compute import Float16Operators
from .float16_values import round_to_half
from .selection import Selection
from .weights import drop_unused, owner_node

__all__ = ["ConvertFloat16"]

logger = logging.getLogger(__name__)

_LINEAR = frozenset({
    "Add", "Concat", "Conv", "ConvTranspose", "Einsum", "Expand", "GRU", "Gather",
    "GatherElements", "GatherND", "Gemm", "LSTM", "MatMul", "Mul", "RNN", "Reshape",
    "Slice", "Sub", "Transpose", "Unsqueeze", "Attention", "FusedConv", "FusedGemm",
    "FusedMatMul", "MultiHeadAttention",
})  # fmt: skip
"""Operators, of any domain, whose answer is linear in their weights."""


@dataclasses.dataclass(frozen=True)
class ConvertFloat16(Pass):
    """Convert weights to float16; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators (an operator type, or a glob for the name of a node or
            of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        compute: Compute with float16 too.
        min_elements: Elements of the smallest weight that is worth a Cast of its own.
    """

    name: ClassVar[str] = "convert-float16"
    promise: ClassVar[Promise] = Promise.LOSSY
    after: ClassVar[frozenset[str]] = frozenset(
        {"fold-constants", "quantize-dynamic", "quantize-static", "quantize-weights"}
    )

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    compute: bool = False
    min_elements: int = 1024

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Convert weight by weight, or operator by operator."""
        selection = Selection(self.include, self.exclude)
        selection.check(ir.traversal.RecursiveGraphIterator(model.graph))
        if self.compute:
            return Float16Operators(self, selection, model, context).run()
        rewriter = context.rewriter(model, self)
        count = total = saved = 0
        for value in list(_constants(model)):
            total += 1
            half = self._half(value, selection)
            if isinstance(half, Reason):
                rewriter.skip(self.name, value.name or "", half.text)
                continue
            rewrite = functools.partial(_store, value=value, half=half)
            if rewriter.apply(self.name, value.name or "", rewrite) is not None:
                count += 1
                saved += half.nbytes
        summary = f"stored {count} of {total} weights as float16: {saved / 1e6:.1f} MB less"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)

    def _half(self, value: ir.Value, selection: Selection) -> npt.NDArray[Any] | Reason:
        users = value.consumers()
        # 1.
        for user in users:
            if refusal := selection.refusal(user):
                return Reason(refusal)
        # 2.
        tensor = tensor_of(value)
        assert tensor is not None
        if tensor.size < self.min_elements:
            return Reason(f"{tensor.size} elements are fewer than {self.min_elements}")
        if value.is_graph_output():
            return Reason("it is a graph output")
        # 3.
        for user in users:
            if user.op_type not in _LINEAR:
                return Reason(f"{user.op_type} is not linear in it")
        # 4. and 5.
        return round_to_half(np.asarray(tensor.numpy()))


def _constants(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the float32 constants that something uses, of the graph and its subgraphs."""
    for graph in (model.graph, *model.graph.subgraphs()):
        produced = (value for node in graph for value in node.outputs)
        for value in (*graph.initializers.values(), *produced):
            tensor = tensor_of(value)
            if tensor is not None and tensor.dtype == ir.DataType.FLOAT and value.uses():
                yield value


def _store(edit: Edit, value: ir.Value, half: npt.NDArray[Any]) -> None:
    """Let ``value`` come from a Cast of ``half``."""
    near = owner_node(value)
    stored = edit.constant(half, f"{value.name}_half", near=near)
    (full,) = edit.node(
        "Cast",
        [stored],
        before=near,
        attributes={"to": int(ir.DataType.FLOAT)},
        like=[value],
        name=f"{value.name}_Cast",
    )
    edit.replace(value, full)
    drop_unused(edit, value)
    edit.note(f"{half.size} elements stored as float16")

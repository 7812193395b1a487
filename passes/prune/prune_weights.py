"""Prune weights: set the elements that matter least to zero; the shapes stay.

Before -> after::

    y = MatMul(x, W)      W [768, 3072], 0.1 % zeros
    y = MatMul(x, W')     W' [768, 3072], 50 % zeros, stored sparse where that is smaller

Preconditions, per weight (one that fails is left alone and the reason recorded):
    1. It is a floating-point constant with two axes or more that Conv, ConvTranspose, Gemm,
       MatMul, LSTM, GRU or RNN multiply with, as it is or behind a Transpose, and not an
       input of the graph.
    2. ``include`` and ``exclude`` let it pass.
    3. No Gather looks rows up in it: it would be an embedding, too.
    4. All its elements are finite.

Numerics: lossy. Elements that are kept keep their bits, but by ``method=sparsegpt``.
Scope: main graph and subgraphs.
Leaves alone: biases, scales, embeddings. The latency: onnxruntime computes with zeros as with
any number and unfolds sparse constants when it loads a model (measured with 1.31.1: dense
4.02 ms, 90 % zeros 4.04 ms, the same stored sparse 4.01 ms), so only the file gets smaller. To
get faster, remove channels (``prune-channels``).
Reference: Han et al. 2015, "Learning both Weights and Connections", arXiv 1506.02626; Sun
et al. 2023 (Wanda), arXiv 2306.11695; Frantar & Alistarh 2023 (SparseGPT), arXiv 2301.00774;
sparse constants: https://onnx.ai/onnx/repo-docs/IR.html
"""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from graphopt.edit import Edit, Rewrite
from graphopt.model_io.tensors import SparseTensor
from graphopt.passbase import Context, Pass, PassResult, Promise

from .one_thread import one_thread
from .sparse_storage import SparseStore, sparse_bytes
from .weights import Weight, find_weights, matches, require_matches
from .zeroing import Zeroing, zeroed

__all__ = ["PruneWeights"]


@dataclasses.dataclass(frozen=True)
class PruneWeights(Pass):
    """Set the weights that matter least to zero; see the module docstring.

    Attributes:
        sparsity: Share of the elements that are zero afterwards, 0 to 1.
        method: ``magnitude``: the smallest elements go. ``wanda``: those whose size times that
            of what they read on the samples is smallest, the same share in every output.
            ``sparsegpt``: those whose loss costs least, and the others change to make up for
            it. Weights of which is not known what they read are pruned by magnitude.
        scope: ``layer``: every weight gets that share of zeros; ``global``: all of them
            together, so that weights with small elements lose more.
        pattern: ``"2:4"``: of every 4 neighbouring inputs of an output 2 are left, instead of
            ``sparsity``. ``"4x1"``: blocks of 4 outputs by 1 input are removed whole.
        include: Prune only weights that match one of these patterns, or are used by a node
            whose name or operator does, with ``*`` and ``?``. Empty: all.
        exclude: Leave weights alone that match one of these.
        storage: ``auto``: a weight is stored as a sparse constant where that is smaller and
            onnxruntime loads it; ``dense``: never.
        memory_limit: Bytes that sums over activations may take at a time for ``sparsegpt``.
    """

    name: ClassVar[str] = "prune-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    sparsity: float = 0.5
    method: Literal["magnitude", "wanda", "sparsegpt"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    pattern: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    storage: Literal["auto", "dense"] = "auto"
    memory_limit: int = 1 << 28

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be at least 0 and below 1, got {self.sparsity}")
        found = re.fullmatch(r"(\d+)([:x])(\d+)", self.pattern)
        if self.pattern and found is None:
            raise ValueError(f"pattern {self.pattern!r} is neither like 2:4 nor like 4x1")
        if found is not None:
            first, kind, second = int(found[1]), found[2], int(found[3])
            if not first > 0 or second < (first if kind == ":" else 1):
                raise ValueError(f"pattern {self.pattern!r} keeps nothing or everything")
            if self.scope == "global":
                raise ValueError("a pattern applies to every weight by itself")
            if self.method == "sparsegpt" and kind == "x":
                raise ValueError("sparsegpt removes single elements or n of m, not blocks")
        if self.scope == "global" and self.method != "magnitude":
            raise ValueError(f"{self.method} prunes every weight by itself")

    @one_thread()
    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Choose the zeros of every weight and write them."""
        rewriter = context.rewriter(model, self)
        weights: list[Weight] = []
        found = find_weights(model)
        names = [name for weight in found for name in weight.names]
        require_matches(names, include=self.include, exclude=self.exclude)
        for weight in found:
            if reason := self._why_not(weight):
                rewriter.skip("prune-weight", weight.name, reason)
            else:
                weights.append(weight)
        done = 0
        total = _Totals()
        store = SparseStore(context, self.storage)
        samples = None if self.method == "magnitude" else context.required_samples(self)
        for weight, data in zeroed(self._how(), weights, model, samples, context):
            tensor = store.tensor(data, weight)
            total.add(data, tensor)
            unchanged = np.array_equal(data, weight.tensor.numpy(), equal_nan=True)
            if unchanged and isinstance(tensor, SparseTensor) == isinstance(
                weight.tensor, SparseTensor
            ):
                continue
            rewrite = _setter(weight, tensor, float((data == 0).mean()))
            done += rewriter.apply("prune-weight", weight.name, rewrite) is not None
        return PassResult(
            model,
            modified=done > 0,
            summary=total.summary(len(weights)),
            details=dataclasses.asdict(total),
        )

    def _how(self) -> Zeroing:
        found = re.match(r"(\d*)([:x]?)(\d*)", self.pattern)
        assert found is not None, "every part of it may be missing"
        first, kind, second = found.groups()
        pair = (int(first), int(second)) if kind else None
        return Zeroing(
            self.method,
            self.sparsity,
            self.scope,
            pair if kind == ":" else None,
            pair if kind == "x" else None,
            self.memory_limit,
        )

    def _why_not(self, weight: Weight) -> str:
        if pattern := matches(weight, self.exclude):
            return f"it is excluded by {pattern!r}"
        if self.include and not matches(weight, self.include):
            return "it is not included"
        if any(node.op_type == "Gather" for node in weight.users):
            return "it is an embedding, too"
        if not np.isfinite(weight.tensor.numpy()).all():
            return "it has elements that are not finite"
        return ""


@dataclasses.dataclass
class _Totals:
    """What the report says.

    Attributes:
        elements: Elements of all the weights that were looked at.
        zeros: How many of them are zero.
        stored_sparse: Number of weights that are stored as sparse constants.
        size_bytes, size_bytes_after: Bytes of the weights, dense and as they are stored.
    """

    elements: int = 0
    zeros: int = 0
    stored_sparse: int = 0
    size_bytes: int = 0
    size_bytes_after: int = 0

    def add(self, data: np.ndarray, tensor: ir.TensorProtocol) -> None:
        """Count one weight."""
        left = int(np.count_nonzero(data))
        sparse = isinstance(tensor, SparseTensor)
        self.elements += data.size
        self.zeros += data.size - left
        self.stored_sparse += sparse
        self.size_bytes += data.nbytes
        self.size_bytes_after += sparse_bytes(data, left) if sparse else data.nbytes

    def summary(self, weights: int) -> str:
        """Return the line that the user reads."""
        share = self.zeros / self.elements if self.elements else 0.0
        return (
            f"{share:.1%} of {self.elements} elements of {weights} weights are zero; "
            f"{self.stored_sparse} stored sparse, "
            f"{self.size_bytes} -> {self.size_bytes_after} bytes; latency does not change: "
            "onnxruntime computes with zeros as with any number"
        )


def _setter(weight: Weight, tensor: ir.TensorProtocol, share: float) -> Rewrite:
    def rewrite(edit: Edit) -> None:
        sparse = ", stored sparse" if isinstance(tensor, SparseTensor) else ""
        edit.note(f"{weight.name}: {share:.1%} zeros{sparse}")
        if weight.value.is_initializer():
            edit.set_tensor(weight.value, tensor)
            return
        # The output of a Constant node, whose graph need not be that of the user.
        producer = weight.value.producer()
        assert producer is not None
        edit.replace(weight.value, edit.constant(tensor, weight.name, near=producer))
        edit.remove(producer)

    return rewrite

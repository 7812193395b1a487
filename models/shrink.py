"""Apply a pruning plan to the PyTorch network that an ONNX model was exported from.

    small = shrink(network, original, plan)        # the same indices of the same parameters
    adopt(small, pruned)                           # the weights that recovery has found

``plan`` is what ``prune-channels`` made (``graphopt optimize --json`` holds it, and it may be
edited); ``original`` the file that it was made for. Parameters are found by their name, which
both exporters keep as the name of an initializer as long as they do not fold constants: export
with ``optimize=False`` and prune that file before anything is fused.
"""

from __future__ import annotations

import copy
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from graphopt import model_io
from graphopt.analysis.coupling.graph import analyse
from graphopt.analysis.coupling.groups import find_groups
from graphopt.errors import PipelineError, nearest

from .errors import TrainingError

__all__ = ["adopt", "plan_of", "shrink"]

Kept = dict[str, tuple[np.ndarray, ...]]
"""Name of a constant -> for every index of each of its axes whether it is kept."""

_VECTORS = frozenset({"bias", "running_mean", "running_var"})
"""What a module holds beside its weight with the indices of its first axis."""

_WITH_VECTORS = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "LayerNormalization"}
)
"""Operators whose inputs are, as in PyTorch, weight, bias (mean, variance)."""


def plan_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a plan: a file of its own, or the report of ``graphopt optimize --json``.

    Raises:
        PipelineError: There is no plan in it.
    """
    try:
        data = json.loads(pathlib.Path(path).read_text("utf-8"))
        if "groups" in data:
            return dict(data)
        plans = [
            step["details"]["plan"] for step in data["steps"] if "plan" in step["details"]
        ]
        return dict(next(plan for plan in plans if "groups" in plan))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise PipelineError("bad-plan", f"{path} holds no plan of a pruning.") from error


def shrink(
    module: nn.Module,
    original: ir.Model | str | os.PathLike[str],
    plan: Mapping[str, Any],
    adjust: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Return a copy of ``module`` without what ``plan`` removes.

    Sizes that PyTorch's own layers keep in attributes (channels, features, groups, hidden
    size) follow their weights.

    Args:
        module: The network.
        original: What was exported from it, its names as they are in the network.
        plan: What is removed from every group.
        adjust: Called with the copy: sets what else says how large the network is, the width
            of a ``view`` for instance.

    Raises:
        PipelineError: The plan does not fit the model.
        TrainingError: A parameter is not in the model, or has another shape there.
    """
    model = original if isinstance(original, ir.Model) else model_io.load(original)
    kept = _kept(model, plan)
    small = copy.deepcopy(module)
    new: dict[int, torch.Tensor] = {}
    for prefix, part in small.named_modules():
        groups = _groups(part, kept.get(f"{prefix}.weight"))
        for name, tensor in [*part.named_parameters(recurse=False), *_buffers(part)]:
            if id(tensor) not in new:
                axes = _axes_of(prefix, name, tensor, part, kept)
                new[id(tensor)] = _taken(tensor, axes)
            setattr(part, name, new[id(tensor)])
        _resize(part, groups)
    if adjust is not None:
        adjust(small)
    return small


def adopt(module: nn.Module, pruned: ir.Model | str | os.PathLike[str]) -> int:
    """Copy the weights of ``pruned`` into the network of the same size; return how many.

    A bias that recovery has given to a Conv or Gemm is given to the layer as well.

    Raises:
        TrainingError: A weight has another shape.
    """
    model = pruned if isinstance(pruned, ir.Model) else model_io.load(pruned)
    values = model.graph.initializers
    count = 0
    for prefix, part in module.named_modules():
        beside = _beside(values.get(f"{prefix}.weight"))
        if "bias" in beside and getattr(part, "bias", beside) is None:
            bias = np.array(beside["bias"].numpy())
            part.bias = nn.Parameter(torch.from_numpy(bias))
        for name, tensor in [*part.named_parameters(recurse=False), *_buffers(part)]:
            full = f"{prefix}.{name}" if prefix else name
            stored = beside.get(name, getattr(values.get(full), "const_value", None))
            if stored is None:
                continue
            data = torch.from_numpy(np.array(stored.numpy()))
            if data.shape != tensor.shape:
                raise _other_shape(full, tuple(data.shape), tensor)
            with torch.no_grad():
                tensor.copy_(data)
            count += 1
    return count


def _kept(model: ir.Model, plan: Mapping[str, Any]) -> Kept:
    dimensions = find_groups(analyse(model))
    groups = {group.name: group for group in dimensions.groups}
    dead = np.zeros(dimensions.atom_count, bool)
    for name, size, removed in _entries(plan):
        if not removed:
            continue
        group = groups.get(name)
        if group is None or group.size != size:
            raise PipelineError(
                "bad-plan",
                f"the model has no group {name!r} of {size} indices.",
                hint=nearest(name, groups),
            )
        if group.reason:
            raise PipelineError("bad-plan", f"group {name!r} cannot be cut: {group.reason}.")
        if min(removed) < 0 or max(removed) >= size or len(removed) == size:
            raise PipelineError(
                "bad-plan",
                f"group {name!r} has indices 0 to {size - 1}; "
                "the plan removes others, or all.",
            )
        dead[group.atoms[sorted(removed)]] = True
    kept: Kept = {}
    for site in dimensions.coupling.sites:
        axes = tuple(
            np.ones(1, bool) if axis.size == 1 else dimensions.alive(axis, dead)
            for axis in site.axes
        )
        # Exporters take the gates of an LSTM's bias apart: what one use of a vector does not
        # read, it keeps.
        before = kept.get(site.name, axes)
        kept[site.name] = tuple(map(np.logical_and, before, axes))
    return kept


def _entries(plan: Mapping[str, Any]) -> list[tuple[str, int, set[int]]]:
    """Return name, size and what is removed of every group; the file may have been edited."""
    try:
        return [
            (str(entry["name"]), int(entry["size"]), set(map(int, entry["removed"])))
            for entry in plan["groups"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise PipelineError("bad-plan", "a group of the plan is not well-formed.") from error


def _buffers(part: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, one) for name, one in part.named_buffers(recurse=False) if one.ndim]


def _axes_of(
    prefix: str, name: str, tensor: torch.Tensor, part: nn.Module, kept: Kept
) -> tuple[np.ndarray, ...]:
    """Return for every index of each axis of a parameter whether it is kept."""
    full = f"{prefix}.{name}" if prefix else name
    axes = kept.get(full, ())
    weight = kept.get(f"{prefix}.weight", ())
    if name in _VECTORS and weight and not _transposed(part):
        # Its own name may stand for an equal vector of other layers, too.
        axes = weight[:1]
    if not axes and not isinstance(tensor, nn.Parameter):
        return tuple(np.ones(size, bool) for size in tensor.shape)  # it is not exported
    if not axes:
        raise TrainingError(
            "not-exported",
            f"parameter {full!r} is no initializer of the model.",
            hint="Export the trained network with optimize=False, and prune that file.",
        )
    if tuple(map(len, axes)) != tuple(tensor.shape):
        raise _other_shape(full, tuple(map(len, axes)), tensor)
    return axes


def _taken(tensor: torch.Tensor, axes: tuple[np.ndarray, ...]) -> torch.Tensor:
    data = tensor.detach()
    for number, axis in enumerate(axes):
        data = data.index_select(number, torch.from_numpy(np.nonzero(axis)[0]))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data.clone(), requires_grad=tensor.requires_grad)
    return data.clone()


def _transposed(part: nn.Module) -> bool:
    return isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)


def _groups(part: nn.Module, weight: tuple[np.ndarray, ...] | None) -> int:
    """Return how many groups of a Conv or GroupNorm keep channels; 1 for other layers."""
    match part:
        case nn.GroupNorm():
            groups = part.num_groups
        case nn.modules.conv._ConvNd():
            groups = part.groups
        case _:
            return 1
    return int(weight[0].reshape(groups, -1).any(axis=1).sum()) if weight else groups


def _resize(part: nn.Module, groups: int) -> None:
    """Set the sizes that a layer of PyTorch keeps beside its weights."""
    match part:
        case nn.modules.conv._ConvNd():
            first, second = part.weight.shape[0], part.weight.shape[1] * groups
            part.groups = groups
            inputs, outputs = (first, second) if _transposed(part) else (second, first)
            part.in_channels, part.out_channels = inputs, outputs
        case nn.Linear():
            part.out_features, part.in_features = part.weight.shape
        case nn.modules.batchnorm._NormBase():
            held = part.weight if part.running_mean is None else part.running_mean
            if held is not None:
                part.num_features = len(held)
        case nn.GroupNorm() if part.affine:
            part.num_groups, part.num_channels = groups, len(part.weight)
        case nn.LayerNorm() | nn.RMSNorm() if part.elementwise_affine:
            part.normalized_shape = tuple(part.weight.shape)
        case nn.Embedding():
            part.num_embeddings, part.embedding_dim = part.weight.shape
        case nn.LSTM() | nn.GRU() | nn.RNN():
            part.hidden_size = part.get_parameter("weight_hh_l0").shape[1]
            part.input_size = part.get_parameter("weight_ih_l0").shape[1]
            part.flatten_parameters()
        case _:
            pass


def _beside(weight: ir.Value | None) -> dict[str, ir.TensorProtocol]:
    """Return the vectors of the one node that uses ``weight``, by their name in PyTorch.

    Exporters store equal vectors of several layers once, under the name of one of them.
    """
    uses = list(weight.uses()) if weight is not None else []
    if len(uses) != 1 or uses[0].idx != 1 or uses[0].node.op_type not in _WITH_VECTORS:
        return {}
    vectors = zip(
        ("bias", "running_mean", "running_var"), uses[0].node.inputs[2:], strict=False
    )
    return {
        name: value.const_value
        for name, value in vectors
        if value is not None and value.const_value is not None
    }


def _other_shape(name: str, found: tuple[int, ...], tensor: torch.Tensor) -> TrainingError:
    return TrainingError(
        "shape",
        f"{name!r} is {list(found)} in the model and {list(tensor.shape)} in the network.",
        hint="Was the model exported from this network, without folding constants?",
    )

"""Write a PyTorch module as an ONNX file and compare the two.

PyTorch has two exporters. ``dynamo`` is its default (``torch.export``, then translation);
``torchscript`` is the older one, which traces. Networks in the field come from both, and they
leave very different graphs behind.

Reference: https://docs.pytorch.org/docs/2.13/onnx_export.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from graphopt.runtime import Runtime

from .errors import ExportError

__all__ = ["EXPORTERS", "TOLERANCE", "Interface", "check", "export"]

EXPORTERS = ("dynamo", "torchscript")

TOLERANCE = 1e-4
"""Largest difference of an output between PyTorch and onnxruntime, as a share of 1 + its
largest magnitude. Both compute in float32 and sum in other orders; the digit networks differ
by less than 1e-6, the deepest of the benchmark networks by 2e-5."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """Names and dynamic dimensions of an exported model.

    Attributes:
        inputs: Names of the inputs, in the order of ``forward``'s arguments.
        outputs: Names of the outputs.
        dynamic: Name of an input or output -> axis -> name of the dimension.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]]


def export(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    interface: Interface,
    path: str | os.PathLike[str],
    exporter: str = "dynamo",
    optimize: bool = True,
) -> None:
    """Write ``module``, in evaluation mode, to ``path``: whole or not at all, in one file.

    Args:
        module: The network; its mode is restored afterwards.
        example: One tensor an input. Dynamic dimensions must be larger than 1 in it, or
            ``torch.export`` takes them for constants.
        interface: Names and dynamic dimensions.
        path: The file; replaced where it exists.
        exporter: ``"dynamo"`` or ``"torchscript"``.
        optimize: Let the exporter simplify the graph (``dynamo``) or fold constants
            (``torchscript``). Without, the graph is what the translation left.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    training = module.training
    module.eval()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            draft = pathlib.Path(folder) / target.name
            with _quiet():
                if exporter == "torchscript":
                    _torchscript(module, example, interface, draft, optimize)
                else:
                    _dynamo(module, example, interface, draft, optimize)
            with draft.open("rb+") as stream:
                os.fsync(stream.fileno())
            draft.replace(target)
    except (RuntimeError, TypeError, ValueError, torch.onnx.OnnxExporterError) as error:
        raise ExportError(
            "failed",
            f"{type(module).__name__} cannot be exported with {exporter!r}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error)}",
            hint="Try the other exporter.",
        ) from error
    finally:
        module.train(training)


def _dynamo(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    interface: Interface,
    path: pathlib.Path,
    optimize: bool,
) -> None:
    dims = tuple(dict(interface.dynamic.get(name, {})) or None for name in interface.inputs)
    # A module that takes *args has one parameter: a tuple.
    shapes: tuple[object, ...] = (dims,) if isinstance(module, Flat) else dims
    torch.onnx.export(
        module,
        tuple(example),
        path,
        input_names=list(interface.inputs),
        output_names=list(interface.outputs),
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        optimize=optimize,
        verbose=False,
    )


def _torchscript(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    interface: Interface,
    path: pathlib.Path,
    optimize: bool,
) -> None:
    torch.onnx.export(
        module,
        tuple(example),
        path,
        input_names=list(interface.inputs),
        output_names=list(interface.outputs),
        dynamic_axes={name: dict(axes) for name, axes in interface.dynamic.items()},
        dynamo=False,
        do_constant_folding=optimize,
    )


class Flat(nn.Module):
    """A module of keyword arguments and a structured result, as one of tensors only.

    Args:
        inner: The module, for instance a network of transformers.
        arguments: Its keyword of each input, in order.
        results: How many of its results to give back, from the first.
    """

    def __init__(self, inner: nn.Module, arguments: Sequence[str], results: int = 1) -> None:
        super().__init__()
        self.inner = inner
        self.arguments = tuple(arguments)
        self.results = results

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give the first results of the inner module."""
        outputs = self.inner(**dict(zip(self.arguments, inputs, strict=True)))
        return tuple(outputs[index] for index in range(self.results))


def check(
    module: nn.Module,
    path: str | os.PathLike[str],
    interface: Interface,
    batches: Sequence[Sequence[torch.Tensor]],
    tolerance: float = TOLERANCE,
) -> float:
    """Compare the file with the module on ``batches``; return the largest difference.

    The difference of an output is its largest absolute difference over 1 + its largest
    magnitude. onnxruntime's own optimizations are off, so that only the export is judged.

    Raises:
        ExportError: A difference is larger than ``tolerance``, or an output is not finite.
        ExecutionError: onnxruntime does not run the file.
    """
    training = module.training
    module.eval()
    worst = 0.0
    try:
        with Runtime() as runtime, runtime.session(path, optimize=False) as session:
            for batch in batches:
                with torch.no_grad():
                    expected = module(*batch)
                if isinstance(expected, torch.Tensor):
                    expected = (expected,)
                feeds = {n: t.numpy() for n, t in zip(interface.inputs, batch, strict=True)}
                found = session.run(feeds)
                for name, wanted in zip(interface.outputs, expected, strict=True):
                    difference = _difference(wanted.numpy(), found[name])
                    if not difference <= tolerance:
                        raise ExportError(
                            "differs",
                            f"{os.fspath(path)}: output {name!r} differs from PyTorch by "
                            f"{difference:.2g} at a batch of {len(batch[0])}; "
                            f"at most {tolerance:g} was expected.",
                            hint="Try the other exporter.",
                        )
                    worst = max(worst, difference)
    finally:
        module.train(training)
    return worst


def _difference(wanted: np.ndarray, found: np.ndarray) -> float:
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    scale = 1.0 + float(np.abs(wanted).max(initial=0.0))
    return float(np.abs(wanted - found).max(initial=0.0)) / scale


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' chatter about themselves off the console.

    They print progress, warn that the older one is the older one, that shapes were traced and
    that torchvision is not there. What goes wrong is an exception all the same.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""Which operators onnxruntime turns into integer kernels, and between which Q and DQ.

onnxruntime runs ``DequantizeLinear -> operator -> QuantizeLinear`` on an integer kernel, or it
runs the operator in float and pays for every Q and DQ around it. Which of the two is decided
when the model is loaded. The tables say what the placement has to look like; they are
measured, not read from documentation (``tests/runtime/test_fusion_knowledge.py`` builds every
pattern, loads it and counts the nodes), and there is one for each release from which on
something differs.

To add a row, put the release into a folder of its own and run the patterns with it::

    pip install --no-deps --target ort-1.32 onnxruntime==1.32.0
    PYTHONPATH=ort-1.32 python -m pytest tests/runtime/test_fusion_knowledge.py

What fails is what differs: state it in a table here, and in ``tests/runtime/fusion_since.py``
what the patterns become from that release on.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["MEASURED", "Inputs", "Kernel", "Output", "kernels"]

logger = logging.getLogger(__name__)


class Inputs(enum.Enum):
    """Which inputs of an operator are activations; each of them needs a DQ of its own."""

    FIRST = "first"
    """The first; the others are weights, or numbers that say what to do."""
    ALL = "all"
    """All of them; constants among them need a DQ too."""
    BRANCHES = "branches"
    """All but the first, which is a condition."""


class Output(enum.Enum):
    """What an operator needs behind it to run on integers."""

    QUANTIZED = "quantized"
    """A Q behind every output; nothing else may use the float value."""
    EITHER = "either"
    """A Q, or nothing: there is a kernel that returns float."""
    SAME = "same"
    """A Q with the very scale and zero point of the input: the operator moves integers."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What onnxruntime needs around one operator.

    Attributes:
        inputs: Which inputs need a DQ.
        output: What has to stand behind it.
        has_weights: Whether the second input is a constant int8 weight, the third its bias.
            Its integer kernel is what one quantizes for; the others are worth it only where
            their inputs are integers anyway and something behind them takes integers.
        fixed_range: The range of its output, where that is known beforehand.
        minimum_opset: Version of the operator set from which on the kernel takes integers.
        requires: Attribute values without which there is no integer kernel.
    """

    inputs: Inputs = Inputs.FIRST
    output: Output = Output.QUANTIZED
    has_weights: bool = False
    fixed_range: tuple[float, float] | None = None
    minimum_opset: int = 10
    requires: Mapping[str, object] = dataclasses.field(default_factory=dict)


_MOVES = Kernel(output=Output.SAME)
_ELEMENTWISE = Kernel(inputs=Inputs.ALL)

# Measured with onnxruntime 1.27.0 and 1.31.1, CPUExecutionProvider, x64, all optimizations.
_1_27: dict[str, Kernel] = {
    "Conv": Kernel(has_weights=True),
    "Gemm": Kernel(output=Output.EITHER, has_weights=True),
    "MatMul": Kernel(output=Output.EITHER, has_weights=True),
    "Add": _ELEMENTWISE,
    "Mul": _ELEMENTWISE,
    "Concat": _ELEMENTWISE,
    "Where": Kernel(inputs=Inputs.BRANCHES),
    "Sigmoid": Kernel(fixed_range=(0.0, 1.0)),
    "Softmax": Kernel(fixed_range=(0.0, 1.0)),
    "LeakyRelu": Kernel(),
    "AveragePool": Kernel(),
    "GlobalAveragePool": Kernel(),
    "MaxPool": dataclasses.replace(_MOVES, minimum_opset=12),
    "Resize": dataclasses.replace(_MOVES, requires={"mode": "nearest"}),
    "ReduceMax": dataclasses.replace(_MOVES, minimum_opset=12),
    "ReduceMin": dataclasses.replace(_MOVES, minimum_opset=12),
    **dict.fromkeys(
        (
            "DepthToSpace",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "Reshape",
            "Slice",
            "Split",
            "Squeeze",
            "Tile",
            "Transpose",
            "Unsqueeze",
        ),
        _MOVES,
    ),
}

# Measured with 1.23.2, 1.24.4, 1.25.1 and 1.26.0: Resize in any mode moves integers.
_1_23: dict[str, Kernel] = {**_1_27, "Resize": _MOVES}

_SINCE: tuple[tuple[tuple[int, int], Mapping[str, Kernel]], ...] = (
    ((1, 27), MappingProxyType(_1_27)),
    ((1, 23), MappingProxyType(_1_23)),
)
"""First minor release -> its table, newest first."""

MEASURED = ((1, 23), (1, 31))
"""The oldest and the newest minor release that the patterns were run with."""


def kernels(version: str = "") -> Mapping[str, Kernel]:
    """Return operator -> what it needs, of the ONNX domain, for a release of onnxruntime.

    Args:
        version: E.g. ``"1.31.1"``; empty for the newest that is known. A release older than
            all tables gets the oldest, a newer one the newest: the knowledge is checked on
            the result, so that a table that does not fit costs speed and not correctness.
    """
    if version:
        major, minor = (int(part) for part in version.split(".")[:2])
        release = (major, minor)
        oldest, newest = MEASURED
        if not oldest <= release <= newest:
            logger.warning(
                "onnxruntime %s was not measured (%d.%d to %d.%d were); what is known of the "
                "nearest release is used, and checked on the result",
                *(version, *oldest, *newest),
            )
        for since, table in _SINCE:
            if release >= since:
                return table
        return _SINCE[-1][1]
    return _SINCE[0][1]

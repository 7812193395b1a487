"""How far an output of one model is from that of another; streamed, sample by sample."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from graphopt.fillings import Scale, same_bits, scale_of, wide

__all__ = ["Difference", "DifferenceMeter", "Tolerance"]

# Elements that are looked at together: they stay in the cache, and OpenBLAS adds them up with
# one thread. Two take 12 times as long where the cores have other work (graphopt.quality).
_CHUNK = 1 << 13
# Part of the largest element of an output that counts as size of each of its elements.
_SCALE = 0.1
# Samples that are remembered for their errors.
_MOST_WORST = 4


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What may lie between two outputs that differ in the order of float operations only.

    An element ``r`` of the reference allows an error of ``atol + rtol * (|r| + M / 10)``,
    where ``M`` is the largest absolute value of that output in that sample. The error of a sum
    comes from the size of its terms and not from that of the result, which may be near zero,
    hence ``M``; by ``M`` alone small scores next to large coordinates would not be looked at.
    The fillings of a mask do not count for ``M`` (see ``graphopt.fillings``).

    The default is five times what onnxruntime's own optimizations do to the outputs of 22
    float32 models (ResNet, MobileNet, ViT, Swin, ConvNeXt, BERT, GPT-2, Llama, speech, text
    recognition): at most 2.1e-5.

    Attributes:
        rtol: Relative to the element, and a tenth of it to the largest element.
        atol: Absolute.
    """

    rtol: float = 1e-4
    atol: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.rtol < math.inf and 0 <= self.atol < math.inf):
            raise ValueError(f"a tolerance is a number >= 0, got {self}")

    def scaled(self, factor: float) -> Tolerance:
        """Return a tolerance that allows ``factor`` times as much."""
        return Tolerance(self.rtol * factor, self.atol * factor)

    def __str__(self) -> str:
        return f"rtol={self.rtol:.2g}" + (f", atol={self.atol:.2g}" if self.atol else "")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one output is from the reference, over all samples.

    Attributes:
        elements: Elements compared.
        finite: Those of them that are finite in both; all, where the type is no float.
        equal: Share of elements with the same bits (all NaN count as the same).
        zero_signs: Elements that differ in the sign of a zero only.
        max_abs, mean_abs: Largest and mean absolute error of the finite elements.
        max_rel, mean_rel: The same relative to the reference's element, where that is not 0.
        tolerance: What the elements were held against.
        needed: How many times the tolerance would have passed; at most 1 if it did.
        cosine: Cosine of the outputs as vectors, all samples together; NaN where one is 0. Of
            floats without fillings of masks, and so is ``sqnr_db``.
        cosine_min: The least cosine of a single sample.
        sqnr_db: Energy of the reference over that of the error, in dB; infinite if equal.
        top1: Share of rows with the largest element at the same place of the last axis;
            ``None`` where the type is no float or that axis has fewer than two elements.
        magnitude: Largest absolute value of the reference, fillings of masks aside.
        worst_sample: Index of the sample with the largest absolute error; ``None``: no sample.
        worst: The few samples with the largest absolute errors, the largest first: index and
            error, which is infinite where an element is NaN or infinite in one output only.
        not_finite: Elements that are NaN or infinite in one output and not the same in the
            other; ``lost``: those of them that are finite in the reference.
    """

    elements: int
    finite: int
    equal: float
    zero_signs: int
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    tolerance: Tolerance
    needed: float
    cosine: float
    cosine_min: float
    sqnr_db: float
    top1: float | None
    magnitude: float
    worst_sample: int | None
    not_finite: int
    lost: int
    worst: tuple[tuple[int, float], ...] = ()


class DifferenceMeter:
    """Accumulates the ``Difference`` of one output.

    Args:
        tolerance: What ``Difference.needed`` is a multiple of.
    """

    def __init__(self, tolerance: Tolerance | None = None) -> None:
        self.tolerance = tolerance or Tolerance()
        self._elements = self._same = self._finite = self._nonzero = 0
        self._zero_signs = self._not_finite = self._lost = 0
        self._max_abs = self._max_rel = self._needed = self._magnitude = 0.0
        self._sum_abs = self._sum_rel = 0.0
        self._energies = np.zeros(4)  # reference * other, reference², other², error²
        self._cosine_min = math.inf
        self._rows = self._same_rows = 0
        self._worst: list[tuple[int, float]] = []

    def add(self, sample: int, reference: np.ndarray, other: np.ndarray) -> None:
        """Take in one sample.

        Args:
            sample: Its index.
            reference: The output of the reference.
            other: The other output: the same type and shape.
        """
        a, b = np.ravel(reference), np.ravel(other)
        if reference.dtype.kind == "c":
            a, b = a.view(a.real.dtype), b.view(b.real.dtype)
        self._elements += a.size
        if reference.dtype.kind in "OSUTb":
            same = int(np.count_nonzero(a == b))
            self._same += same
            self._finite += a.size
            self._note_worst(sample, float(same < a.size))
            return
        if _is_float(reference) and reference.ndim and reference.shape[-1] >= 2:
            self._add_rows(reference, other)
        chunks = [slice(at, at + _CHUNK) for at in range(0, a.size, _CHUNK)]
        scale = scale_of(((a[chunk], b[chunk]) for chunk in chunks), _is_float(reference))
        self._magnitude = max(self._magnitude, scale.magnitude)
        energies, worst = np.zeros(4), 0.0
        for chunk in chunks:
            worst = max(worst, self._add_chunk(a[chunk], b[chunk], scale, energies))
        self._energies += energies
        if energies[1] and energies[2]:
            self._cosine_min = min(self._cosine_min, _cosine(energies))
        self._note_worst(sample, worst)

    def _add_rows(self, reference: np.ndarray, other: np.ndarray) -> None:
        width = reference.shape[-1]
        tops = [_narrow(array).reshape(-1, width).argmax(-1) for array in (reference, other)]
        self._rows += len(tops[0])
        self._same_rows += int(np.count_nonzero(tops[0] == tops[1]))

    def _add_chunk(
        self, reference: np.ndarray, other: np.ndarray, scale: Scale, energies: np.ndarray
    ) -> float:
        """Take in a part of a sample; return its largest absolute error."""
        a, same = wide(reference), same_bits(reference, other)
        if same.all() and not scale.fillings and math.isfinite(energy := float(a @ a)):
            # Most of what two models compute is the same; the rest of this takes longer.
            self._same += a.size
            self._finite += a.size
            self._nonzero += int(np.count_nonzero(a))
            energies += (energy, energy, energy, 0.0)
            return 0.0
        b = wide(other)
        equal = same | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(a) & np.isfinite(b)
        odd = ~finite & ~equal
        self._same += int(np.count_nonzero(equal))
        self._not_finite += int(np.count_nonzero(odd))
        self._lost += int(np.count_nonzero(odd & np.isfinite(a)))
        self._zero_signs += int(np.count_nonzero(~equal & (a == 0) & (b == 0)))
        if not finite.all():
            a, b = a[finite], b[finite]
        self._finite += a.size
        # The difference of two finite numbers may be infinite, and so may a square or a sum.
        with np.errstate(over="ignore"):
            error = np.abs(a - b)
            size = np.abs(a)
            if scale.fillings:
                counted = scale.counted(a, b)
                energies += _energies(a[counted], b[counted], error[counted])
            else:
                energies += _energies(a, b, error)
            sizes = size + _SCALE * scale.magnitude
            allowed = self.tolerance.atol + self.tolerance.rtol * sizes
        wrong = error > 0
        if wrong.any():
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                factors = error[wrong] / allowed[wrong]
                relative = error[size > 0] / size[size > 0]
                self._sum_abs += float(error.sum())
                self._sum_rel += float(relative.sum())
            # Infinite by infinite is no number, and must not pass for a small one.
            factors[np.isnan(factors)] = math.inf
            self._needed = max(self._needed, float(factors.max()))
            self._max_abs = max(self._max_abs, float(error.max()))
            self._max_rel = max(self._max_rel, float(relative.max(initial=0.0)))
        self._nonzero += int(np.count_nonzero(size))
        return math.inf if odd.any() else float(error.max(initial=0.0))

    def _note_worst(self, sample: int, error: float) -> None:
        self._worst.append((sample, error))
        # The sort is stable: of equal errors that of the earlier sample stays first.
        self._worst.sort(key=lambda pair: -pair[1])
        del self._worst[_MOST_WORST:]

    def result(self) -> Difference:
        """Return the figures of what was taken in so far."""
        _, energy, other, noise = self._energies.tolist()
        sqnr = math.inf
        if noise:
            # Of the logarithms: the quotient may not be representable.
            bound = not energy or math.isinf(noise)
            sqnr = -math.inf if bound else 10 * (math.log10(energy) - math.log10(noise))
        return Difference(
            elements=self._elements,
            finite=self._finite,
            equal=self._same / self._elements if self._elements else math.nan,
            zero_signs=self._zero_signs,
            max_abs=self._max_abs,
            mean_abs=self._sum_abs / self._finite if self._finite else 0.0,
            max_rel=self._max_rel,
            mean_rel=self._sum_rel / self._nonzero if self._nonzero else 0.0,
            tolerance=self.tolerance,
            needed=self._needed,
            cosine=_cosine(self._energies) if energy and other else math.nan,
            cosine_min=self._cosine_min if self._cosine_min < math.inf else math.nan,
            sqnr_db=sqnr,
            top1=self._same_rows / self._rows if self._rows else None,
            magnitude=self._magnitude,
            worst_sample=self._worst[0][0] if self._worst else None,
            not_finite=self._not_finite,
            lost=self._lost,
            worst=tuple(self._worst),
        )


def _energies(a: np.ndarray, b: np.ndarray, error: np.ndarray) -> tuple[float, ...]:
    return a @ b, a @ a, b @ b, error @ error


def _cosine(energies: np.ndarray) -> float:
    dot, first, second, _ = energies.tolist()
    # Of the roots: the product of the squares may not be representable.
    return float(min(1.0, max(-1.0, dot / math.sqrt(first) / math.sqrt(second))))


def _is_float(array: np.ndarray) -> bool:
    # "V": the floats of ml_dtypes; its integers of 4 bits are told by their names.
    return array.dtype.kind == "f" or (
        array.dtype.kind == "V" and "int" not in str(array.dtype)
    )


def _narrow(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" else array

"""How stored values become network input: one clamp between two affine steps.

stored ─▶ u = clip(stored * scale + offset, 0, 1) ─▶ (pad with u = 0) ─▶ y = u * gain + bias
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import PlanError
from preprocess.spec import HuWindow, IntensitySpec, PercentileZScore

__all__ = ("IntensityPlan", "plan_intensity")

INT16_VALUES = np.arange(-32768, 32768, dtype=np.float64)
CHUNK_VOXELS = 1 << 20
SMALLEST_SD = 1e-6


@dataclass(frozen=True)
class IntensityPlan:
    """What is done to every pixel of a series.

    Attributes:
        scale: Factor on the stored value.
        offset: Added to it; the result is clamped to 0 to 1.
        gain: Factor on the clamped value.
        bias: Added to it.
    """

    scale: float
    offset: float
    gain: float
    bias: float


def plan_intensity(
    spec: IntensitySpec,
    stored: NDArray[np.int16],
    slope: float,
    intercept: float,
    *,
    inverted: bool = False,
) -> IntensityPlan:
    """Chooses the two affine steps for a whole series.

    Contract:
        - The plan depends on the set of voxels only, not on their order.
        - A constant series gives zero everywhere, never NaN.

    Args:
        spec: The model's rule.
        stored: Every stored value of the series, any shape.
        slope: Modality units per stored unit (Rescale Slope, PS3.3 C.7.6.16.2.9, C.11.1).
        intercept: Modality units at stored value 0 (Rescale Intercept).
        inverted: Whether large values mean dark (MONOCHROME1). A HU window ignores it, because
            Hounsfield units mean the same however they are displayed.

    Raises:
        PlanError: No voxels, not int16, or slope and intercept are not usable numbers.
    """
    if stored.dtype != np.int16 or stored.size == 0:
        raise PlanError(f"expected int16 voxels, got {stored.size} of {stored.dtype}")
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise PlanError(f"expected a rescale slope other than 0, got {slope} and {intercept}")
    if isinstance(spec, HuWindow):
        return _plan_window(spec, slope, intercept)
    return _plan_percentiles(spec, _histogram(stored), falling=(slope < 0) != inverted)


def _plan_window(spec: HuWindow, slope: float, intercept: float) -> IntensityPlan:
    width = spec.hu_high - spec.hu_low
    return IntensityPlan(slope / width, (intercept - spec.hu_low) / width, 1.0, 0.0)


def _plan_percentiles(
    spec: PercentileZScore, counts: NDArray[np.int64], *, falling: bool
) -> IntensityPlan:
    """Zero mean and unit variance over the foreground, after clipping at two percentiles.

    ``falling`` means that brightness falls as the stored value grows. Where both percentiles
    coincide, as with a small object on an empty ground, the full range takes their place.
    """
    percentiles = (spec.low_percentile, spec.high_percentile)
    if falling:
        percentiles = (100 - percentiles[1], 100 - percentiles[0])
    low, high = (_percentile(counts, percentile) for percentile in percentiles)
    if low == high:
        low, high = _percentile(counts, 0), _percentile(counts, 100)
    if low == high:
        return IntensityPlan(0.0, 0.0, 1.0, 0.0)
    scale, offset = 1 / (high - low), -low / (high - low)
    if falling:
        scale, offset = -scale, 1 - offset
    u = np.clip(INT16_VALUES * scale + offset, 0, 1)
    mean, sd = _moments(u, np.where(u > spec.foreground, counts, 0))
    gain = 1 / sd if sd > SMALLEST_SD else 1.0
    return IntensityPlan(scale, offset, gain, -mean * gain)


def _histogram(stored: NDArray[np.int16]) -> NDArray[np.int64]:
    """Exact count of each of the 65536 int16 values, lowest first."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    flat = stored.reshape(-1)
    for start in range(0, flat.size, CHUNK_VOXELS):
        values = flat[start : start + CHUNK_VOXELS].astype(np.int64) + 32768
        counts += np.bincount(values, minlength=1 << 16)
    return counts


def _percentile(counts: NDArray[np.int64], percentile: float) -> float:
    """The percentile with linear interpolation, as ``numpy.percentile`` defines it."""
    upto = np.cumsum(counts)
    rank = percentile / 100 * (int(upto[-1]) - 1)
    below, above = math.floor(rank), math.ceil(rank)
    first, second = INT16_VALUES[np.searchsorted(upto, [below + 1, above + 1])]
    return float(first + (second - first) * (rank - below))


def _moments(values: NDArray[np.float64], weights: NDArray[np.int64]) -> tuple[float, float]:
    """Weighted mean and standard deviation; (0, 0) where there is no weight."""
    total = int(weights.sum())
    if total == 0:
        return 0.0, 0.0
    mean = float(values @ weights) / total
    return mean, math.sqrt(float((values - mean) ** 2 @ weights) / total)

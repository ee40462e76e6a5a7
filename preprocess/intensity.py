"""How stored values become network input: one clamp between two affine steps.

stored ─▶ u = clip(stored * scale + offset, 0, 1) ─▶ y = u * gain + bias
               padding low: with u = 0 here ──────┘ └────── padding zero: with y = 0 here
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import PlanError
from preprocess.normalisation import (
    HuWindow,
    IntensitySpec,
    PercentileRange,
    PercentileZScore,
    ZScore,
    ZScoreRegion,
)

__all__ = ("IntensityPlan", "plan_intensity")

INT16_VALUES = np.arange(-32768, 32768, dtype=np.float64)
CHUNK_VOXELS = 1 << 16
"""Few enough to stay in a core's own cache while they are counted, and mostly of a narrow range."""
SMALLEST_SD = 1e-6
ZERO_TOLERANCE = 1e-6
"""Of one stored unit: slope and intercept are often decimal fractions."""


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
        - The plan depends on the set of voxels only, not on their order; that of a z-score over
          the nonzero box also on where those are whose modality value is 0.
        - u = 0 is the darkest value, and y does not fall as u grows.
        - A constant series gives zero everywhere with either z-score (so does a constant nonzero
          box), ``low_value`` with a percentile range; never NaN.

    Args:
        spec: The model's rule.
        stored: Every stored value of the series [slices, rows, columns].
        slope: Modality units per stored unit (Rescale Slope, PS3.3 C.7.6.16.2.9, C.11.1).
        intercept: Modality units at stored value 0 (Rescale Intercept).
        inverted: Whether large values mean dark (MONOCHROME1). Percentiles are taken of the
            brightness that is displayed. A window and a z-score ignore it: they are about modality
            values, which mean the same however they are displayed (PS3.3 C.7.6.3.1.2), and are
            all that the readers of nnU-Net and MONAI see.

    Raises:
        PlanError: No voxels, not int16, or slope and intercept are not usable numbers.
    """
    if stored.dtype != np.int16 or stored.size == 0:
        raise PlanError(f"expected int16 voxels, got {stored.size} of {stored.dtype}")
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise PlanError(f"expected a rescale slope other than 0, got {slope} and {intercept}")
    match spec:
        case HuWindow():
            return _plan_window(spec, slope, intercept)
        case ZScore():
            return _plan_zscore(spec, stored, slope, intercept)
        case PercentileZScore():
            return _plan_percentile_zscore(spec, _histogram(stored), (slope < 0) != inverted)
        case PercentileRange():
            return _plan_percentile_range(spec, _histogram(stored), (slope < 0) != inverted)


def _plan_window(spec: HuWindow, slope: float, intercept: float) -> IntensityPlan:
    width = spec.hu_high - spec.hu_low
    return IntensityPlan(
        scale=slope / width,
        offset=(intercept - spec.hu_low) / width,
        gain=spec.high_value - spec.low_value,
        bias=spec.low_value,
    )


def _plan_percentile_zscore(
    spec: PercentileZScore, counts: NDArray[np.int64], falling: bool
) -> IntensityPlan:
    """Zero mean and unit variance over the foreground, after clipping at two percentiles."""
    scale, offset = _clip_at(counts, spec.low_percentile, spec.high_percentile, falling)
    if scale == 0:
        return IntensityPlan(0.0, 0.0, 1.0, 0.0)
    u = np.clip(INT16_VALUES * scale + offset, 0, 1)
    mean, sd = _moments(u, np.where(u > spec.foreground, counts, 0))
    gain = 1 / sd if sd > SMALLEST_SD else 1.0
    return IntensityPlan(scale, offset, gain, -mean * gain)


def _plan_percentile_range(
    spec: PercentileRange, counts: NDArray[np.int64], falling: bool
) -> IntensityPlan:
    scale, offset = _clip_at(counts, spec.low_percentile, spec.high_percentile, falling)
    return IntensityPlan(scale, offset, spec.high_value - spec.low_value, spec.low_value)


def _plan_zscore(
    spec: ZScore, stored: NDArray[np.int16], slope: float, intercept: float
) -> IntensityPlan:
    """The clamp spans the whole series, so that it clips nothing."""
    counts = _histogram(stored)
    scale, offset = _unit_range(_percentile(counts, 0), _percentile(counts, 100), slope < 0)
    if spec.region is ZScoreRegion.NONZERO_BOX:
        counts = _histogram(stored[_nonzero_box(stored, slope, intercept)])
    mean, sd = _moments(INT16_VALUES, counts)
    if sd == 0:
        return IntensityPlan(0.0, 0.0, 1.0, 0.0)
    gain = 1 / (abs(scale) * sd)
    return IntensityPlan(scale, offset, gain, -(mean * scale + offset) * gain)


def _nonzero_box(stored: NDArray[np.int16], slope: float, intercept: float) -> tuple[slice, ...]:
    """The smallest box with every voxel whose modality value is not 0; empty where all are."""
    zero = -intercept / slope
    if abs(zero - round(zero)) > ZERO_TOLERANCE:
        return (slice(None),)
    present = stored != round(zero)
    box = []
    for axis in range(present.ndim):
        others = tuple(other for other in range(present.ndim) if other != axis)
        found = np.flatnonzero(present.any(axis=others))
        box.append(slice(found[0], found[-1] + 1) if found.size else slice(0))
    return tuple(box)


def _clip_at(
    counts: NDArray[np.int64], low_percentile: float, high_percentile: float, falling: bool
) -> tuple[float, float]:
    """Scale and offset that turn the brightness at two percentiles to 0 and 1.

    Where both percentiles coincide, as with a small object on an empty ground, the full range
    takes their place.
    """
    if falling:
        low_percentile, high_percentile = 100 - high_percentile, 100 - low_percentile
    low, high = _percentile(counts, low_percentile), _percentile(counts, high_percentile)
    if low == high:
        low, high = _percentile(counts, 0), _percentile(counts, 100)
    return _unit_range(low, high, falling)


def _unit_range(low: float, high: float, falling: bool) -> tuple[float, float]:
    """Scale and offset that turn one stored value to 0 and another to 1; (0, 0) if it is the same.

    ``falling`` means that brightness falls as the stored value grows.
    """
    if low == high:
        return 0.0, 0.0
    scale, offset = 1 / (high - low), -low / (high - low)
    return (-scale, 1 - offset) if falling else (scale, offset)


def _histogram(stored: NDArray[np.int16]) -> NDArray[np.int64]:
    """Exact count of each of the 65536 int16 values, lowest first."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    places = np.empty(CHUNK_VOXELS, dtype=np.intp)
    flat = stored.reshape(-1)
    for start in range(0, flat.size, CHUNK_VOXELS):
        chunk = flat[start : start + CHUNK_VOXELS]
        low, place = int(chunk.min()), places[: chunk.size]
        place[...] = chunk
        if low:
            place -= low
        found = np.bincount(place)
        counts[low + 32768 : low + 32768 + found.size] += found
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

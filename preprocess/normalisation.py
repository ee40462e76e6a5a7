"""What a model's description says about intensities: four kinds of normalisation.

model.yaml, intensity ─▶ HuWindow │ PercentileZScore │ PercentileRange │ ZScore ─▶ plan_intensity
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from preprocess.parsing import require

__all__ = (
    "HuWindow",
    "IntensityKind",
    "IntensitySpec",
    "Padding",
    "PercentileRange",
    "PercentileZScore",
    "ZScore",
    "ZScoreRegion",
)


class IntensityKind(StrEnum):
    """How stored values become network input."""

    HU_WINDOW = "hu_window"
    PERCENTILE_ZSCORE = "percentile_zscore"
    PERCENTILE_RANGE = "percentile_range"
    ZSCORE = "zscore"


class Padding(StrEnum):
    """What the canvas shows around the picture.

    LOW: what the darkest value becomes, as if the picture went on in black before it was
    normalised. ZERO: 0, as nnU-Net and MONAI pad what is normalised already.
    """

    LOW = "low"
    ZERO = "zero"


class ZScoreRegion(StrEnum):
    """Which voxels mean and standard deviation are taken over.

    NONZERO_BOX is the smallest box of voxels that holds every one whose modality value is not 0,
    what nnU-Net crops a series to before it normalises it.
    """

    ALL = "all"
    NONZERO_BOX = "nonzero_box"


@dataclass(frozen=True)
class HuWindow:
    """CT: a fixed window of Hounsfield units becomes a fixed range; what lies outside is clipped.

    nnU-Net's CT normalisation is the window of its two percentiles, with the range
    (hu - mean) / sd of either end.

    Attributes:
        hu_low: Low end of the window.
        hu_high: High end of the window.
        low_value: What the low end becomes.
        high_value: What the high end becomes.
        padding: What lies around the picture.
    """

    kind: Literal[IntensityKind.HU_WINDOW]
    hu_low: float
    hu_high: float
    low_value: float = 0.0
    high_value: float = 1.0
    padding: Padding = Padding.LOW

    def __post_init__(self) -> None:
        _rising("hu_low", self.hu_low, "hu_high", self.hu_high)
        _rising("low_value", self.low_value, "high_value", self.high_value)


@dataclass(frozen=True)
class PercentileZScore:
    """MR: percentiles of the whole series become 0 and 1, then zero mean and unit variance.

    Attributes:
        low_percentile: Percentile of the series that becomes 0.
        high_percentile: Percentile of the series that becomes 1.
        foreground: Mean and standard deviation are taken over values above this (0 to 1).
        padding: What lies around the picture.
    """

    kind: Literal[IntensityKind.PERCENTILE_ZSCORE]
    low_percentile: float
    high_percentile: float
    foreground: float
    padding: Padding = Padding.LOW

    def __post_init__(self) -> None:
        _percentiles(self.low_percentile, self.high_percentile)
        require(0 <= self.foreground < 1, f"intensity.foreground {self.foreground}: 0 to 1")


@dataclass(frozen=True)
class PercentileRange:
    """Percentiles of the whole series become a fixed range; what lies outside is clipped.

    MONAI's ScaleIntensityRangePercentiles with clip=True.

    Attributes:
        low_percentile: Percentile of the series that becomes ``low_value``.
        high_percentile: Percentile of the series that becomes ``high_value``.
        low_value: Low end of the range.
        high_value: High end of the range.
        padding: What lies around the picture.
    """

    kind: Literal[IntensityKind.PERCENTILE_RANGE]
    low_percentile: float
    high_percentile: float
    low_value: float
    high_value: float
    padding: Padding = Padding.LOW

    def __post_init__(self) -> None:
        _percentiles(self.low_percentile, self.high_percentile)
        _rising("low_value", self.low_value, "high_value", self.high_value)


@dataclass(frozen=True)
class ZScore:
    """Zero mean and unit variance over the series, or over a part of it; nothing is clipped.

    Attributes:
        region: Which voxels mean and standard deviation are taken over.
        padding: What lies around the picture.
    """

    kind: Literal[IntensityKind.ZSCORE]
    region: ZScoreRegion = ZScoreRegion.ALL
    padding: Padding = Padding.LOW


IntensitySpec = HuWindow | PercentileZScore | PercentileRange | ZScore


def _rising(low_name: str, low: float, high_name: str, high: float) -> None:
    require(
        math.isfinite(low) and math.isfinite(high) and low < high,
        f"intensity: expected {low_name} below {high_name}, got {low} and {high}",
    )


def _percentiles(low: float, high: float) -> None:
    require(0 <= low < high <= 100, f"intensity percentiles {low}, {high}: 0 <= low < high <= 100")

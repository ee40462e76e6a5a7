"""Measures the structures of a segmented series.

series + mask ─▶ tally ─▶ volume, intensity, bounding box of each structure
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from client.dicom.series import Series, Vector
from client.dicom.tally import Tally, take_tally
from preprocess.foldedmask import FoldedMask
from preprocess.spec import Code, ModelSpec, SegmentSpec

__all__ = ("BoundingBox", "StructureMeasurement", "measure")

Index = tuple[int, int, int]


@dataclass(frozen=True)
class BoundingBox:
    """Where a structure lies.

    Attributes:
        first: Smallest (slice, row, column) index, counted from 0 in the series' own order.
        last: Largest index, inclusive.
        low_mm: Smallest patient coordinates (x, y, z in LPS) of the box's voxels, outer edges.
        high_mm: Largest patient coordinates.
    """

    first: Index
    last: Index
    low_mm: Vector
    high_mm: Vector


@dataclass(frozen=True)
class StructureMeasurement:
    """One structure, present or not.

    Attributes:
        value: Its value in the mask and its segment number in the DICOM SEG.
        type: Its coded type.
        voxels: Number of voxels.
        volume_ml: Voxels x true voxel volume (pixel spacings x slice distance).
        mean: Mean intensity in modality units (CT: HU), None if there is no voxel.
        sd: Standard deviation of the intensity (of the population), None if there is no voxel.
        box: Where it lies, None if there is no voxel.
    """

    value: int
    label: str
    type: Code
    voxels: int
    volume_ml: float
    mean: float | None
    sd: float | None
    box: BoundingBox | None


def measure(
    series: Series,
    mask: NDArray[np.uint8] | FoldedMask,
    spec: ModelSpec,
    tally: Tally | None = None,
) -> tuple[StructureMeasurement, ...]:
    """Measures every structure that the model knows.

    Args:
        series: The images.
        mask: Class of every voxel, uint8 [slices, rows, columns], on the series' own grid.
        spec: The model; one measurement for each of its segments, in their order.
        tally: What ``take_tally`` found in the mask; None to take it here.

    Raises:
        ValueError: The mask is not on the series' grid, or holds a class the model has not.
    """
    tally = tally or take_tally(series.stored, mask, len(spec.segments) + 1)
    return tuple(_measurement(series, tally, segment) for segment in spec.segments)


def _measurement(series: Series, tally: Tally, segment: SegmentSpec) -> StructureMeasurement:
    value = segment.value
    n = int(tally.voxels[:, value].sum())
    mean = sd = box = None
    if n:
        total, squares = int(tally.total[:, value].sum()), int(tally.squares[:, value].sum())
        mean = total / n * series.slope + series.intercept
        sd = math.sqrt((n * squares - total * total) / (n * n)) * abs(series.slope)
        box = _box(series, *_extent(tally, value))
    return StructureMeasurement(
        value, segment.label, segment.type, n, n * series.voxel_ml, mean, sd, box
    )


def _extent(tally: Tally, value: int) -> tuple[Index, Index]:
    """Smallest and largest (slice, row, column) of a class that is there."""
    slices = np.flatnonzero(tally.voxels[:, value])
    low = [edge[slices, value].min() for edge in (tally.first_row, tally.first_column)]
    high = [edge[slices, value].max() for edge in (tally.last_row, tally.last_column)]
    return (
        (int(slices[0]), int(low[0]), int(low[1])),
        (int(slices[-1]), int(high[0]), int(high[1])),
    )


def _box(series: Series, first: Index, last: Index) -> BoundingBox:
    """The box in indices, and the upright box in the patient around its eight outer corners."""
    ends = [(low - 0.5, high + 0.5) for low, high in zip(first, last, strict=True)]
    corners = np.array([(*corner, 1.0) for corner in product(*ends)]) @ series.affine.T
    low, high = corners[:, :3].min(axis=0), corners[:, :3].max(axis=0)
    return BoundingBox(
        first,
        last,
        (float(low[0]), float(low[1]), float(low[2])),
        (float(high[0]), float(high[1]), float(high[2])),
    )

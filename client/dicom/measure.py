"""Measures the structures of a segmented series in one pass over its voxels.

series + mask ──bincount──▶ volume, intensity, bounding box of each structure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from client.dicom.series import Series, Vector
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
    series: Series, mask: NDArray[np.uint8], spec: ModelSpec
) -> tuple[StructureMeasurement, ...]:
    """Measures every structure that the model knows.

    Args:
        series: The images.
        mask: Class of every voxel, uint8 [slices, rows, columns], on the series' own grid.
        spec: The model; one measurement for each of its segments, in their order.

    Raises:
        ValueError: The mask is not on the series' grid, or holds a class the model has not.
    """
    if mask.shape != series.stored.shape or mask.dtype != np.uint8:
        raise ValueError(
            f"expected a uint8 mask of {series.stored.shape}, got {mask.dtype} {mask.shape}"
        )
    if mask.max(initial=0) > len(spec.segments):
        raise ValueError(f"expected classes 0 to {len(spec.segments)}, got {mask.max()}")
    tally = _tally(series.stored, mask, len(spec.segments) + 1)
    return tuple(_measurement(series, tally, segment) for segment in spec.segments)


@dataclass(frozen=True, eq=False)
class _Tally:
    """Per class (last axis): voxels, sum and sum of squares of stored values, occupied indices."""

    voxels: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    occupied: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]


def _tally(stored: NDArray[np.int16], mask: NDArray[np.uint8], classes: int) -> _Tally:
    """Counts foreground voxels only, slice by slice to keep memory small."""
    voxels = np.zeros(classes, dtype=np.int64)
    total, squares = np.zeros(classes), np.zeros(classes)
    slices, rows, columns = (np.zeros((n, classes), dtype=bool) for n in mask.shape)
    for index, (values, labels) in enumerate(zip(stored, mask, strict=True)):
        places = np.flatnonzero(labels)
        kind = labels.ravel()[places]
        weights = values.ravel()[places].astype(np.float64)
        voxels += np.bincount(kind, minlength=classes)
        total += np.bincount(kind, weights, classes)
        squares += np.bincount(kind, weights * weights, classes)
        slices[index, kind] = True
        rows[places // mask.shape[2], kind] = True
        columns[places % mask.shape[2], kind] = True
    return _Tally(voxels, total, squares, (slices, rows, columns))


def _measurement(series: Series, tally: _Tally, segment: SegmentSpec) -> StructureMeasurement:
    n, value = int(tally.voxels[segment.value]), segment.value
    mean = sd = box = None
    if n:
        stored_mean = tally.total[value] / n
        variance = max(tally.squares[value] / n - stored_mean**2, 0.0)
        mean = float(stored_mean * series.slope + series.intercept)
        sd = float(np.sqrt(variance) * abs(series.slope))
        box = _box(series, [np.flatnonzero(axis[:, value]) for axis in tally.occupied])
    return StructureMeasurement(
        value, segment.label, segment.type, n, n * series.voxel_ml, mean, sd, box
    )


def _box(series: Series, occupied: Sequence[NDArray[np.intp]]) -> BoundingBox:
    """The box in indices, and the upright box in the patient around its eight outer corners."""
    first = (int(occupied[0][0]), int(occupied[1][0]), int(occupied[2][0]))
    last = (int(occupied[0][-1]), int(occupied[1][-1]), int(occupied[2][-1]))
    ends = [(low - 0.5, high + 0.5) for low, high in zip(first, last, strict=True)]
    corners = np.array([(*corner, 1.0) for corner in product(*ends)]) @ series.affine.T
    low, high = corners[:, :3].min(axis=0), corners[:, :3].max(axis=0)
    return BoundingBox(
        first,
        last,
        (float(low[0]), float(low[1]), float(low[2])),
        (float(high[0]), float(high[1]), float(high[2])),
    )

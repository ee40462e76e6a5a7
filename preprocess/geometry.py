"""Where the pixels of a slice go on the network's canvas, and how its mask comes back.

SliceGeometry ─▶ plan_geometry ─▶ GeometryPlan ─▶ (resize, pad) ─▶ mask ─▶ fold_mask

Pixel-edge coordinates: pixel i covers [i, i + 1], its centre is i + 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import PlanError
from preprocess.foldedmask import FoldedMask
from preprocess.spec import GeometrySpec, Plane

__all__ = ("GeometryPlan", "SliceGeometry", "fold_mask", "plan_geometry", "restore_mask")

ORTHONORMAL_TOLERANCE = 1e-2
LARGEST_SIDE = 16384

CANONICAL: dict[Plane, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    Plane.AXIAL: ((0, 1, 0), (1, 0, 0)),
    Plane.CORONAL: ((0, 0, -1), (1, 0, 0)),
    Plane.SAGITTAL: ((0, 0, -1), (0, 1, 0)),
}
"""Patient direction (LPS) of growing rows, then of growing columns, on the canvas."""

PLANE_OF_AXIS = (Plane.SAGITTAL, Plane.CORONAL, Plane.AXIAL)


@dataclass(frozen=True)
class SliceGeometry:
    """Grid of one slice (PS3.3 C.7.6.2).

    Attributes:
        rows: Pixels from top to bottom.
        columns: Pixels from left to right.
        row_spacing_mm: Distance between neighbouring rows, Pixel Spacing's first value.
        column_spacing_mm: Distance between neighbouring columns, its second value.
        orientation: Image Orientation (Patient): direction of growing column index (x, y, z),
            then of growing row index, in LPS.

    Raises:
        PlanError: A side or spacing is out of range, or the directions are not orthonormal.
    """

    rows: int
    columns: int
    row_spacing_mm: float
    column_spacing_mm: float
    orientation: tuple[float, float, float, float, float, float]

    def __post_init__(self) -> None:
        if not (1 <= self.rows <= LARGEST_SIDE and 1 <= self.columns <= LARGEST_SIDE):
            raise PlanError(
                f"expected 1 to {LARGEST_SIDE} rows and columns, got {self.rows} x {self.columns}"
            )
        for spacing in (self.row_spacing_mm, self.column_spacing_mm):
            if not (math.isfinite(spacing) and 1e-3 <= spacing <= 1e3):
                raise PlanError(f"expected a pixel spacing of 0.001 to 1000 mm, got {spacing}")
        across, down = self.directions
        gram = np.array([across @ across - 1, down @ down - 1, across @ down])
        if not np.all(np.abs(gram) < ORTHONORMAL_TOLERANCE):
            raise PlanError("expected two orthogonal unit vectors as image orientation")

    @property
    def directions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Unit vectors of growing column index and of growing row index, LPS."""
        values = np.asarray(self.orientation, dtype=np.float64)
        return values[:3], values[3:]

    @property
    def plane(self) -> Plane:
        """Anatomical plane nearest to the slice."""
        return PLANE_OF_AXIS[int(np.argmax(np.abs(np.cross(*self.directions))))]


@dataclass(frozen=True)
class GeometryPlan:
    """What is done to every slice of a series.

    The slice is transposed if ``transpose``; ``region`` of it is resized to ``size`` (linear,
    antialiased) and centred on the canvas.

    Attributes:
        plane: Anatomical plane of the canvas.
        transpose: Whether rows and columns are exchanged first.
        region: (y0, x0, y1, x1) in pixel-edge coordinates of the (transposed) slice;
            a start above its end means that the axis is flipped.
        size: Rows and columns after resizing, at most the canvas.
        native_shape: Rows and columns of the slice before transposing.
        canvas: Rows and columns of the network's input.
    """

    plane: Plane
    transpose: bool
    region: tuple[float, float, float, float]
    size: tuple[int, int]
    native_shape: tuple[int, int]
    canvas: tuple[int, int]

    @property
    def offset(self) -> tuple[int, int]:
        """Canvas row and column of the resized slice's first pixel."""
        return (self.canvas[0] - self.size[0]) // 2, (self.canvas[1] - self.size[1]) // 2


def plan_geometry(spec: GeometrySpec, geometry: SliceGeometry) -> GeometryPlan:
    """Turns a slice to the display orientation of its nearest plane, at the model's spacing.

    Axial slices get rows towards posterior and columns towards left; coronal ones rows towards
    inferior and columns towards left; sagittal ones rows towards inferior and columns towards
    posterior. A field of view larger than the canvas is cut on both sides by whole native pixels.

    Args:
        spec: The grid the network sees.
        geometry: The slice's own grid.
    """
    plane = geometry.plane
    across, down = geometry.directions
    to_rows, to_columns = (np.asarray(axis, dtype=np.float64) for axis in CANONICAL[plane])
    straight = abs(down @ to_rows) + abs(across @ to_columns)
    crossed = abs(across @ to_rows) + abs(down @ to_columns)
    transpose = bool(crossed > straight)
    shape, spacing = (geometry.rows, geometry.columns), _spacing(geometry)
    if transpose:
        across, down, shape, spacing = down, across, shape[::-1], spacing[::-1]
    y0, y1, height = _plan_axis(
        shape[0], spacing[0], spec.spacing_mm[0], spec.size[0], flip=bool(down @ to_rows < 0)
    )
    x0, x1, width = _plan_axis(
        shape[1], spacing[1], spec.spacing_mm[1], spec.size[1], flip=bool(across @ to_columns < 0)
    )
    return GeometryPlan(
        plane=plane,
        transpose=transpose,
        region=(y0, x0, y1, x1),
        size=(height, width),
        native_shape=(geometry.rows, geometry.columns),
        canvas=spec.size,
    )


def fold_mask(mask: NDArray[np.uint8], plan: GeometryPlan) -> FoldedMask:
    """Brings masks from the canvas back to the native grid: each pixel's nearest canvas pixel.

    Args:
        mask: [..., canvas rows, canvas columns].
        plan: The plan by which the canvas was made.

    Returns:
        The masks [..., rows, columns], a view of the canvas where that can be; background where
        the canvas showed nothing.

    Raises:
        PlanError: The mask's last two axes are not the plan's canvas.
    """
    if mask.shape[-2:] != plan.canvas:
        raise PlanError(f"expected masks of {plan.canvas}, got {mask.shape[-2:]}")
    sides = plan.native_shape[::-1] if plan.transpose else plan.native_shape
    y0, x0, y1, x1 = plan.region
    rows = _canvas_index(sides[0], y0, y1, plan.size[0], plan.offset[0])
    columns = _canvas_index(sides[1], x0, x1, plan.size[1], plan.offset[1])
    if plan.transpose:
        mask, rows, columns = mask.swapaxes(-1, -2), columns, rows
    lines, row_edges = _shown(rows)
    bars, column_edges = _shown(columns)
    cells = _picked(_picked(mask, lines, -2), bars, -1)
    return FoldedMask(cells, row_edges, column_edges, plan.native_shape)


def restore_mask(mask: NDArray[np.uint8], plan: GeometryPlan) -> NDArray[np.uint8]:
    """As ``fold_mask``, every pixel by itself: a new C-contiguous array [..., rows, columns]."""
    return fold_mask(mask, plan).unfolded()


def _spacing(geometry: SliceGeometry) -> tuple[float, float]:
    return geometry.row_spacing_mm, geometry.column_spacing_mm


def _plan_axis(
    pixels: int, spacing_mm: float, target_mm: float, canvas: int, *, flip: bool
) -> tuple[float, float, int]:
    """Start, end (pixel edges) and resized length of one axis."""
    length = max(1, round(pixels * spacing_mm / target_mm))
    start, end = 0.0, float(pixels)
    if length > canvas:
        shown = min(float(pixels), canvas * target_mm / spacing_mm)
        start = float(math.floor((pixels - shown) / 2))
        end, length = start + shown, canvas
    return (end, start, length) if flip else (start, end, length)


def _shown(index: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which canvas rows are shown, in native order, and the native rows where each one begins.

    Args:
        index: Canvas row of every native row, -1 at the ends where the canvas does not show it.
    """
    inside = np.flatnonzero(index >= 0)
    if len(inside) == 0:
        return inside, np.zeros(1, dtype=np.intp)
    first = inside[np.diff(index[inside], prepend=-1) != 0]
    return index[first], np.append(first, inside[-1] + 1)


def _picked(mask: NDArray[np.uint8], index: NDArray[np.intp], axis: int) -> NDArray[np.uint8]:
    """The canvas rows or columns, as a view where one lies behind the other."""
    steps = np.unique(np.diff(index))
    if len(steps) != 1 or abs(steps[0]) != 1:
        return np.take(mask, index, axis=axis)
    stop = int(index[-1] + steps[0])
    along = slice(int(index[0]), stop if stop >= 0 else None, int(steps[0]))
    return mask[..., along] if axis == -1 else mask[..., along, :]


def _canvas_index(
    pixels: int, start: float, end: float, length: int, offset: int
) -> NDArray[np.intp]:
    """For each native pixel its canvas index, -1 where the canvas does not show it."""
    position = (np.arange(pixels) + 0.5 - start) / (end - start)
    inside = (position >= 0) & (position <= 1)
    index = np.clip(np.floor(position * length).astype(np.intp), 0, length - 1)
    return np.where(inside, index + offset, -1)

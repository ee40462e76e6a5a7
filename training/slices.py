"""Cut one random slice of a head map: pose ▶ label indices of its sub-slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.label_maps import HeadMap

__all__ = ("PLANES", "Slab", "cut_slab", "smooth_field")

# Rows and columns of the canonical slices as directions in RAS+ axes.
PLANES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "axial": ((0, -1, 0), (-1, 0, 0)),
    "coronal": ((0, 0, -1), (-1, 0, 0)),
    "sagittal": ((0, 0, -1), (0, -1, 0)),
}
_MAX_ROTATION_DEG = 18.0
_MAX_ELASTIC_MM = 5.0


@dataclass(frozen=True)
class Slab:
    """A slice of some thickness: its label indices and distances to the brain.

    Attributes:
        index: [sub-slices, size, size] uint8, indices into `LABEL_VALUES`.
        distance_mm: [size, size] uint8, of the middle sub-slice.
    """

    index: NDArray[np.uint8]
    distance_mm: NDArray[np.uint8]

    @property
    def middle(self) -> NDArray[np.uint8]:
        """The label indices that the slice is learnt with."""
        picked: NDArray[np.uint8] = self.index[len(self.index) // 2]
        return picked


def smooth_field(
    rng: np.random.Generator, size: int, knots: int, channels: int = 1
) -> NDArray[np.float32]:
    """Draw smooth noise [channels, size, size] of unit variance at the knots."""
    coarse = rng.standard_normal((channels, knots, knots)).astype(np.float32)
    rows = _interpolation(size, knots)
    field: NDArray[np.float32] = np.matmul(np.matmul(rows, coarse), rows.T)
    return field


def _interpolation(size: int, knots: int) -> NDArray[np.float32]:
    """Return the matrix [size, knots] of linear interpolation, slightly rounded off."""
    identity = np.eye(knots, dtype=np.float32)
    zoomed: NDArray[np.float32] = ndimage.zoom(identity, (size / knots, 1), order=1)
    rounded = ndimage.gaussian_filter1d(zoomed, size / knots / 3, axis=0, mode="nearest")
    return np.asarray(rounded)


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    a, b, c = np.deg2rad(rng.uniform(-_MAX_ROTATION_DEG, _MAX_ROTATION_DEG, 3))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned: NDArray[np.float64] = about_x @ about_y @ about_z
    return turned


def _draw_depth(rng: np.random.Generator, plane: str, reach: float) -> float:
    """Draw where to cut along the normal, from the middle of the brain, which reaches so far.

    The nuclei lie near the middle and are learnt last. Below the brain and before it muscles are
    easily taken for it: normals of axial and coronal slices point to inferior and anterior.
    """
    kind = rng.random()
    if kind < 0.35:
        return float(rng.normal(0, 0.3 * reach))
    if kind < 0.65 and plane != "sagittal":
        return float(rng.uniform(0.35 * reach, reach + 50))
    margin_mm = 30.0 if rng.random() < 0.15 else 4.0
    return float(rng.uniform(-reach - margin_mm, reach + margin_mm))


def cut_slab(rng: np.random.Generator, head: HeadMap, plane: str, size: int) -> Slab:
    """Draw pose, deformation and thickness, and look the labels up (nearest voxel).

    Args:
        rng: The source of every random choice.
        head: The map to cut.
        plane: A key of `PLANES`.
        size: Height and width of the slice, 1 mm a pixel.
    """
    row, col = (np.array(v, np.float64) for v in PLANES[plane])
    normal = np.cross(row, col)
    low, high = head.brain_low, head.brain_high
    reach = np.abs(normal) @ (high - low) / 2
    depth = _draw_depth(rng, plane, reach)
    shift = rng.normal(0, 14, 2).clip(-45, 45)
    centre = (low + high) / 2 + rng.normal(0, 2, 3)
    turn, scale = _rotation(rng), rng.uniform(0.82, 1.2, 3)
    if rng.random() < 0.5:
        scale[0] = -scale[0]

    grid = np.arange(size, dtype=np.float32) - (size - 1) / 2
    axes = np.diag(1 / scale) @ turn @ np.stack([row, col, normal], axis=1)
    pose = axes.astype(np.float32)
    start = (centre + axes @ np.array([shift[0], shift[1], 0]) + normal * depth).astype(np.float32)
    points = (
        start[:, None, None]
        + pose[:, 0, None, None] * grid[None, :, None]
        + pose[:, 1, None, None] * grid[None, None, :]
    )
    if rng.random() < 0.85:
        knots = int(rng.integers(4, 12))
        points += smooth_field(rng, size, knots, 3) * np.float32(
            rng.uniform(0, min(_MAX_ELASTIC_MM, 20 / knots))
        )

    thickness_mm = 1.0 if rng.random() < 0.45 else rng.uniform(1, 7)
    count = max(1, round(thickness_mm))
    offsets = (np.arange(count) - count // 2) * np.float32(thickness_mm / count)
    limit = np.array(head.index.shape, np.float32)[:, None, None] - 1
    strides = np.array([s // head.index.itemsize for s in head.index.strides], np.int32)
    layers = np.empty((count, size, size), np.uint8)
    flat = head.index.ravel()
    for k, offset in enumerate(offsets):
        voxel = np.rint(points + pose[:, 2, None, None] * offset)
        inside = ((voxel >= 0) & (voxel <= limit)).all(axis=0)
        place = np.einsum("c,cij->ij", strides, np.clip(voxel, 0, limit).astype(np.int32))
        layers[k] = flat[place] * inside
        if k == count // 2:
            distance = np.where(inside, head.distance_mm.ravel()[place], 255).astype(np.uint8)
    return Slab(layers, distance)

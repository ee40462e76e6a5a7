"""NIfTI volumes as series of slices: file ▶ [slices, rows, columns] in a canonical plane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from preprocess.geometry import SliceGeometry

__all__ = ("Volume", "from_ras", "load_nifti", "load_ras", "to_plane")

# For each plane: the RAS axes of slices, rows and columns.
_AXES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
_ORIENTATION = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
}


@dataclass(frozen=True)
class Volume:
    """Slices of one plane, rows to posterior or inferior, columns to left or posterior.

    Attributes:
        voxels: [slices, rows, columns]; slices to superior, anterior or right.
        spacing_mm: Distance of slices, rows and columns.
        plane: axial, coronal or sagittal.
        origin_mm: LPS position of the centre of voxel [0, 0, 0].
    """

    voxels: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    plane: str
    origin_mm: tuple[float, float, float]

    @property
    def geometry(self) -> SliceGeometry:
        """The grid of every slice, as the served path plans it."""
        _, rows, columns = self.voxels.shape
        return SliceGeometry(
            rows, columns, self.spacing_mm[1], self.spacing_mm[2], _ORIENTATION[self.plane]
        )

    def position_mm(self, number: int) -> tuple[float, float, float]:
        """Return the LPS position of the first pixel of a slice (PS3.3 C.7.6.2.1.1)."""
        position = list(self.origin_mm)
        axis = _AXES[self.plane][0]
        sign = 1 if axis == 2 else -1  # superior is +z in LPS, anterior and right are minus
        position[axis] += sign * number * self.spacing_mm[0]
        return position[0], position[1], position[2]


def from_ras(
    voxels: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float],
    plane: str,
) -> Volume:
    """Turn an array [x, y, z] in RAS+ axes into slices of a plane.

    Args:
        voxels: [x, y, z], growing to right, anterior, superior.
        spacing_mm: Along x, y, z.
        origin_mm: RAS position of voxel [0, 0, 0].
        plane: axial, coronal or sagittal.
    """
    axes = _AXES[plane]
    slices = voxels.transpose(axes)[:, ::-1, ::-1]
    corner = list(origin_mm)
    for axis in axes[1:]:  # rows and columns run against RAS
        corner[axis] += (voxels.shape[axis] - 1) * spacing_mm[axis]
    order = (spacing_mm[axes[0]], spacing_mm[axes[1]], spacing_mm[axes[2]])
    return Volume(np.ascontiguousarray(slices), order, plane, (-corner[0], -corner[1], corner[2]))


def to_plane(volume: Volume, plane: str) -> Volume:
    """Cut an axial volume again in another plane.

    Raises:
        ValueError: The volume is not axial.
    """
    if volume.plane != "axial":
        raise ValueError(f"expected an axial volume, got {volume.plane}")
    voxels = volume.voxels[:, ::-1, ::-1].transpose(2, 1, 0)
    dz, dy, dx = volume.spacing_mm
    x, y, z = volume.origin_mm
    _, rows, columns = volume.voxels.shape
    origin = (-x - (columns - 1) * dx, -y - (rows - 1) * dy, z)
    return from_ras(voxels, (dx, dy, dz), origin, plane)


def load_ras(file: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Load a NIfTI file with its axes turned to right, anterior, superior: voxels and affine."""
    canonical: Any = nib.as_closest_canonical
    image = canonical(nib.load(file))
    return np.asarray(image.dataobj), np.asarray(image.affine)


def load_nifti(file: Path, plane: str) -> Volume:
    """Load a NIfTI file whose axes are parallel to the patient's.

    Raises:
        ValueError: The axes are oblique, or the file is not three-dimensional.
    """
    voxels, affine = load_ras(file)
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    matrix = affine[:3, :3]
    if voxels.ndim != 3 or not np.allclose(matrix, np.diag(np.diag(matrix)), atol=1e-3):
        raise ValueError(f"{file.name}: expected a straight 3D volume, got {matrix.tolist()}")
    dx, dy, dz = (float(v) for v in np.diag(matrix))
    x, y, z = (float(v) for v in affine[:3, 3])
    return from_ras(voxels, (dx, dy, dz), (x, y, z), plane)

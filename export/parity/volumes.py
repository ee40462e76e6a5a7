"""A volume from a file: NIfTI, NRRD, MetaImage or a DICOM folder ─▶ voxels in patient space (LPS).

SimpleITK reads them all, gives every one the same axes, and decodes compressed DICOM by GDCM.
"""

# mypy: disallow-untyped-calls=False
# SimpleITK's methods carry no types.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
from numpy.typing import NDArray

from export.errors import RecipeError
from preprocess.geometry import CANONICAL
from preprocess.spec import Plane

__all__ = ("Volume", "read_volume", "require_same_grid")

POSITION, PHOTOMETRIC = "0020|0032", "0028|0004"
UNEVEN = 0.05
"""Largest departure of a slice distance from the median one, as a fraction of it."""
GRID_TOLERANCE = 0.05
"""Largest distance between the corners of two equal grids, in units of the smallest spacing."""


@dataclass(frozen=True)
class Volume:
    """Voxels, and where they lie.

    Attributes:
        voxels: Modality units [k, j, i].
        spacing_mm: Distance between neighbours along k, j, i.
        directions: Rows: unit vectors of growing k, j, i, in LPS.
        origin_mm: Centre of voxel [0, 0, 0], in LPS.
        inverted: Whether the file is MONOCHROME1; GDCM has turned the voxels upright then, so that
            large values are bright here.
    """

    voxels: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    directions: NDArray[np.float64]
    origin_mm: NDArray[np.float64]
    inverted: bool = False

    def sliced_along(self, axis: int) -> Volume:
        """The same volume with another axis first; the other two keep their order."""
        order = [axis, *(other for other in range(3) if other != axis)]
        k, j, i = (self.spacing_mm[old] for old in order)
        return Volume(
            voxels=np.ascontiguousarray(self.voxels.transpose(order)),
            spacing_mm=(k, j, i),
            directions=self.directions[order],
            origin_mm=self.origin_mm,
            inverted=self.inverted,
        )

    def corners_mm(self) -> NDArray[np.float64]:
        """Where the grid begins, and where each of its axes ends [4, 3]."""
        lengths = np.array(self.voxels.shape) * self.spacing_mm
        return np.vstack([self.origin_mm, self.origin_mm + lengths[:, None] * self.directions])

    def describe_grid(self) -> str:
        """Size, spacing, origin and directions, for messages."""
        size, spacing = self.voxels.shape, np.round(self.spacing_mm, 4).tolist()
        origin, directions = np.round(self.origin_mm, 3), np.round(self.directions, 3)
        return (
            f"size {'x'.join(map(str, size))}, spacing {spacing} mm, origin {origin.tolist()}, "
            f"directions {directions.tolist()}"
        )


def read_volume(path: Path, plane: Plane = Plane.AXIAL) -> Volume:
    """Reads a file, or a folder with one DICOM series.

    Args:
        path: NIfTI, NRRD, MetaImage or DICOM file, or the folder.
        plane: Where a file with two axes lies: x to the right, y downwards on that plane's canvas.

    Raises:
        RecipeError: Not there, not readable, several series, more than three axes, colours, or
            slices at uneven distances.
    """
    if not path.exists():
        raise RecipeError(f"{path}: expected a file or a DICOM folder, there is none")
    try:
        image, photometric = _read_folder(path) if path.is_dir() else (sitk.ReadImage(path), "")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RecipeError(f"{path}: SimpleITK cannot read it: {reason}") from error
    axes, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if axes not in (2, 3) or components != 1:
        raise RecipeError(
            f"{path}: expected one grey volume of 2 or 3 axes, got {axes} axes with {components} "
            "values per voxel; take one volume or channel out of it"
        )
    if not photometric and image.HasMetaDataKey(PHOTOMETRIC):
        photometric = image.GetMetaData(PHOTOMETRIC)
    voxels, directions = sitk.GetArrayFromImage(image), _directions(image)
    origin, spacing = np.array(image.GetOrigin()), image.GetSpacing()[::-1]
    if axes == 2:
        voxels, spacing = voxels[None], (1.0, *spacing)
        directions, origin = _in_plane(directions, plane), np.zeros(3)
    k, j, i = map(float, spacing)
    return Volume(voxels, (k, j, i), directions, origin, photometric.strip() == "MONOCHROME1")


def require_same_grid(labels: Volume, image: Volume, path: Path) -> None:
    """Refuses labels that do not lie voxel by voxel on the image.

    Raises:
        RecipeError: Size, spacing, origin or directions differ; the message has both.
    """
    distance = np.abs(labels.corners_mm() - image.corners_mm()).max()
    tolerance = GRID_TOLERANCE * min(image.spacing_mm)
    if labels.voxels.shape != image.voxels.shape or not distance <= tolerance:
        raise RecipeError(
            f"{path}: labels are not on the image's grid: expected {image.describe_grid()}; "
            f"got {labels.describe_grid()}. Resample the labels to the image (nearest neighbour)"
        )


def _read_folder(folder: Path) -> tuple[sitk.Image, str]:
    """The volume, and its photometric interpretation."""
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise RecipeError(
            f"{folder}: expected the files of one DICOM series, found {len(series)} series; "
            "name a folder that holds just one"
        )
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    files = range(len(reader.GetFileNames()))
    _require_even(
        [reader.GetMetaData(n, POSITION) for n in files if reader.HasMetaDataKey(n, POSITION)],
        folder,
    )
    known = reader.HasMetaDataKey(0, PHOTOMETRIC)
    return image, reader.GetMetaData(0, PHOTOMETRIC) if known else ""


def _require_even(positions: list[str], folder: Path) -> None:
    if len(positions) < 3:
        return
    points = np.array([[float(x) for x in position.split("\\")] for position in positions])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    median = float(np.median(steps))
    if np.abs(steps - median).max() > UNEVEN * median:
        raise RecipeError(
            f"{folder}: expected slices at even distances, got {steps.min():.3f} to "
            f"{steps.max():.3f} mm; slices are missing or belong to several stacks"
        )


def _directions(image: sitk.Image) -> NDArray[np.float64]:
    """Rows: directions of the array's axes; SimpleITK has columns, and x first."""
    axes = image.GetDimension()
    return np.array(image.GetDirection()).reshape(axes, axes).T[::-1]


def _in_plane(directions: NDArray[np.float64], plane: Plane) -> NDArray[np.float64]:
    down, across = (np.array(axis, dtype=np.float64) for axis in CANONICAL[plane])
    j, i = directions @ np.array([across, down])
    return np.array([np.cross(i, j), j, i])

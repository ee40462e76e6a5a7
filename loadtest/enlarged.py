"""A large study from the small sample: what a scanner of today makes, the same bytes every time.

181 slices 217 x 181, JPEG 2000 ─▶ linear interpolation, noise ─▶ 324 slices 512 x 512, uncompressed
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from client.errors import ConfigurationError

__all__ = ("LARGE_SHAPE", "enlarge")

LARGE_SHAPE = (324, 512, 512)
"""Slices, rows and columns of a chest CT."""

NOISE = 3.0
LARGEST_VALUE = 4095


def enlarge(
    sample: Path, folder: Path, shape: tuple[int, int, int] = LARGE_SHAPE
) -> tuple[Path, ...]:
    """Resamples a series; the head keeps its size in mm.

    Args:
        sample: Folder of one axial series ``*.dcm``, one slice each.
        folder: Where the new files go; it is made when missing.
        shape: Slices, rows and columns.

    Returns:
        The files in their order: Explicit VR Little Endian, uncompressed, one slice each.

    Raises:
        ConfigurationError: There are fewer than two slices in the folder.
    """
    series: list[Dataset] = [dcmread(file) for file in sorted(sample.glob("*.dcm"))]
    if len(series) < 2:
        raise ConfigurationError(f"Expected a series of DICOM files (*.dcm) in {sample}.")
    series.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    folder.mkdir(parents=True, exist_ok=True)
    source = _Source(tuple(series), np.stack([one.pixel_array for one in series]))
    return tuple(_write(folder, source, shape, number) for number in range(shape[0]))


@dataclass(frozen=True, eq=False)
class _Source:
    """The series by increasing height, and its pixels [slices, rows, columns]."""

    slices: tuple[Dataset, ...]
    volume: NDArray[np.uint16]


def _write(folder: Path, source: _Source, shape: tuple[int, int, int], number: int) -> Path:
    """One slice of the new series at its place between two slices of the old one."""
    made = copy.deepcopy(source.slices[0])
    image, factors = _image(source.volume, shape, number)
    ends = (source.slices[0], source.slices[-1])
    first, last = (np.array(one.ImagePositionPatient, dtype=float) for one in ends)
    part = 1 / (shape[0] - 1)
    step = float(np.linalg.norm(last - first)) * part
    position = first + (last - first) * number * part
    made.ImagePositionPatient = [f"{x:.8g}" for x in position]
    made.PixelSpacing = [f"{x:.8g}" for x in np.array(made.PixelSpacing, dtype=float) / factors]
    made.SliceThickness = f"{step:.6g}"
    if "SpacingBetweenSlices" in made:
        made.SpacingBetweenSlices = f"{step:.6g}"
    made.Rows, made.Columns = shape[1:]
    made.InstanceNumber = str(number + 1)
    made.SeriesInstanceUID = _uid(made.SeriesInstanceUID, "enlarged")
    made.SOPInstanceUID = _uid(made.SeriesInstanceUID, number)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.PixelData = image.tobytes()
    made["PixelData"].VR = "OW"
    made["PixelData"].is_undefined_length = False
    path = folder / f"{number + 1:04d}.dcm"
    made.save_as(path)
    return path


def _image(
    volume: NDArray[np.uint16], shape: tuple[int, int, int], number: int
) -> tuple[NDArray[np.uint16], tuple[float, float]]:
    """Pixels of a new slice, and by how much rows and columns grew."""
    place = number * (len(volume) - 1) / (shape[0] - 1)
    below = min(int(place), len(volume) - 2)
    weight = place - below
    between = (1 - weight) * volume[below] + weight * volume[below + 1]
    factors = (shape[1] / volume.shape[1], shape[2] / volume.shape[2])
    image = ndimage.zoom(between, factors, order=1)
    # Without noise a resampled head would be smoother than any scanner's.
    image += np.random.default_rng(number).normal(0, NOISE, image.shape) * (image > 0)
    return np.clip(image, 0, LARGEST_VALUE).astype(volume.dtype), factors


def _uid(*sources: object) -> str:
    """The same UID for the same sources."""
    return str(generate_uid(entropy_srcs=[str(source) for source in sources]))

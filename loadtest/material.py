"""What is measured with: a real DICOM series, its plan, and its slices as the network wants them.

folder of DICOM ─▶ Series ─▶ SeriesPlan ─▶ reference preprocessing ─▶ float32 images
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.dicom.reader import read_study
from client.dicom.series import Series
from client.errors import ConfigurationError
from client.limits import ReadLimits
from preprocess.plan import SeriesPlan
from preprocess.reference import network_image
from preprocess.spec import ModelSpec

__all__ = ("Material", "load_material")


@dataclass(frozen=True, eq=False)
class Material:
    """One series, for every way of segmenting it.

    Attributes:
        files: Its DICOM files.
        series: As the worker reads it from these files.
        plan: As the worker plans it.
        images: Its slices, preprocessed by the NumPy reference: float32 [slices, 1, rows, columns]
            on the network's canvas.
    """

    files: tuple[Path, ...]
    series: Series
    plan: SeriesPlan
    images: NDArray[np.float32]

    @property
    def slices(self) -> int:
        """How many there are."""
        return len(self.images)

    @property
    def study_bytes(self) -> int:
        """Length of all files."""
        return sum(file.stat().st_size for file in self.files)


def load_material(folder: Path, spec: ModelSpec, slices: int | None = None) -> Material:
    """Reads one series from a folder and prepares it for the raw engine.

    Args:
        folder: DICOM files ``*.dcm`` of one series, one slice each, named in order.
        spec: The model.
        slices: How many, taken from the middle of the series; None means all.

    Raises:
        ConfigurationError: The folder does not hold such a series, or it is too short.
    """
    found = sorted(folder.glob("*.dcm"))
    wanted = len(found) if slices is None else slices
    if not 0 < wanted <= len(found):
        raise ConfigurationError(
            f"Expected at least {max(wanted, 1)} DICOM files (*.dcm) in {folder}, found "
            f"{len(found)}; name another folder with --sample or fewer --slices."
        )
    start = (len(found) - wanted) // 2
    files = tuple(found[start : start + wanted])
    series = _read(files)
    plan = series.plan(spec)
    return Material(files, series, plan, _reference_images(plan, series.stored, spec))


def _read(files: tuple[Path, ...]) -> Series:
    content = read_study(((file.name, file.read_bytes()) for file in files), ReadLimits())
    if content.refusals or [len(one.stored) for one in content.series] != [len(files)]:
        why = "; ".join(refusal.reason for refusal in content.refusals)
        raise ConfigurationError(
            f"Expected one series with one slice per file, got {len(content.series)} series of "
            f"{len(files)} files. {why}"
        )
    return content.series[0]


def _reference_images(
    plan: SeriesPlan, stored: NDArray[np.int16], spec: ModelSpec
) -> NDArray[np.float32]:
    images = np.empty((len(stored), 1, *spec.geometry.size), dtype=np.float32)
    for image, one in zip(images, stored, strict=True):
        image[...] = network_image(spec, plan.tensors(one))
    return images

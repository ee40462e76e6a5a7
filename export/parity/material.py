"""What engines are compared on: a real series, or a synthetic one ─▶ plan ─▶ network images.

A series is planned as a whole and only then are slices taken out of it, as in service: percentiles
belong to the series, not to the slices that a test happens to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import RecipeError
from export.parity.synthetic import draw_body
from export.parity.volumes import Volume, read_volume, require_same_grid
from export.recipe import Recipe, SeriesFile
from preprocess.errors import PlanError
from preprocess.geometry import CANONICAL, SliceGeometry
from preprocess.normalisation import HuWindow, PercentileRange, PercentileZScore
from preprocess.plan import SeriesPlan, plan_series
from preprocess.reference import network_image
from preprocess.spec import ModelSpec

__all__ = (
    "Series",
    "network_images",
    "plan_of",
    "read_series",
    "stored_slices",
    "synthetic_series",
)

INT16 = np.iinfo(np.int16)
COARSE = 0.02
"""Largest standard deviation of the rounding error, as a fraction of the voxels' own."""
SYNTHETIC_SLICES = 12


@dataclass(frozen=True)
class Series:
    """One series as it would reach the worker, and its labels.

    Attributes:
        name: Where it came from, as the recipe spells it.
        stored: int16 [slices, rows, columns], the whole series.
        slope: Modality units per stored unit.
        intercept: Modality units at stored value 0.
        geometry: Grid of every slice.
        spacing_mm: Distances between slices, rows and columns.
        labels: uint8 classes on the same grid, or None.
        label_classes: Classes that the labels tell.
        chosen: Slices that are compared.
        synthetic: Whether it was made up.
    """

    name: str
    stored: NDArray[np.int16]
    slope: float
    intercept: float
    geometry: SliceGeometry
    spacing_mm: tuple[float, float, float]
    labels: NDArray[np.uint8] | None
    label_classes: tuple[int, ...]
    chosen: range
    synthetic: bool = False

    @property
    def chosen_spacing_mm(self) -> tuple[float, float, float]:
        """Spacing of the volume that the chosen slices make."""
        between, rows, columns = self.spacing_mm
        return between * self.chosen.step, rows, columns


def read_series(recipe: Recipe, file: SeriesFile, spec: ModelSpec) -> Series:
    """Reads a series of the recipe, sliced in a plane that the model takes.

    A volume is sliced along its own first axis where that plane is one of the model's, else along
    the first axis whose plane is.

    Raises:
        RecipeError: A file cannot be read or used; the message names it, what was expected and
            what came.
    """
    path = recipe.resolve(file.image)
    volume = read_volume(path, spec.route.planes[0])
    if volume.inverted and not isinstance(spec.intensity, PercentileZScore | PercentileRange):
        raise RecipeError(
            f"{path}: expected MONOCHROME2 for {spec.intensity.kind}, got MONOCHROME1, whose "
            "modality values cannot be had back; convert the series"
        )
    axis, geometry = _choose_axis(volume, spec, path)
    labels, classes = _read_labels(recipe, file, spec, volume)
    volume = volume.sliced_along(axis)
    slices = len(volume.voxels)
    if file.first >= slices:
        raise RecipeError(
            f"{path}: expected a slice {file.first} (first), it has 0 to {slices - 1}"
        )
    return Series(
        name=file.image,
        stored=_whole_numbers(volume.voxels, path),
        slope=1.0,
        intercept=0.0,
        geometry=geometry,
        spacing_mm=volume.spacing_mm,
        labels=None if labels is None else labels.sliced_along(axis).voxels.astype(np.uint8),
        label_classes=classes,
        chosen=range(file.first, slices, file.step),
    )


def synthetic_series(spec: ModelSpec) -> Series:
    """A smooth, body-like random volume, so that a model without data can be verified at all.

    It is the same for every call. Its grid is finer than the network's, so that resizing is part
    of the comparison. It says how far engines agree, and nothing about how good the model is.
    """
    spacing = (0.8 * spec.geometry.spacing_mm[0], 0.8 * spec.geometry.spacing_mm[1])
    rows, columns = (round(1.15 * length) for length in spec.geometry.size)
    to_rows, to_columns = CANONICAL[spec.route.planes[0]]
    between = min(2 * max(spacing), spec.route.max_slice_spacing_mm)
    return Series(
        name="synthetic",
        stored=draw_body((SYNTHETIC_SLICES, rows, columns), _value_range(spec)),
        slope=1.0,
        intercept=0.0,
        geometry=SliceGeometry(rows, columns, *spacing, (*to_columns, *to_rows)),
        spacing_mm=(between, *spacing),
        labels=None,
        label_classes=(),
        chosen=range(SYNTHETIC_SLICES),
        synthetic=True,
    )


def plan_of(series: Series, spec: ModelSpec) -> SeriesPlan:
    """The plan of the whole series for the model.

    Raises:
        RecipeError: The series cannot be planned.
    """
    try:
        return plan_series(
            spec,
            series.stored,
            series.geometry,
            slope=series.slope,
            intercept=series.intercept,
        )
    except PlanError as error:
        raise RecipeError(f"{series.name}: {error}") from error


def stored_slices(series: Series) -> NDArray[np.int16]:
    """The chosen slices [chosen, rows, columns], as a caller of the service would send them."""
    return series.stored[series.chosen.start : series.chosen.stop : series.chosen.step]


def network_images(series: Series, spec: ModelSpec) -> NDArray[np.float32]:
    """The chosen slices as the network sees them [chosen, 1, *canvas], by the NumPy reference.

    Raises:
        RecipeError: The series cannot be planned.
    """
    plan = plan_of(series, spec)
    return np.stack([network_image(spec, plan.tensors(one)) for one in stored_slices(series)])


def _choose_axis(volume: Volume, spec: ModelSpec, path: Path) -> tuple[int, SliceGeometry]:
    planes = []
    for axis in range(3):
        sliced = volume.sliced_along(axis)
        down, across = sliced.directions[1:]
        try:
            geometry = SliceGeometry(
                rows=sliced.voxels.shape[1],
                columns=sliced.voxels.shape[2],
                row_spacing_mm=sliced.spacing_mm[1],
                column_spacing_mm=sliced.spacing_mm[2],
                orientation=(*across.tolist(), *down.tolist()),
            )
        except PlanError as error:
            raise RecipeError(f"{path}: {error}") from error
        if geometry.plane in spec.route.planes:
            return axis, geometry
        planes.append(str(geometry.plane))
    raise RecipeError(
        f"{path}: expected slices in one of {[*map(str, spec.route.planes)]} (route.planes), its "
        f"axes give {planes}"
    )


def _read_labels(
    recipe: Recipe, file: SeriesFile, spec: ModelSpec, image: Volume
) -> tuple[Volume | None, tuple[int, ...]]:
    if file.labels is None:
        return None, ()
    path = recipe.resolve(file.labels)
    known = tuple(segment.value for segment in spec.segments)
    if not set(file.label_classes) <= set(known):
        raise RecipeError(
            f"{path}: label_classes: expected classes of {known}, got {file.label_classes}"
        )
    labels = read_volume(path, spec.route.planes[0])
    require_same_grid(labels, image, path)
    values = np.unique(labels.voxels)
    strange = [value for value in values.tolist() if value not in (0, *known)]
    if strange:
        raise RecipeError(
            f"{path}: expected the model's classes {known} and 0, got also {strange[:8]}"
        )
    return labels, file.label_classes or known


def _whole_numbers(voxels: NDArray[Any], path: Path) -> NDArray[np.int16]:
    """Modality units as int16, where that loses nothing that matters."""
    if not np.isfinite(voxels).all():
        raise RecipeError(f"{path}: expected finite values, some are NaN or infinite")
    low, high = voxels.min(), voxels.max()
    if low < INT16.min or high > INT16.max:
        raise RecipeError(
            f"{path}: expected modality units of {INT16.min} to {INT16.max}, got {low} to {high}; "
            "scale them into that range"
        )
    rounded = np.rint(voxels).astype(np.int16)
    if voxels.dtype.kind == "f" and np.std(rounded - voxels) > COARSE * np.std(voxels):
        raise RecipeError(
            f"{path}: expected modality units that whole numbers can tell apart, got {low} to "
            f"{high}; give the values as they came from the scanner, or a multiple of these"
        )
    return rounded


def _value_range(spec: ModelSpec) -> tuple[float, float]:
    """Values a little beyond the window, so that clipping is part of the comparison."""
    if not isinstance(spec.intensity, HuWindow):
        return 0.0, 2000.0
    low, high = spec.intensity.hu_low, spec.intensity.hu_high
    margin = 0.2 * (high - low)
    return max(low - margin, INT16.min), min(high + margin, INT16.max)

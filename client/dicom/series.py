"""What the reader hands on: one checked image series in memory, or why it was refused.

files ──read_study──▶ StudyContent(Series … │ SeriesRefusal …)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from client.errors import RefusalCode
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan, plan_series
from preprocess.spec import ModelSpec

__all__ = ("Series", "SeriesRefusal", "SourceFrame", "StudyContent", "Vector")

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class SourceFrame:
    """The instance, or the frame of a multi-frame instance, that a slice was read from.

    Attributes:
        instance: Place of its file among the series' own, in the order they came.
        frame_number: 1-based (PS3.3 Referenced Frame Number), None for a single-frame instance.
        position_mm: Image Position (Patient) as its header states it.
    """

    instance: int
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position_mm: Vector


@dataclass(frozen=True, eq=False)
class Series:
    """One image series, sorted along its normal and checked to be a regular stack.

    Modality units are ``stored * slope + intercept``. Position of pixel (slice, row, column):
    ``origin_mm + slice * slice_step_mm + row * row_spacing * down + column * column_spacing *
    across`` (PS3.3 C.7.6.2.1.1), in the patient's LPS coordinates.

    Attributes:
        uid: Series Instance UID.
        stored: int16 [slices, rows, columns].
        slope: Modality units per stored value.
        intercept: Modality units at stored value 0.
        inverted: MONOCHROME1: low values are bright.
        geometry: Grid of every slice.
        origin_mm: Centre of the first slice's first pixel.
        slice_step_mm: From each slice to the next.
        slice_thickness_mm: Nominal Slice Thickness, or the slice distance where none is given.
        header: The first instance's attributes, without pixel data, private data and functional
            groups; marked as lossy where any instance is.
        instances: How many files it came in, repeated ones not counted.
        frames: Source of each slice.
        sop_class_uid: SOP Class UID of the instances.
        modality: Modality, upper case.
        body_part: Body Part Examined or the anatomic region's meaning, upper case, "" if unknown.
        description: Series Description, or Protocol Name where there is none. For routing only: may
            hold patient data.
        study_description: Protocol Name and Study Description, under the same rule.
        image_type: Values of Image Type from the third on (the first two say only whether the
            pixels are original), joined by blanks.
    """

    uid: str
    stored: NDArray[np.int16]
    slope: float
    intercept: float
    inverted: bool
    geometry: SliceGeometry
    origin_mm: Vector
    slice_step_mm: Vector
    slice_thickness_mm: float
    header: Dataset
    instances: int
    frames: tuple[SourceFrame, ...]
    sop_class_uid: str
    modality: str
    body_part: str
    description: str
    study_description: str
    image_type: str

    @property
    def slice_distance_mm(self) -> float:
        """Distance between neighbouring slices."""
        return float(np.linalg.norm(self.slice_step_mm))

    @property
    def spacing_mm(self) -> Vector:
        """Distances between neighbouring slices, rows and columns."""
        grid = self.geometry
        return (self.slice_distance_mm, grid.row_spacing_mm, grid.column_spacing_mm)

    @property
    def affine(self) -> NDArray[np.float64]:
        """[4, 4] from (slice, row, column) indices to patient millimetres, LPS."""
        across, down = self.geometry.directions
        matrix = np.eye(4)
        matrix[:3, 0] = self.slice_step_mm
        matrix[:3, 1] = down * self.geometry.row_spacing_mm
        matrix[:3, 2] = across * self.geometry.column_spacing_mm
        matrix[:3, 3] = self.origin_mm
        return matrix

    def plan(self, spec: ModelSpec) -> SeriesPlan:
        """Plan it for a model, see ``plan_series``.

        Raises:
            PlanError: Its values cannot be planned.
        """
        return plan_series(
            spec,
            self.stored,
            self.geometry,
            slope=self.slope,
            intercept=self.intercept,
            inverted=self.inverted,
        )

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres: slice distance x row x column spacing."""
        return float(np.prod(self.spacing_mm)) / 1000


@dataclass(frozen=True)
class SeriesRefusal:
    """Instances that can't be processed.

    Attributes:
        series_uid: Series Instance UID, "" where none could be read. Belongs into encrypted
            results only.
        code: The stable reason.
        reason: What was expected, what came, what to do. No patient data.
        instances: How many files this is about.
    """

    series_uid: str
    code: RefusalCode
    reason: str
    instances: int


@dataclass(frozen=True)
class StudyContent:
    """All that came in one study, in a stable order."""

    series: tuple[Series, ...]
    refusals: tuple[SeriesRefusal, ...]

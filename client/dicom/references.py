"""Source images as the SEG writer needs them: identity and geometry only, always well formed.

Series ──▶ one bare dataset per single-frame instance, or one for a multi-frame instance
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from client.dicom.headers import LOSSY_KEYWORDS
from client.dicom.series import Series, SourceFrame

__all__ = ("frame_order", "source_references")


def source_references(series: Series) -> list[Dataset]:
    """Builds the source datasets, single-frame ones in slice order.

    Scanners' headers break rules that the writer insists on (an unlisted Patient's Sex is enough to
    stop it), so it gets what has been checked; patient and study are copied onto its result later.
    """
    if series.frames[0].frame_number is not None:
        return [_multi_frame(series)]
    references = []
    for frame in series.frames:
        reference = _common(series, frame)
        _add_geometry(reference, reference, reference, series)
        reference.ImagePositionPatient = _decimal(frame.position_mm)
        references.append(reference)
    return references


def frame_order(series: Series, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask in the order of ``source_references``: frame numbers, or slices as they are."""
    if series.frames[0].frame_number is None:
        return mask
    numbers = [frame.frame_number or 0 for frame in series.frames]
    return mask[np.argsort(numbers)]


def _multi_frame(series: Series) -> Dataset:
    reference = _common(series, series.frames[0])
    reference.NumberOfFrames = len(series.frames)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    _add_geometry(measures, orientation, measures, series)
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    reference.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for frame in sorted(series.frames, key=lambda frame: frame.frame_number or 0):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = _decimal(frame.position_mm)
        group.PlanePositionSequence = [position]
        groups.append(group)
    reference.PerFrameFunctionalGroupsSequence = groups
    return reference


def _common(series: Series, frame: SourceFrame) -> Dataset:
    header, reference = series.header, Dataset()
    reference.SOPClassUID = series.sop_class_uid
    reference.SOPInstanceUID = frame.sop_instance_uid
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(reference, keyword, str(header[keyword].value))
    for keyword in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
    ):
        setattr(reference, keyword, "")
    if str(header.get("LossyImageCompression", "")) == "01":
        for keyword in LOSSY_KEYWORDS:
            if keyword in header:
                reference.add(header[keyword])
    reference.Modality = series.modality
    reference.Rows, reference.Columns = series.stored.shape[1:]
    return reference


def _add_geometry(
    measures: Dataset, orientation: Dataset, thickness: Dataset, series: Series
) -> None:
    grid = series.geometry
    measures.PixelSpacing = _decimal((grid.row_spacing_mm, grid.column_spacing_mm))
    orientation.ImageOrientationPatient = _decimal(grid.orientation)
    thickness.SliceThickness = format_number_as_ds(series.slice_thickness_mm)
    thickness.SpacingBetweenSlices = format_number_as_ds(series.slice_distance_mm)


def _decimal(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 6.2, DS)."""
    return [format_number_as_ds(value) for value in values]

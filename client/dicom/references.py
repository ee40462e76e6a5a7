"""A source image as the SEG writer needs it: identity and geometry only, always well formed.

Series ──▶ a bare dataset of its first single-frame instance, or of its multi-frame instance
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from client.dicom.headers import LOSSY_KEYWORDS
from client.dicom.series import Series, SourceFrame

__all__ = ("source_reference",)


def source_reference(series: Series) -> Dataset:
    """Builds a source dataset that stands for all, with one frame where they are multi-frame.

    Scanners' headers break rules that the writer insists on (an unlisted Patient's Sex is enough to
    stop it), so it gets what has been checked; patient and study are copied onto its result later.
    """
    frame = series.frames[0]
    reference = _common(series, frame)
    if frame.frame_number is None:
        _add_geometry(reference, reference, series)
        reference.ImagePositionPatient = _decimal(frame.position_mm)
        return reference
    reference.NumberOfFrames = 1
    measures, orientation, position = Dataset(), Dataset(), Dataset()
    shared, group = Dataset(), Dataset()
    _add_geometry(measures, orientation, series)
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    position.ImagePositionPatient = _decimal(frame.position_mm)
    group.PlanePositionSequence = [position]
    reference.SharedFunctionalGroupsSequence = [shared]
    reference.PerFrameFunctionalGroupsSequence = [group]
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


def _add_geometry(measures: Dataset, orientation: Dataset, series: Series) -> None:
    grid = series.geometry
    measures.PixelSpacing = _decimal((grid.row_spacing_mm, grid.column_spacing_mm))
    orientation.ImageOrientationPatient = _decimal(grid.orientation)
    measures.SliceThickness = format_number_as_ds(series.slice_thickness_mm)
    measures.SpacingBetweenSlices = format_number_as_ds(series.slice_distance_mm)


def _decimal(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 6.2, DS)."""
    return [format_number_as_ds(value) for value in values]

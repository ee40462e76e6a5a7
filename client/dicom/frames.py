"""Where each frame lies and how its values are scaled, classic or enhanced multi-frame alike.

Instance ──▶ Frame (position, orientation, spacing, rescale, what else tells it apart) …
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from pydicom import Dataset

from client.dicom.attributes import Attributes, invalid, items, name_of, number, numbers, text
from client.dicom.parsing import Instance
from client.dicom.plain import once
from client.dicom.series import Vector
from client.errors import RefusalCode, Rejected

__all__ = ("ENHANCED_SOP_CLASSES", "Frame", "read_frames")

Cosines = tuple[float, float, float, float, float, float]

ENHANCED_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    "1.2.840.10008.5.1.4.1.1.128.1",  # Legacy Converted Enhanced PET
    "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET
)
"""Image classes whose geometry lies in multi-frame functional groups."""

GROUP_LABELS = (
    ("FrameContentSequence", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
)
INSTANCE_LABELS = (
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "ImageType",
    "AcquisitionNumber",
)
"""Attributes that tell the volumes of one series apart, in the order they are blamed."""
_CLASSIC_KEYWORDS = (
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    *INSTANCE_LABELS,
)


@dataclass(frozen=True)
class Frame:
    """One slice as its header describes it.

    Attributes:
        number: 1-based frame number, None for a single-frame instance.
        position_mm: Image Position (Patient): centre of the first pixel.
        orientation: Image Orientation (Patient).
        spacing_mm: Pixel Spacing: between rows, between columns.
        thickness_mm: Slice Thickness, None where absent.
        distance_mm: Spacing Between Slices, None where absent.
        slope: Rescale Slope; 1 where there is none.
        intercept: Rescale Intercept; 0 where there is none.
        labels: Attribute name to value, for what may tell several volumes apart.
    """

    number: int | None
    position_mm: Vector
    orientation: Cosines
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    distance_mm: float | None
    slope: float
    intercept: float
    labels: tuple[tuple[str, str], ...]


def read_frames(instance: Instance, frames: int) -> list[Frame]:
    """Reads the geometry of every frame.

    Args:
        instance: A classic single-frame instance (PS3.3 C.7.6.2), or one with multi-frame
            functional groups (C.7.6.16).
        frames: The number of frames its pixel data holds.

    Raises:
        Rejected: ``NO_GEOMETRY`` or ``INVALID_ATTRIBUTE``.
    """
    dataset = instance.dataset
    enhanced = instance.sop_class_uid in ENHANCED_SOP_CLASSES
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence") if enhanced else ()
    shared = next(iter(items(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    if per_frame and len(per_frame) != frames:
        raise invalid("PerFrameFunctionalGroupsSequence", f"{frames} items, one per frame")
    if not per_frame and (enhanced or frames > 1):
        raise _no_geometry("PerFrameFunctionalGroupsSequence")
    found = [_enhanced(index + 1, own, shared) for index, own in enumerate(per_frame)]
    found = found or [_classic(dataset)]
    if not text(dataset, "FrameOfReferenceUID"):
        raise _no_geometry("FrameOfReferenceUID")
    return found


def _classic(dataset: Attributes) -> Frame:
    once(dataset, ("ImageType",), _check_no_mosaic)
    position = cast("Vector", _required(dataset, "ImagePositionPatient", 3))
    return replace(once(dataset, _CLASSIC_KEYWORDS, _classic_beside_position), position_mm=position)


def _check_no_mosaic(dataset: Attributes) -> bool:
    if "MOSAIC" in text(dataset, "ImageType").upper().split("\\"):
        raise Rejected(
            RefusalCode.NO_GEOMETRY,
            "One slice per image was expected, but these are mosaics that tile a whole volume in "
            "one picture; send them as enhanced multi-frame or as single slices.",
        )
    return True


def _classic_beside_position(dataset: Attributes) -> Frame:
    labels = ((name_of(keyword), text(dataset, keyword)) for keyword in INSTANCE_LABELS)
    return Frame(
        number=None,
        position_mm=(0.0, 0.0, 0.0),
        orientation=cast("Cosines", _required(dataset, "ImageOrientationPatient", 6)),
        spacing_mm=cast("tuple[float, float]", _required(dataset, "PixelSpacing", 2)),
        thickness_mm=number(dataset, "SliceThickness"),
        distance_mm=number(dataset, "SpacingBetweenSlices"),
        slope=_scale(dataset, "RescaleSlope", 1.0),
        intercept=_scale(dataset, "RescaleIntercept", 0.0),
        labels=tuple(labels),
    )


def _enhanced(frame_number: int, own: Dataset, shared: Dataset) -> Frame:
    """Functional group macros may lie with the frame or be shared by all (C.7.6.16.1)."""

    def group(keyword: str) -> Dataset:
        found = items(own, keyword) or items(shared, keyword)
        return found[0] if found else Dataset()

    measures, scaling = group("PixelMeasuresSequence"), group("PixelValueTransformationSequence")
    return Frame(
        number=frame_number,
        position_mm=cast(
            "Vector", _required(group("PlanePositionSequence"), "ImagePositionPatient", 3)
        ),
        orientation=cast(
            "Cosines", _required(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        ),
        spacing_mm=cast("tuple[float, float]", _required(measures, "PixelSpacing", 2)),
        thickness_mm=number(measures, "SliceThickness"),
        distance_mm=number(measures, "SpacingBetweenSlices"),
        slope=_scale(scaling, "RescaleSlope", 1.0),
        intercept=_scale(scaling, "RescaleIntercept", 0.0),
        labels=tuple(
            (name_of(keyword), text(group(sequence), keyword)) for sequence, keyword in GROUP_LABELS
        ),
    )


def _required(dataset: Attributes, keyword: str, count: int) -> tuple[float, ...]:
    found = numbers(dataset, keyword, count)
    if found is None:
        raise _no_geometry(keyword)
    return found


def _scale(dataset: Attributes, keyword: str, default: float) -> float:
    found = number(dataset, keyword)
    if found == 0 and keyword == "RescaleSlope":
        raise invalid(keyword, "a number other than 0")
    return default if found is None else found


def _no_geometry(keyword: str) -> Rejected:
    return Rejected(
        RefusalCode.NO_GEOMETRY,
        "Images with a position in the patient were expected (Image Position, Image Orientation, "
        f"Pixel Spacing, Frame of Reference UID), but {name_of(keyword)} is missing; send the "
        "original CT or MR images, not secondary captures, projections or cine loops.",
    )

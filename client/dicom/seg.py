"""Writes a mask as a DICOM Segmentation that lies exactly on its source images.

Series + mask + ModelSpec ──▶ source references ──highdicom──▶ patient, study ──▶ Part 10 bytes
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from io import BytesIO

import numpy as np
from highdicom import AlgorithmIdentificationSequence, CoordinateSystemNames, PlanePositionSequence
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from client.dicom.attributes import number
from client.dicom.headers import PATIENT_AND_STUDY
from client.dicom.quiet import quiet
from client.dicom.references import frame_order, source_references
from client.dicom.series import Series
from preprocess.spec import Code, ModelSpec, SegmentSpec

__all__ = ("Provenance", "build_segmentation", "result_uid")

MANUFACTURER = "Hounsfield"
SERIES_NUMBER_OFFSET = 1000
"""A result's series number is its source's plus this, so that it sorts behind the images."""


@dataclass(frozen=True)
class Provenance:
    """What made a result.

    Attributes:
        job_id: The job, the same on every attempt: results of a repeated attempt keep their UIDs.
        software_version: Version of this software.
        engine: Inference engine and device, as "OpenVINO 2026.4 CPU".
        model_sha256: Hash of the network's weights as served.
        created_at: When the job was accepted, with its time zone.
    """

    job_id: str
    software_version: str
    engine: str
    model_sha256: str
    created_at: datetime


def result_uid(series: Series, spec: ModelSpec, provenance: Provenance, kind: str) -> str:
    """A UUID-derived UID (PS3.5 B.2) that is the same on every attempt at one job."""
    key = "\0".join((provenance.job_id, series.uid, series.sop_class_uid, spec.sha256, kind))
    return f"2.25.{uuid.UUID(bytes=sha256(key.encode()).digest()[:16], version=4).int}"


def build_segmentation(
    series: Series, mask: NDArray[np.uint8], spec: ModelSpec, provenance: Provenance
) -> bytes:
    """Encodes a mask as a BINARY Segmentation Storage instance (PS3.3 A.51).

    Every segment of the model is described, so that a segment number always means the same; only
    frames with voxels are stored. A mask without any voxel is stored as the empty frames of its
    middle slice, since an instance without frames may not be.

    Args:
        series: The source; each frame refers to its source instance or frame.
        mask: uint8 [slices, rows, columns], 0 or the value of a segment.
        spec: Segments, codes, colours and the algorithm's identity.
        provenance: What made the mask.

    Returns:
        A Part 10 file in Explicit VR Little Endian.

    Raises:
        ValueError: The mask is not on the series' grid, or holds a value without a segment.
    """
    if mask.shape != series.stored.shape:
        raise ValueError(f"expected a mask of {series.stored.shape}, got {mask.shape}")
    pixels = frame_order(series, mask)
    empty = not mask.any()
    middle = len(mask) // 2
    with quiet():
        seg = Segmentation(
            source_images=source_references(series),
            pixel_array=pixels[:1] * 0 if empty else pixels,
            plane_positions=[_plane_position(series, middle)] if empty else None,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe(segment, spec, result_uid(series, spec, provenance, segment.label))
                for segment in spec.segments
            ],
            series_instance_uid=result_uid(series, spec, provenance, "series"),
            series_number=_series_number(series),
            sop_instance_uid=result_uid(series, spec, provenance, "segmentation"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=_clipped(f"{spec.name} {spec.version}"),
            software_versions=_clipped(provenance.software_version),
            device_serial_number=spec.sha256[:16],
            series_description=_clipped(spec.title),
            content_label=re.sub(r"[^A-Z0-9_]", "_", spec.name.upper())[:16],
            content_description=_clipped(spec.intended_use),
            content_creator_name=MANUFACTURER,
            specific_character_set="ISO_IR 192",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=not empty,
        )
        _settle(seg, series, spec, provenance)
        stream = BytesIO()
        seg.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _describe(segment: SegmentSpec, spec: ModelSpec, tracking_uid: str) -> SegmentDescription:
    return SegmentDescription(
        segment_number=segment.value,
        segment_label=segment.label,
        segmented_property_category=_concept(segment.category),
        segmented_property_type=_concept(segment.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=_clipped(spec.title),
            version=str(spec.version),
            family=codes.cid7162.ArtificialIntelligence,
            source=MANUFACTURER,
            parameters={"model": spec.name, "spec_sha256": spec.sha256},
        ),
        tracking_uid=tracking_uid,
        tracking_id=segment.label,
        anatomic_regions=[_concept(segment.anatomy)] if segment.anatomy else None,
        display_color=CIELabColor.from_rgb(*segment.color),
    )


def _settle(seg: Segmentation, series: Series, spec: ModelSpec, provenance: Provenance) -> None:
    """Files the result under the source's patient and study, and fixes what would be random."""
    header = series.header
    for keyword in PATIENT_AND_STUDY:
        if keyword in header:
            seg.add(header[keyword])
    moment = _local(provenance.created_at, str(header.get("TimezoneOffsetFromUTC", "")))
    for prefix in ("InstanceCreation", "Content", "Series"):
        setattr(seg, f"{prefix}Date", moment.strftime("%Y%m%d"))
        setattr(seg, f"{prefix}Time", moment.strftime("%H%M%S"))
    for equipment in seg.ContributingEquipmentSequence:
        equipment["ContributionDateTime"].value = moment.strftime("%Y%m%d%H%M%S")
    organization = result_uid(series, spec, provenance, "dimensions")
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization


def _local(moment: datetime, offset: str) -> datetime:
    """The moment in the zone that the study's own times are in, where it names one."""
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", offset.strip())
    if found is None:
        return moment
    sign, hours, minutes = found.groups()
    shift = timedelta(hours=int(hours), minutes=int(minutes))
    return moment.astimezone(timezone(-shift if sign == "-" else shift))


def _plane_position(series: Series, index: int) -> PlanePositionSequence:
    return PlanePositionSequence(
        CoordinateSystemNames.PATIENT, list(series.frames[index].position_mm)
    )


def _series_number(series: Series) -> int:
    source = number(series.header, "SeriesNumber") or 0.0
    return SERIES_NUMBER_OFFSET + int(min(abs(source), 1e6))


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _clipped(text: str) -> str:
    """At most 64 characters, as value representation LO allows."""
    return text[:64]

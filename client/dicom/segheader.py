"""All of a DICOM Segmentation that highdicom knows best: segments, dimensions, patient, equipment.

Series + ModelSpec + source images ──highdicom──▶ patient, study, dates ──▶ Part 10 bytes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from client.dicom.attributes import number
from client.dicom.headers import PATIENT_AND_STUDY
from client.dicom.provenance import Provenance, result_uid
from client.dicom.quiet import quiet
from client.dicom.references import source_reference
from client.dicom.series import Series
from preprocess.spec import Code, ModelSpec, SegmentSpec

__all__ = ("encode_instance", "encode_model")

MANUFACTURER = "Hounsfield"
SERIES_NUMBER_OFFSET = 1000
"""A result's series number is its source's plus this, so that it sorts behind the images."""


def encode_model(series: Series, spec: ModelSpec, provenance: Provenance) -> bytes:
    """The instance for one voxel of the first segment in the first slice, to be filled in."""
    pixels = np.zeros((1, *series.stored.shape[1:]), dtype=np.uint8)
    pixels[0, 0, 0] = 1
    return encode_instance(series, spec, provenance, [source_reference(series)], pixels)


def encode_instance(
    series: Series,
    spec: ModelSpec,
    provenance: Provenance,
    sources: Sequence[Dataset],
    pixels: NDArray[np.uint8],
    **frames: Any,
) -> bytes:
    """Has highdicom build and pydicom write a BINARY Segmentation Storage instance.

    Args:
        series: Whose patient and study it is.
        spec: Segments, codes, colours and the algorithm's identity.
        provenance: What made the mask.
        sources: Source images, see ``source_reference``.
        pixels: Values of segments [frames of the sources, rows, columns].
        frames: Further options of highdicom's ``Segmentation`` about frames.

    Returns:
        A Part 10 file in Explicit VR Little Endian, all sequences with stated lengths.
    """
    with quiet():
        seg = Segmentation(
            source_images=sources,
            pixel_array=pixels,
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
            **frames,
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


def _series_number(series: Series) -> int:
    source = number(series.header, "SeriesNumber") or 0.0
    return SERIES_NUMBER_OFFSET + int(min(abs(source), 1e6))


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _clipped(text: str) -> str:
    """At most 64 characters, as value representation LO allows."""
    return text[:64]

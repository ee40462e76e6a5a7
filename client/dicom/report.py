"""The measurements file: what was found, by what, in which series, and what was refused and why.

series results + refusals + provenance ──▶ measurements JSON (schema in docs/dicom-conformance.md)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from client.dicom.measure import StructureMeasurement
from client.dicom.provenance import Provenance
from client.dicom.series import Series, SeriesRefusal
from preprocess.spec import ModelSpec

__all__ = ("SCHEMA", "SeriesResult", "series_result", "write_report")

SCHEMA = "hounsfield.measurements/1"


@dataclass(frozen=True)
class SeriesResult:
    """What the report says of one segmented series.

    Attributes:
        series_uid: Series Instance UID of the source; the report is only ever stored encrypted.
        sop_class_uid: SOP class of its instances.
        modality: Its modality.
        plane: Its anatomical plane.
        slices: Number of slices.
        spacing_mm: Distances between slices, rows and columns.
        segmentation_uid: SOP Instance UID of the DICOM SEG.
        model: Name of the model.
        model_version: Its version.
        spec_sha256: Hash of its description.
        intended_use: What the model may be used for, in its own words.
        intensity_unit: "HU" for CT, "1" (arbitrary) otherwise.
        structures: One measurement per segment.
    """

    series_uid: str
    sop_class_uid: str
    modality: str
    plane: str
    slices: int
    spacing_mm: tuple[float, float, float]
    segmentation_uid: str
    model: str
    model_version: int
    spec_sha256: str
    intended_use: str
    intensity_unit: str
    structures: tuple[StructureMeasurement, ...]


def series_result(
    series: Series,
    spec: ModelSpec,
    segmentation_uid: str,
    structures: Sequence[StructureMeasurement],
) -> SeriesResult:
    """Collects what the report says of a series, so that the pixels may be let go."""
    return SeriesResult(
        series_uid=series.uid,
        sop_class_uid=series.sop_class_uid,
        modality=series.modality,
        plane=str(series.geometry.plane),
        slices=len(series.stored),
        spacing_mm=series.spacing_mm,
        segmentation_uid=segmentation_uid,
        model=spec.name,
        model_version=spec.version,
        spec_sha256=spec.sha256,
        intended_use=spec.intended_use,
        intensity_unit="HU" if series.modality == "CT" else "1",
        structures=tuple(structures),
    )


def write_report(
    results: Sequence[SeriesResult],
    refusals: Sequence[SeriesRefusal],
    provenance: Provenance,
    stages_s: Mapping[str, float],
) -> bytes:
    """Encodes the measurements file.

    Args:
        results: Series that were segmented.
        refusals: Series and files that were not.
        provenance: What made the result.
        stages_s: Seconds per stage of the job, in their order.

    Returns:
        UTF-8 JSON, indented; floats are rounded to what they mean (1e-6).
    """
    content = {
        "schema": SCHEMA,
        "job": provenance.job_id,
        "created_at": provenance.created_at.isoformat(),
        "software": {"name": "hounsfield", "version": provenance.software_version},
        "engine": {"name": provenance.engine, "model_sha256": provenance.model_sha256},
        "stages_s": dict(stages_s),
        "series": [asdict(result) for result in results],
        "refusals": [asdict(refusal) for refusal in refusals],
    }
    return json.dumps(_rounded(content), indent=2, ensure_ascii=False).encode()


def _rounded(content: Any) -> Any:
    """Nested content with short floats."""
    if isinstance(content, float):
        return round(content, 6)
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_rounded(value) for value in content]
    return content

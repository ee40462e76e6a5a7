"""The DICOM SEG as highdicom and pydicom write all of it by themselves: slow, and the reference."""

from __future__ import annotations

import numpy as np
from highdicom import CoordinateSystemNames, PlanePositionSequence
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from client.dicom.provenance import Provenance
from client.dicom.references import source_reference
from client.dicom.segheader import encode_instance
from client.dicom.series import Series
from preprocess.spec import ModelSpec

__all__ = ("plain_segmentation",)


def plain_segmentation(
    series: Series, mask: NDArray[np.uint8], spec: ModelSpec, provenance: Provenance
) -> bytes:
    """What ``build_segmentation`` is compared with."""
    sources = _sources(series)
    if mask.any():
        return encode_instance(
            series, spec, provenance, sources, _frame_order(series, mask), omit_empty_frames=True
        )
    middle = series.frames[len(mask) // 2].position_mm
    return encode_instance(
        series,
        spec,
        provenance,
        sources,
        mask[:1],
        plane_positions=[PlanePositionSequence(CoordinateSystemNames.PATIENT, list(middle))],
        omit_empty_frames=False,
    )


def _sources(series: Series) -> list[Dataset]:
    """All single-frame instances in slice order, or the multi-frame one with all its frames."""
    sources = []
    for frame in series.frames:
        source = source_reference(series)
        source.SOPInstanceUID = frame.sop_instance_uid
        position = [format_number_as_ds(value) for value in frame.position_mm]
        if frame.frame_number is None:
            source.ImagePositionPatient = position
        else:
            source.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[
                0
            ].ImagePositionPatient = position
        sources.append(source)
    if series.frames[0].frame_number is None:
        return sources
    ordered = [sources[index] for index in _numbers(series)]
    whole = ordered[0]
    whole.NumberOfFrames = len(ordered)
    whole.PerFrameFunctionalGroupsSequence = [
        source.PerFrameFunctionalGroupsSequence[0] for source in ordered
    ]
    return [whole]


def _frame_order(series: Series, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return mask if series.frames[0].frame_number is None else mask[_numbers(series)]


def _numbers(series: Series) -> NDArray[np.intp]:
    return np.argsort([frame.frame_number or 0 for frame in series.frames])

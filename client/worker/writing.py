"""Makes the result of one series, in a process that stays.

series + masks on the canvas ──write_series──▶ DICOM SEG + measurements
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from highdicom import SOPClass
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from client.dicom.measure import measure
from client.dicom.provenance import Provenance, result_uid
from client.dicom.report import SeriesResult, series_result
from client.dicom.seg import place_segmentation
from client.dicom.series import Series
from client.dicom.tally import take_tally
from preprocess.cleanup import folded_mask
from preprocess.plan import SeriesPlan
from preprocess.spec import ModelSpec

__all__ = ("WrittenSeries", "prepare_writing", "write_series")


def prepare_writing() -> None:
    """Make the writer read the tables of the standard (0.3 s), which it keeps from then on."""
    example = SOPClass(
        study_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        series_number=1,
        sop_instance_uid="2.25.3",
        sop_class_uid=SegmentationStorage,
        instance_number=1,
        modality="SEG",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_birth_date="",
    )
    example.save_as(BytesIO(), enforce_file_format=True)


@dataclass(frozen=True, eq=False)
class WrittenSeries:
    """The outputs of one series: a Part 10 DICOM SEG and its part of the report."""

    segmentation: NDArray[np.uint8]
    result: SeriesResult


def write_series(
    series: Series,
    plan: SeriesPlan,
    canvas: NDArray[np.uint8],
    spec: ModelSpec,
    provenance: Provenance,
) -> WrittenSeries:
    """Bring the masks of one series home; make its DICOM SEG and its measurements.

    Args:
        series: The source; its stored values are lost: the DICOM SEG goes over them, if it fits.
        plan: By which the network saw it.
        canvas: The network's masks, uint8 [slices, canvas rows, canvas columns].
        spec: The model that made them.
        provenance: What else made them.
    """
    mask = folded_mask(plan, canvas, series.spacing_mm, spec)
    tally = take_tally(series.stored, mask, len(spec.segments) + 1)
    uid = result_uid(series, spec, provenance, "segmentation")
    result = series_result(series, spec, uid, measure(series, mask, spec, tally))
    room = series.stored.reshape(-1).view(np.uint8)
    segmentation = place_segmentation(series, mask, spec, provenance, tally, room=room)
    return WrittenSeries(segmentation, result)

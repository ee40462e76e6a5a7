"""The CPU-bound steps of a study, pure functions that run in a process of their own.

bundle ──read_bundle_study──▶ series │ refusals
series + masks on the canvas ──write_series──▶ DICOM SEG + measurements
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.dicom.measure import measure
from client.dicom.reader import read_study
from client.dicom.report import SeriesResult, series_result
from client.dicom.seg import Provenance, build_segmentation, result_uid
from client.dicom.series import Series, StudyContent
from client.ingest.bundle import read_bundle
from client.limits import BundleLimits, ReadLimits
from preprocess.cleanup import native_mask
from preprocess.plan import SeriesPlan
from preprocess.spec import ModelSpec

__all__ = ("WrittenSeries", "read_bundle_study", "write_series")


@dataclass(frozen=True, eq=False)
class WrittenSeries:
    """The outputs of one series: a Part 10 DICOM SEG and its part of the report."""

    segmentation: bytes
    result: SeriesResult


def read_bundle_study(
    bundle: bytearray,
    bundle_limits: BundleLimits,
    read_limits: ReadLimits,
    modalities: Collection[str],
) -> StudyContent:
    """Read a decrypted bundle into checked series.

    Raises:
        Rejected: The bundle itself is not one; refusals of single series are in the answer.
    """
    return read_study(read_bundle(bundle, bundle_limits), read_limits, modalities)


def write_series(
    series: Series,
    plan: SeriesPlan,
    canvas: NDArray[np.uint8],
    spec: ModelSpec,
    provenance: Provenance,
) -> WrittenSeries:
    """Bring the masks of one series home; make its DICOM SEG and its measurements.

    Args:
        series: The source.
        plan: By which the network saw it.
        canvas: The network's masks, uint8 [slices, canvas rows, canvas columns].
        spec: The model that made them.
        provenance: What else made them.
    """
    mask = native_mask(plan, canvas, series.spacing_mm, spec)
    uid = result_uid(series, spec, provenance, "segmentation")
    return WrittenSeries(
        segmentation=build_segmentation(series, mask, spec, provenance),
        result=series_result(series, spec, uid, measure(series, mask, spec)),
    )

"""A writer makes what the steps by themselves make, and puts it where the images were."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from client.dicom.measure import measure
from client.dicom.provenance import Provenance, result_uid
from client.dicom.reader import read_study
from client.dicom.report import series_result
from client.dicom.seg import build_segmentation
from client.limits import ReadLimits
from client.worker.writing import write_series
from preprocess.cleanup import native_mask
from preprocess.spec import ModelSpec
from tests.dicom_factory import Recipe, classic_files

pytestmark = pytest.mark.unit

PROVENANCE = Provenance("job", "1", "OpenVINO", "0" * 64, datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(("side", "fits"), [(160, True), (8, False)])
def test_a_result_goes_over_the_images_if_it_fits(
    brain_mr: ModelSpec, side: int, fits: bool
) -> None:
    draw = np.random.default_rng(1)
    values = draw.integers(0, 4000, (4, side, side)).astype(np.uint16)
    (series,) = read_study(classic_files(Recipe(values)), ReadLimits()).series
    plan = series.plan(brain_mr)
    canvas = np.zeros((4, *brain_mr.geometry.size), np.uint8)
    canvas[1:, 100:150, 90:140] = draw.integers(0, 3, (3, 1, 50))
    mask = native_mask(plan, canvas, series.spacing_mm, brain_mr)
    uid = result_uid(series, brain_mr, PROVENANCE, "segmentation")
    result = series_result(series, brain_mr, uid, measure(series, mask, brain_mr))
    segmentation = build_segmentation(series, mask, brain_mr, PROVENANCE)
    given = canvas.copy()

    written = write_series(series, plan, canvas, brain_mr, PROVENANCE)

    assert written.segmentation.tobytes() == segmentation
    assert written.result == result
    assert np.shares_memory(written.segmentation, series.stored) is fits
    np.testing.assert_array_equal(canvas, given)

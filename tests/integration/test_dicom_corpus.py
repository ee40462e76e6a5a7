"""Every DICOM file at hand ends as a routed series or a coded refusal: none crashes, none hangs."""

from __future__ import annotations

import os
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from client.dicom.measure import measure
from client.dicom.readback import read_mask
from client.dicom.reader import read_study
from client.dicom.seg import build_segmentation
from client.errors import RefusalCode
from client.limits import ReadLimits
from preprocess.spec import ModelSpec
from tests.corpus import Sample, corpus, outcome_table, read_and_route
from tests.unit.test_dicom_results import PROVENANCE

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("HOUNSFIELD_TEST_DATA", ROOT.parent / "shared" / "data"))
ABDOMEN = DATA / "abdomen-ct"
CODES = {"RESULT", *RefusalCode}
LONGEST_S = 10.0

SAMPLES = corpus()


def sample(name: str) -> Sample:
    return next(sample for sample in SAMPLES if sample.name.endswith(name))


def test_the_corpus_is_there() -> None:
    assert len(SAMPLES) > 250


def test_every_sample_ends_with_a_code(brain_mr: ModelSpec) -> None:
    for one in SAMPLES:
        start = time.perf_counter()
        outcomes = read_and_route(one, [brain_mr])
        assert time.perf_counter() - start < LONGEST_S, one.name
        assert outcomes, one.name
        assert {outcome.code for outcome in outcomes} <= CODES
        assert all(outcome.reason for outcome in outcomes)


def test_the_documented_table_is_the_present_one(brain_mr: ModelSpec) -> None:
    outcomes = [outcome for one in SAMPLES for outcome in read_and_route(one, [brain_mr])]
    documented = (ROOT / "docs" / "corpus-outcomes.md").read_text(encoding="utf-8")
    assert outcome_table(SAMPLES, outcomes) == documented, "run python -m scripts.corpus_table"


def test_whatever_is_readable_can_be_written_back(brain_mr: ModelSpec) -> None:
    """Real headers of many vendors: a mask on each grid survives SEG and back."""
    written = 0
    for one in SAMPLES:
        for series in read_study(one.files(), ReadLimits()).series:
            numbers = np.arange(series.stored.size).reshape(series.stored.shape)
            mask = (numbers % 12).astype(np.uint8)
            data = build_segmentation(series, mask, brain_mr, PROVENANCE)
            np.testing.assert_array_equal(read_mask(data, series), mask)
            written += 1
    assert written >= 45


def test_all_files_in_one_study_do_not_disturb_each_other() -> None:
    files = [file for one in SAMPLES if len(one.paths) == 1 for file in one.files()]
    content = read_study(files, ReadLimits())
    told = sum(refusal.instances for refusal in content.refusals)
    told += sum(series.instances for series in content.series)
    assert len(files) - 80 < told <= len(files)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR2_J2KR.dcm", "MR2_UNCR.dcm"),
    ],
)
def test_compressed_twins_have_the_same_pixels(name: str, twin: str) -> None:
    first, second = (
        read_study(sample(each).files(), ReadLimits()).series[0] for each in (name, twin)
    )
    np.testing.assert_array_equal(first.stored, second.stored)


def test_sign_mismatch_of_jpeg_2000_is_corrected() -> None:
    series = read_study(sample("J2K_pixelrep_mismatch.dcm").files(), ReadLimits()).series[0]
    assert (series.stored.min(), series.stored.max()) == (-2000, 1896)


def test_a_codestream_that_no_decoder_reads() -> None:
    """JPEG-lossy.dcm is such a file; it gets the geometry that it lacks to come that far."""
    instance = dcmread(BytesIO(sample("JPEG-lossy.dcm").files()[0][1]))
    instance.FrameOfReferenceUID, instance.SliceThickness = "1.2.3", "1"
    instance.ImagePositionPatient = ["0", "0", "0"]
    instance.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    stream = BytesIO()
    instance.save_as(stream)
    refusal = read_study([("x", stream.getvalue())], ReadLimits()).refusals[0]
    assert refusal.code == "UNDECODABLE"
    assert "JPEG Extended" in refusal.reason


def test_a_series_of_a_directory_becomes_one_volume() -> None:
    series = read_study(sample("98892003/MR700/*").files(), ReadLimits())
    slices = sum(len(one.stored) for one in series.series)
    assert slices + sum(refusal.instances for refusal in series.refusals) == 7


@pytest.mark.skipif(not ABDOMEN.is_dir(), reason=f"no real CT series at {ABDOMEN}")
def test_real_ct_series(brain_mr: ModelSpec) -> None:
    """De-identification blanked its UIDs: refused as it is, read once they are filled in."""
    files = [(path.name, path.read_bytes()) for path in sorted(ABDOMEN.glob("*.dcm"))]
    refusal = read_study(files, ReadLimits()).refusals[0]
    assert (refusal.code, refusal.instances) == ("INVALID_ATTRIBUTE", 20)

    series = read_study([(name, _with_uids(data)) for name, data in files], ReadLimits()).series[0]
    assert series.stored.shape == (20, 512, 512)
    assert (series.slope, series.intercept) == (1.0, -1024.0)
    assert series.spacing_mm == pytest.approx((2.0, 0.9765625, 0.9765625))
    assert series.slice_thickness_mm == 3.0
    heights = [frame.position_mm[2] for frame in series.frames]
    assert heights == sorted(heights)
    units = series.stored * series.slope + series.intercept
    assert units.min() >= -1024
    mask = (units > 200).astype(np.uint8)
    data = build_segmentation(series, mask, brain_mr, PROVENANCE)
    np.testing.assert_array_equal(read_mask(data, series), mask)
    bone = measure(series, mask, brain_mr)[0]
    assert bone.mean == pytest.approx(units[mask > 0].mean())
    assert bone.volume_ml == pytest.approx(mask.sum() * 2.0 * 0.9765625**2 / 1000)


def _with_uids(data: bytes) -> bytes:
    instance = dcmread(BytesIO(data))
    instance.SOPClassUID = instance.file_meta.MediaStorageSOPClassUID
    instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID
    instance.StudyInstanceUID, instance.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    stream = BytesIO()
    instance.save_as(stream)
    return stream.getvalue()

"""Results lie exactly on their images: the SEG, the measurements and the report agree."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from highdicom.seg import Segmentation
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from client.dicom.measure import measure
from client.dicom.provenance import Provenance, result_uid
from client.dicom.readback import read_mask, source_series_uid
from client.dicom.reader import read_study
from client.dicom.report import SCHEMA, series_result, write_report
from client.dicom.seg import build_segmentation
from client.dicom.series import Series, SeriesRefusal
from client.errors import RefusalCode
from client.limits import ReadLimits
from preprocess.spec import ModelSpec
from tests.dicom_factory import ORIENTATIONS, Recipe, classic_files, enhanced_file

pytestmark = pytest.mark.unit

SHAPE = (5, 9, 7)
PROVENANCE = Provenance(
    job_id="0b5b5a1e-0000-4000-8000-000000000001",
    software_version="0.1.0",
    engine="OpenVINO 2026.4 CPU",
    model_sha256="ab" * 32,
    created_at=datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC),
)
MASK = np.random.default_rng(1).integers(0, 12, SHAPE).astype(np.uint8)
MASK[3] = 0
MASK[:, :, 0] = 0


def recipe_of(orientation: str, **changes: Any) -> Recipe:
    values = np.random.default_rng(2).integers(-500, 1500, SHAPE).astype(np.int16)
    return Recipe(
        values,
        orientation=ORIENTATIONS[orientation],
        spacing_mm=(0.7, 1.3),
        distance_mm=2.5,
        order=[4, 1, 0, 3, 2],
        **changes,
    )


def series_of(make: Any = classic_files, orientation: str = "oblique", **changes: Any) -> Series:
    return read_study(make(recipe_of(orientation, **changes)), ReadLimits()).series[0]


def places(index: NDArray[Any], labels: NDArray[Any], affine: NDArray[Any]) -> Counter[Any]:
    """Every labelled voxel as (patient position to 0.01 mm, label)."""
    position = (np.c_[index, np.ones(len(index))] @ affine.T)[:, :3]
    return Counter(
        (*row, label) for row, label in zip(position.round(2) + 0.0, labels, strict=True)
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("make", [classic_files, enhanced_file])
def test_masks_lie_where_they_belong_in_the_patient(
    brain_mr: ModelSpec, orientation: str, make: Any
) -> None:
    series = series_of(make, orientation)
    data = build_segmentation(series, MASK, brain_mr, PROVENANCE)
    volume = Segmentation.from_dataset(dcmread(BytesIO(data))).get_volume(combine_segments=True)
    found = np.argwhere(volume.array)
    recipe = recipe_of(orientation)
    index = np.argwhere(MASK)
    wanted = Counter(
        (*row, label)
        for row, label in zip(
            recipe.patient_mm(index).round(2) + 0.0, MASK[tuple(index.T)], strict=True
        )
    )
    assert places(found, volume.array[tuple(found.T)], volume.affine) == wanted
    np.testing.assert_array_equal(read_mask(data, series), MASK)


def test_each_frame_refers_to_its_source_image(brain_mr: ModelSpec) -> None:
    series = series_of()
    seg = Segmentation.from_dataset(
        dcmread(BytesIO(build_segmentation(series, MASK, brain_mr, PROVENANCE)))
    )
    uids = [frame.sop_instance_uid for frame in series.frames]
    masks = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(masks, MASK)
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == series.uid
    assert [item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence] == uids

    enhanced = series_of(enhanced_file)
    seg = Segmentation.from_dataset(
        dcmread(BytesIO(build_segmentation(enhanced, MASK, brain_mr, PROVENANCE)))
    )
    numbers = [frame.frame_number or 0 for frame in enhanced.frames]
    masks = seg.get_pixels_by_source_frame(
        enhanced.frames[0].sop_instance_uid,
        numbers,
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(masks, MASK)


def test_segments_say_what_they_are(brain_mr: ModelSpec) -> None:
    seg = dcmread(BytesIO(build_segmentation(series_of(), MASK, brain_mr, PROVENANCE)))
    assert seg.SegmentationType == "BINARY"
    assert seg.SegmentsOverlap == "NO"
    assert len(seg.SegmentSequence) == len(brain_mr.segments)
    for item, segment in zip(seg.SegmentSequence, brain_mr.segments, strict=True):
        assert item.SegmentNumber == segment.value
        assert item.SegmentLabel == segment.label
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodingSchemeDesignator, kind.CodeValue) == ("SCT", segment.type.value)
        assert len(item.RecommendedDisplayCIELabValue) == 3
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (brain_mr.title, "1")
        assert brain_mr.sha256 in algorithm.AlgorithmParameters
    assert seg.SegmentSequence[0].AnatomicRegionSequence[0].CodeMeaning == "Brain"
    present = sum(len(np.unique(plane[plane > 0])) for plane in MASK)
    assert seg.NumberOfFrames == present


def test_the_result_files_with_its_patient_and_study(brain_mr: ModelSpec) -> None:
    odd = {
        "PatientName": "Müller^Jörg",
        "SpecificCharacterSet": "ISO_IR 100",
        "TimezoneOffsetFromUTC": "+0530",
        "StudyDescription": "Kopf",
        "PatientComments": "not needed",
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "8",
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    series = series_of(attributes=odd)
    seg = dcmread(BytesIO(build_segmentation(series, MASK, brain_mr, PROVENANCE)))
    assert str(seg.PatientName) == "Müller^Jörg"
    assert (seg.PatientID, seg.PatientBirthDate, seg.PatientSex) == ("F-1", "19700101", "O")
    assert (seg.StudyInstanceUID, seg.AccessionNumber) == ("1.2.826.0.1.77", "A1")
    assert (seg.StudyDate, seg.StudyTime, seg.StudyDescription) == ("20260102", "101112", "Kopf")
    assert seg.FrameOfReferenceUID == "1.2.826.0.1.77.0"
    assert (seg.ContentDate, seg.ContentTime) == ("20260506", "123809")
    assert (seg.Manufacturer, seg.SoftwareVersions) == ("Hounsfield", "0.1.0")
    assert (seg.SeriesDescription, seg.SeriesNumber) == (brain_mr.title, 1003)
    assert (seg.LossyImageCompression, seg.LossyImageCompressionRatio) == ("01", 8)
    assert "PatientComments" not in seg


def test_headers_that_break_rules_do_not_stop_the_result(brain_mr: ModelSpec) -> None:
    files = [
        (
            name,
            data.replace(b"19700101", b"1970-1-1")
            .replace(b"\x10\x00\x40\x00CS\x02\x00O ", b"\x10\x00\x40\x00CS\x02\x00X7")
            .replace(b"20260102", b"26.01.02")
            .replace(b"Factory^Made", b"A=B=C=D=E^^ "),
        )
        for name, data in classic_files(recipe_of("axial"))
    ]
    series = read_study(files, ReadLimits()).series[0]
    data = build_segmentation(series, MASK, brain_mr, PROVENANCE)
    assert b"1970-1-1" in data
    np.testing.assert_array_equal(read_mask(data, series), MASK)


def test_headers_without_patient_or_study_details(brain_mr: ModelSpec) -> None:
    def strip(instance: Dataset, _: int) -> None:
        for keyword in ("PatientName", "PatientID", "StudyID", "StudyDate", "SeriesNumber"):
            delattr(instance, keyword)

    files = classic_files(recipe_of("axial"), strip)
    series = read_study(files, ReadLimits()).series[0]
    seg = dcmread(BytesIO(build_segmentation(series, MASK, brain_mr, PROVENANCE)))
    assert (seg.PatientID, seg.StudyID, seg.SeriesNumber) == ("", "", 1000)


def test_a_repeated_attempt_gives_the_same_bytes(brain_mr: ModelSpec) -> None:
    series = series_of()
    first = build_segmentation(series, MASK, brain_mr, PROVENANCE)
    assert build_segmentation(series_of(), MASK, brain_mr, PROVENANCE) == first
    seg = dcmread(BytesIO(first))
    assert seg.SOPInstanceUID == result_uid(series, brain_mr, PROVENANCE, "segmentation")
    other = replace(PROVENANCE, job_id="another")
    again = dcmread(BytesIO(build_segmentation(series, MASK, brain_mr, other)))
    assert again.SOPInstanceUID != seg.SOPInstanceUID
    assert again.SeriesInstanceUID != seg.SeriesInstanceUID
    assert len(seg.SOPInstanceUID) <= 64


@pytest.mark.parametrize("make", [classic_files, enhanced_file])
def test_nothing_found_is_a_valid_result(brain_mr: ModelSpec, make: Any) -> None:
    series = series_of(make)
    empty = np.zeros(SHAPE, np.uint8)
    data = build_segmentation(series, empty, brain_mr, PROVENANCE)
    seg = dcmread(BytesIO(data))
    assert seg.NumberOfFrames == len(brain_mr.segments)
    assert not seg.pixel_array.any()
    np.testing.assert_array_equal(read_mask(data, series), empty)
    source = series.frames[2]
    item = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert item.ReferencedSOPInstanceUID == source.sop_instance_uid
    assert item.get("ReferencedFrameNumber") == source.frame_number


def test_masks_on_another_grid_or_with_unknown_classes(brain_mr: ModelSpec) -> None:
    series = series_of()
    for wrong in (MASK[:4], MASK[:, :, :5]):
        with pytest.raises(ValueError, match="expected a mask of"):
            build_segmentation(series, wrong, brain_mr, PROVENANCE)
        with pytest.raises(ValueError, match="expected a uint8 mask"):
            measure(series, wrong, brain_mr)
    with pytest.raises(ValueError, match="got 12"):
        measure(series, MASK + np.uint8(1), brain_mr)
    other = series_of(series=2)
    data = build_segmentation(series, MASK, brain_mr, PROVENANCE)
    assert source_series_uid(data) == series.uid
    with pytest.raises(ValueError, match="of other images"):
        read_mask(data, other)


def test_measurements_equal_the_plain_formulas(brain_mr: ModelSpec) -> None:
    series = series_of(slope=2.0, intercept=-10.0)
    units = series.stored * 2.0 - 10.0
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    for found in measure(series, MASK, brain_mr):
        inside = np.equal(MASK, found.value)
        assert found.voxels == inside.sum()
        assert found.volume_ml == pytest.approx(inside.sum() * 0.7 * 1.3 * 2.5 / 1000)
        assert found.mean == pytest.approx(units[inside].mean())
        assert found.sd == pytest.approx(units[inside].std())
        index = np.argwhere(inside)
        assert found.box is not None
        assert found.box.first == tuple(index.min(axis=0))
        assert found.box.last == tuple(index.max(axis=0))
        low, high = index.min(axis=0) - 0.5, index.max(axis=0) + 0.5
        around = recipe_of("oblique").patient_mm(low + corners * (high - low))
        assert found.box.low_mm == pytest.approx(around.min(axis=0), abs=1e-6)
        assert found.box.high_mm == pytest.approx(around.max(axis=0), abs=1e-6)


def test_absent_structures_are_listed_as_empty(brain_mr: ModelSpec) -> None:
    only = np.where(MASK == 4, MASK, 0).astype(np.uint8)
    found = measure(series_of(), only, brain_mr)
    assert [structure.value for structure in found] == list(range(1, 12))
    for structure in found:
        if structure.value != 4:
            assert (structure.voxels, structure.volume_ml) == (0, 0.0)
            assert (structure.mean, structure.sd, structure.box) == (None, None, None)


def test_the_report_agrees_with_the_segmentation(brain_mr: ModelSpec) -> None:
    series = series_of()
    data = build_segmentation(series, MASK, brain_mr, PROVENANCE)
    seg = dcmread(BytesIO(data))
    result = series_result(series, brain_mr, seg.SOPInstanceUID, measure(series, MASK, brain_mr))
    refusal = SeriesRefusal("1.2.3", RefusalCode.COLOUR, "Colour came.", 4)
    encoded = write_report([result], [refusal], PROVENANCE, {"fetch": 0.1, "infer": 2.5})
    report = json.loads(encoded)
    assert report["schema"] == SCHEMA
    assert report["job"] == PROVENANCE.job_id
    assert report["stages_s"] == {"fetch": 0.1, "infer": 2.5}
    assert report["refusals"] == [
        {"series_uid": "1.2.3", "code": "COLOUR", "reason": "Colour came.", "instances": 4}
    ]
    told = report["series"][0]
    assert told["spec_sha256"] == brain_mr.sha256
    assert told["segmentation_uid"] == seg.SOPInstanceUID
    pixels = seg.pixel_array.reshape(-1, *SHAPE[1:])
    voxels = Counter[int]()
    for plane, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        voxels[number] += int(plane.sum())
    for structure in told["structures"]:
        assert structure["voxels"] == voxels[structure["value"]]
        assert structure["volume_ml"] == pytest.approx(
            voxels[structure["value"]] * series.voxel_ml, abs=1e-6
        )
    assert b"Factory" not in encoded

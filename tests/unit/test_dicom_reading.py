"""Series come out sorted, placed and scaled as their headers say, whatever order they came in."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from client.dicom.reader import read_study
from client.dicom.series import Series
from client.limits import ReadLimits
from preprocess.spec import Plane
from tests.dicom_factory import (
    ORIENTATIONS,
    Recipe,
    classic_files,
    classic_instances,
    enhanced_file,
    numbered_volume,
    to_bytes,
)

pytestmark = pytest.mark.unit

LIMITS = ReadLimits()
VOLUME = numbered_volume(5, 4, 6)


def read_one(files: list[tuple[str, bytes]]) -> Series:
    content = read_study(files, LIMITS)
    assert content.refusals == ()
    assert len(content.series) == 1
    return content.series[0]


def assert_in_place(series: Series, recipe: Recipe) -> None:
    """Every voxel's value lies where the recipe put it in the patient."""
    index = np.indices(series.stored.shape).reshape(3, -1).T
    found = np.c_[index, np.ones(len(index))] @ series.affine.T
    values = series.stored.reshape(-1).astype(int)
    source = np.stack(np.unravel_index(values, recipe.volume.shape), axis=-1)
    np.testing.assert_allclose(found[:, :3], recipe.patient_mm(source), atol=1e-5)
    assert len(set(values)) == recipe.volume.size


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("make", [classic_files, enhanced_file])
def test_slices_are_sorted_by_position(orientation: str, make: Any) -> None:
    recipe = Recipe(
        VOLUME,
        orientation=ORIENTATIONS[orientation],
        spacing_mm=(0.75, 1.5),
        distance_mm=3.2,
        order=[3, 0, 4, 2, 1],
    )
    series = read_one(make(recipe))
    np.testing.assert_array_equal(series.stored, VOLUME)
    assert_in_place(series, recipe)
    assert series.spacing_mm == pytest.approx((3.2, 0.75, 1.5))
    assert series.voxel_ml == pytest.approx(3.2 * 0.75 * 1.5 / 1000)
    plane = orientation.partition("_")[0]
    if plane in tuple(Plane):
        assert series.geometry.plane == plane


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    mirrored=st.booleans(),
    spacing=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
    distance=st.floats(0.5, 10),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    order=st.permutations(range(5)),
)
def test_any_orientation_spacing_and_order(  # noqa: PLR0917
    turn: tuple[float, ...],
    mirrored: bool,
    spacing: tuple[float, float],
    distance: float,
    origin: tuple[float, float, float],
    order: list[int],
) -> None:
    w, x, y, z = np.array(turn) / np.linalg.norm(turn)
    across = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    down = np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])
    recipe = Recipe(
        VOLUME,
        orientation=(*across, *(-down if mirrored else down)),
        spacing_mm=spacing,
        distance_mm=distance,
        origin_mm=origin,
        order=order,
    )
    series = read_one(classic_files(recipe))
    np.testing.assert_array_equal(series.stored, VOLUME)
    assert_in_place(series, recipe)


def test_every_slice_knows_its_source() -> None:
    series = read_one(classic_files(Recipe(VOLUME, order=[2, 4, 0, 1, 3])))
    assert [frame.sop_instance_uid[-1] for frame in series.frames] == list("12345")
    assert [frame.instance for frame in series.frames] == [2, 3, 0, 4, 1]
    for index, frame in enumerate(series.frames):
        assert frame.position_mm == pytest.approx(tuple(series.affine @ (index, 0, 0, 1))[:3])
    enhanced = read_one(enhanced_file(Recipe(VOLUME, order=[2, 4, 0, 1, 3])))
    assert [frame.frame_number for frame in enhanced.frames] == [3, 4, 1, 5, 2]
    assert (series.instances, enhanced.instances) == (5, 1)


@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        (np.array([[-2048, 2047], [-1, 0]], "<i2"), 12),
        (np.array([[-32768, 32767], [-1, 0]], "<i2"), 16),
        (np.array([[0, 4095], [1, 2]], "<u2"), 12),
        (np.array([[0, 255], [1, 2]], "u1"), 8),
        (np.array([[-128, 127], [-1, 2]], "i1"), 8),
    ],
)
def test_stored_values_of_every_depth_are_kept(pixels: Any, bits: int) -> None:
    series = read_one(classic_files(Recipe(pixels[None], bits_stored=bits)))
    assert series.stored.dtype == np.int16
    np.testing.assert_array_equal(series.stored[0], pixels)
    assert (series.slope, series.intercept) == (1.0, 0.0)


def test_bits_above_bits_stored_are_no_pixels() -> None:
    """Old scanners keep overlay planes there; signed values are extended from the stored bits."""
    for kind, values in (("<u2", [0, 1000, 4095]), ("<i2", [-2048, -1, 2047])):
        wanted = np.array([values], kind)
        dirty = (wanted.view("<u2") & 0x0FFF) | 0xA000
        series = read_one(classic_files(Recipe(dirty.view(kind)[None], bits_stored=12)))
        np.testing.assert_array_equal(series.stored[0], wanted)


def test_large_unsigned_values_move_with_the_intercept() -> None:
    pixels = np.array([[[0, 65535], [32768, 7]]], "<u2")
    series = read_one(classic_files(Recipe(pixels, slope=0.5, intercept=-3.0)))
    units = series.stored * series.slope + series.intercept
    np.testing.assert_array_equal(units, pixels * 0.5 - 3.0)


def test_monochrome1_is_told_and_kept() -> None:
    series = read_one(classic_files(Recipe(VOLUME, photometric="MONOCHROME1")))
    assert series.inverted
    np.testing.assert_array_equal(series.stored, VOLUME)


@pytest.mark.parametrize("make", [classic_files, enhanced_file])
def test_one_rescale_is_passed_on(make: Any) -> None:
    series = read_one(make(Recipe(VOLUME, slope=1.25, intercept=-1024)))
    np.testing.assert_array_equal(series.stored, VOLUME)
    assert (series.slope, series.intercept) == (1.25, -1024.0)


def test_intercepts_apart_by_whole_steps_stay_exact() -> None:
    def shift(instance: Dataset, index: int) -> None:
        instance.RescaleSlope, instance.RescaleIntercept = 2, index * 10

    series = read_one(classic_files(Recipe(VOLUME), shift))
    units = series.stored * series.slope + series.intercept
    np.testing.assert_array_equal(units, VOLUME * 2.0 + np.arange(5)[:, None, None] * 10)


@settings(max_examples=20, deadline=None)
@given(slopes=st.lists(st.floats(1e-3, 50), min_size=5, max_size=5))
def test_slopes_that_differ_cost_at_most_half_a_step(slopes: list[float]) -> None:
    def scale(instance: Dataset, index: int) -> None:
        instance.RescaleSlope, instance.RescaleIntercept = f"{slopes[index]:.10g}", "0"

    series = read_one(classic_files(Recipe(VOLUME), scale))
    units = VOLUME * np.array([float(f"{s:.10g}") for s in slopes])[:, None, None]
    step = (units.max() - units.min()) / 65535
    found = series.stored * series.slope + series.intercept
    assert np.abs(found - units).max() <= 0.5 * step * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize(("photometric", "expected"), [("MONOCHROME2", 5), ("MONOCHROME1", 900)])
def test_padding_becomes_background(photometric: str, expected: int) -> None:
    pixels = np.array([[[-2000, 5], [900, -1990]]], "<i2")
    padding = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}
    series = read_one(classic_files(Recipe(pixels, photometric=photometric, attributes=padding)))
    assert series.stored[0].tolist() == [[expected, 5], [900, expected]]


def test_modality_lut_is_applied() -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.LUTData = np.array([10, 0, 99, 7], "<u2").tobytes()
    lut = {"ModalityLUTSequence": Items([table])}
    pixels = np.array([[[0, 1], [2, 3]]], "<u2")
    series = read_one(classic_files(Recipe(pixels, slope=5, intercept=1, attributes=lut)))
    assert series.stored[0].tolist() == [[10, 0], [99, 7]]
    assert (series.slope, series.intercept) == (1.0, 0.0)


def test_an_instance_sent_twice_counts_once() -> None:
    files = classic_files(Recipe(VOLUME))
    np.testing.assert_array_equal(read_one(files + files[1:3]).stored, VOLUME)


def test_series_and_kinds_of_instances_are_kept_apart() -> None:
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3.4"
    report.SeriesInstanceUID = "1.2.826.0.1.77.1"
    files = [
        *classic_files(Recipe(VOLUME, series=2)),
        ("report", to_bytes(report)),
        *classic_files(Recipe(VOLUME, series=1)),
        ("readme", b"hello"),
    ]
    content = read_study(files, LIMITS)
    assert [series.uid[-1] for series in content.series] == ["1", "2"]
    assert [str(refusal.code) for refusal in content.refusals] == ["NOT_DICOM", "NO_PIXELS"]


def test_a_single_slice_stands_for_its_thickness() -> None:
    series = read_one(classic_files(Recipe(VOLUME[:1], distance_mm=4.5)))
    assert series.slice_distance_mm == pytest.approx(4.5)


def test_words_for_routing() -> None:
    attributes = {
        "BodyPartExamined": "HEAD",
        "SeriesDescription": "t1 mprage",
        "ProtocolName": "brain",
        "StudyDescription": "neuro",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    }
    series = read_one(classic_files(Recipe(VOLUME, attributes=attributes)))
    assert series.body_part == "HEAD"
    assert series.description == "t1 mprage"
    assert series.study_description == "brain neuro"
    assert series.image_type == "M ND"
    region, anatomy = Dataset(), Dataset()
    region.CodeMeaning = "Brain"
    anatomy.AnatomicRegionSequence = Items([region])

    def name_region(group: Dataset, _: int) -> None:
        group.FrameAnatomySequence = Items([anatomy])

    assert read_one(enhanced_file(Recipe(VOLUME), name_region)).body_part == "BRAIN"


def test_what_is_handed_on_is_small_public_and_picklable() -> None:
    def add_private(instance: Dataset, _: int) -> None:
        block = instance.private_block(0x0029, "VENDOR", create=True)
        block.add_new(1, "OB", b"secret" * 1000)
        instance.PatientComments = "lives next door"

    for make in (classic_files, enhanced_file):
        series = pickle.loads(pickle.dumps(read_one(make(Recipe(VOLUME), add_private))))
        assert "PixelData" not in series.header
        assert b"secret" not in pickle.dumps(series)
        assert b"next door" not in pickle.dumps(series)
        assert all(element.VR != "SQ" for element in series.header)


def test_malformed_values_that_nobody_needs_do_no_harm(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    files = []
    for name, data in classic_files(Recipe(VOLUME, attributes={"PatientWeight": "72.5"})):
        files.append((name, data.replace(b"72.5", b"heav").replace(b"19700101", b"1970-1-1")))
    with caplog.at_level(logging.DEBUG):
        series = read_one(files)
    assert series.stored.shape == VOLUME.shape
    assert caplog.records == []
    assert len(recwarn) == 0


def test_modality_is_looked_at_before_pixels() -> None:
    instances = classic_instances(Recipe(VOLUME, modality="CT"))
    files = [("a", to_bytes(instances[0]))]
    content = read_study(files, LIMITS, modalities={"MR", "DX"})
    assert [str(refusal.code) for refusal in content.refusals] == ["NO_MODEL"]
    assert "DX, MR" in content.refusals[0].reason
    assert "this is CT" in content.refusals[0].reason

"""The fast DICOM SEG is the file that highdicom and pydicom write frame by frame."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from shutil import which
from subprocess import run
from typing import Any

import numpy as np
import pytest
from highdicom.seg import Segmentation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from client.dicom.encoding import element, elements, items, joined, sequence
from client.dicom.readback import read_mask
from client.dicom.reader import read_study
from client.dicom.seg import build_segmentation, place_segmentation
from client.dicom.series import Series
from client.dicom.tally import take_tally
from client.limits import ReadLimits
from preprocess.foldedmask import FoldedMask
from preprocess.spec import ModelSpec
from tests.dicom_factory import ORIENTATIONS, Recipe, classic_files, enhanced_file
from tests.folded_masks import drawn_mask
from tests.plain_seg import plain_segmentation
from tests.unit.test_dicom_results import PROVENANCE

pytestmark = pytest.mark.unit

MAKERS = [classic_files, enhanced_file]
Mask = NDArray[np.uint8]


def series_of(make: Any, shape: tuple[int, int, int], **changes: Any) -> Series:
    values = np.random.default_rng(3).integers(-500, 1500, shape).astype(np.int16)
    order = np.random.default_rng(4).permutation(shape[0]).tolist()
    settled = {"spacing_mm": (0.7, 1.3), "distance_mm": 2.5, "order": order} | changes
    return read_study(make(Recipe(values, **settled)), ReadLimits()).series[0]


def sparse_mask(shape: tuple[int, int, int], classes: int, seed: int = 5) -> Mask:
    """Blocks of classes, with slices and classes left out."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for value in rng.permutation(np.arange(1, classes + 1))[: max(1, classes - 1)]:
        z, y, x = (rng.integers(0, side) for side in shape)
        mask[z : z + 2, y : y + 1 + shape[1] // 3, x : x + 1 + shape[2] // 3] = value
    mask[shape[0] // 3] = 0 if shape[0] > 1 else mask[0]
    return mask


def check(series: Series, mask: Mask, spec: ModelSpec) -> bytes:
    """Byte for byte, but for the byte that fills pixel data up to an even length: 0 by PS3.5 6.2,
    the character "0" in highdicom's files."""
    found = build_segmentation(series, mask, spec, PROVENANCE)
    wanted = plain_segmentation(series, mask, spec, PROVENANCE)
    dataset = dcmread(BytesIO(found))
    bits = dataset.NumberOfFrames * mask.shape[1] * mask.shape[2]
    if -(-bits // 8) % 2:
        assert found[-1:] == b"\0"
        assert wanted[-1:] == b"0"
        found, wanted = found[:-1], wanted[:-1]
    assert found == wanted
    np.testing.assert_array_equal(read_mask(found + b"\0" * (len(found) % 2), series), mask)
    return found


def with_segments(spec: ModelSpec, count: int) -> ModelSpec:
    segments = [spec.segments[index % len(spec.segments)] for index in range(count)]
    numbered = tuple(
        replace(segment, value=value, label=f"{segment.label} {value}")
        for value, segment in enumerate(segments, 1)
    )
    return replace(spec, segments=numbered, cleanup=None)


@pytest.mark.parametrize("columns", [7, 16, 24])
@pytest.mark.parametrize("room_bytes", [0, 1 << 20])
def test_a_folded_mask_makes_the_same_file_in_any_memory(
    columns: int, room_bytes: int, brain_mr: ModelSpec
) -> None:
    draw = np.random.default_rng(columns)
    cells = draw.integers(0, 4, (4, 5, 3)).astype(np.uint8)
    cells[1] = 0
    mask = drawn_mask(draw, cells, 2, (12, columns))
    rows = FoldedMask(mask.cells, mask.row_edges, mask.column_edges, (mask.grid[0], columns))
    series = series_of(classic_files, (4, *rows.grid))
    tally = take_tally(series.stored, rows, 12)
    room = np.full(room_bytes, 255, np.uint8)
    file = place_segmentation(series, rows, brain_mr, PROVENANCE, tally, room=room)
    assert file.tobytes() == build_segmentation(series, rows.unfolded(), brain_mr, PROVENANCE)
    assert np.shares_memory(file, room) == (room_bytes > 0)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation(brain_mr: ModelSpec, orientation: str, make: Any) -> None:
    shape = (6, 9, 7)
    series = series_of(make, shape, orientation=ORIENTATIONS[orientation])
    check(series, sparse_mask(shape, 11), brain_mr)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "shape", [(1, 16, 16), (1, 5, 5), (3, 217, 181), (4, 64, 48), (2, 3, 300), (11, 8, 1)]
)
def test_every_size(brain_mr: ModelSpec, shape: tuple[int, int, int], make: Any) -> None:
    series = series_of(make, shape)
    check(series, sparse_mask(shape, 11), brain_mr)
    check(series, np.full(shape, 11, np.uint8), brain_mr)
    check(series, np.zeros(shape, np.uint8), brain_mr)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("count", [1, 2, 60, 255])
def test_any_number_of_segments(brain_mr: ModelSpec, count: int, make: Any) -> None:
    shape = (4, 32, 20)
    series = series_of(make, shape)
    spec = with_segments(brain_mr, count)
    check(series, sparse_mask(shape, count), spec)
    check(series, np.zeros(shape, np.uint8), spec)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("slices", [(0, 1, 2, 3, 4), (1, 2), (3,), (0, 2, 4), (0, 1, 4)])
def test_a_single_segment_may_make_a_volume(
    brain_mr: ModelSpec, slices: tuple[int, ...], make: Any
) -> None:
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 1, 4, 3]):
        series = series_of(make, (5, 8, 6), order=order)
        mask = np.zeros((5, 8, 6), np.uint8)
        mask[list(slices), 2:5, 1:3] = 1
        check(series, mask, with_segments(brain_mr, 1))


@pytest.mark.parametrize("make", MAKERS)
def test_odd_headers(brain_mr: ModelSpec, make: Any) -> None:
    odd = {
        "PatientName": "Müller^Jörg",
        "SpecificCharacterSet": "ISO_IR 100",
        "StudyDescription": "Schädel nativ",
        "TimezoneOffsetFromUTC": "+0530",
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": ["8", "2.5"],
        "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
        "PatientAge": "050Y",
        "ClinicalTrialSponsorName": "Überprüfung",
    }
    shape = (3, 16, 12)
    check(series_of(make, shape, attributes=odd), sparse_mask(shape, 11), brain_mr)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    enhanced=st.booleans(),
    shape=st.tuples(st.integers(1, 7), st.integers(3, 21), st.integers(3, 21)),
    angles=st.tuples(st.floats(-180, 180), st.floats(-180, 180)),
    origin=st.tuples(*[st.floats(-400, 400)] * 3),
    distance=st.floats(0.3, 9.0),
)
def test_any_series(
    *,
    brain_mr: ModelSpec,
    seed: int,
    enhanced: bool,
    shape: tuple[int, int, int],
    angles: tuple[float, float],
    origin: tuple[float, float, float],
    distance: float,
) -> None:
    turn, tilt = np.deg2rad(angles)
    across = np.array([np.cos(turn), np.sin(turn), 0])
    down = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    series = series_of(
        enhanced_file if enhanced else classic_files,
        shape,
        orientation=(*across, *down),
        origin_mm=origin,
        distance_mm=distance,
    )
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 12, shape).astype(np.uint8)
    mask[rng.random(shape[0]) < 0.3] = 0
    mask[rng.random(shape) < rng.random()] = 0
    check(series, mask, brain_mr)


def test_highdicom_finds_the_same_volume(brain_mr: ModelSpec) -> None:
    shape = (5, 21, 13)
    mask = sparse_mask(shape, 11)
    data = check(series_of(classic_files, shape), mask, brain_mr)
    segmentation = Segmentation.from_dataset(dcmread(BytesIO(data + b"\0" * (len(data) % 2))))
    volume = segmentation.get_volume(combine_segments=True).array
    assert np.bincount(volume.ravel(), minlength=12)[1:].tolist() == (
        np.bincount(mask.ravel(), minlength=12)[1:].tolist()
    )


def test_a_tally_that_is_there_is_used(brain_mr: ModelSpec) -> None:
    shape = (4, 9, 7)
    series, mask = series_of(classic_files, shape), sparse_mask(shape, 11)
    tally = take_tally(series.stored, mask, 12)
    assert build_segmentation(series, mask, brain_mr, PROVENANCE, tally) == build_segmentation(
        series, np.asfortranarray(mask), brain_mr, PROVENANCE
    )


@pytest.mark.parametrize("make", MAKERS)
def test_a_deflated_file_says_the_same(brain_mr: ModelSpec, make: Any) -> None:
    shape = (5, 40, 31)
    series, mask = series_of(make, shape), sparse_mask(shape, 11)
    plain = build_segmentation(series, mask, brain_mr, PROVENANCE)
    small = build_segmentation(series, mask, brain_mr, PROVENANCE, deflated=True)
    assert len(small) < len(plain) / 2
    assert len(small) % 2 == 0
    wanted, found = dcmread(BytesIO(plain)), dcmread(BytesIO(small))
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1.99"
    assert found.file_meta.MediaStorageSOPInstanceUID == wanted.SOPInstanceUID
    assert found == wanted
    np.testing.assert_array_equal(read_mask(small, series), mask)


def test_a_value_without_a_segment_is_refused(brain_mr: ModelSpec) -> None:
    mask = np.full((2, 4, 4), 12, np.uint8)
    with pytest.raises(ValueError, match="classes 0 to 11, got 12"):
        build_segmentation(series_of(classic_files, (2, 4, 4)), mask, brain_mr, PROVENANCE)


def test_elements_are_taken_apart_and_joined() -> None:
    parts = {
        0x00080005: element(0x00080005, b"CS", b"ISO_IR 192"),
        0x00081115: sequence(0x00081115, [element(0x00080018, b"UI", b"1.2\0"), b""]),
        0x7FE00010: element(0x7FE00010, b"OB", b"\1\2"),
    }
    assert elements(joined(parts)) == parts
    assert items(parts[0x00081115]) == [element(0x00080018, b"UI", b"1.2\0"), b""]
    with pytest.raises(ValueError, match="even length"):
        element(0x7FE00010, b"OB", b"", 2**32)
    with pytest.raises(ValueError, match="even length"):
        element(0x00080005, b"CS", b"ODD")


@pytest.mark.skipif(
    which("segimage2itkimage") is None, reason="dcmqi (pip install dcmqi) reads the file here"
)
@pytest.mark.parametrize("make", MAKERS)
def test_dcmqi_reads_the_same_voxels(brain_mr: ModelSpec, make: Any, tmp_path: Path) -> None:
    """A reader in C++ (DCMTK) that shares nothing with the writer."""
    sitk = pytest.importorskip("SimpleITK")
    shape = (5, 21, 13)
    mask = sparse_mask(shape, 11)
    mask[[0, -1], :4, :4] = 1
    data = build_segmentation(series_of(make, shape), mask, brain_mr, PROVENANCE)
    source = tmp_path / "seg.dcm"
    source.write_bytes(data)
    command = ["segimage2itkimage", "--inputDICOM", str(source), "--outputDirectory", str(tmp_path)]
    run([*command, "--mergeSegments", "-t", "nrrd"], check=True, capture_output=True, timeout=60)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "1.nrrd")))
    np.testing.assert_array_equal(found, mask)

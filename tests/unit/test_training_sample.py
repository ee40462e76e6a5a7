"""The sample series is one straight axial head, left where left is."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK

from training.make_sample import write_labels
from training.volumes import Volume

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[2] / "samples/colin27_mr"
AAL_LEFT_PUTAMEN_VOXELS = 7942  # label 73
AAL_RIGHT_PUTAMEN_VOXELS = 8510  # label 74
FILES = sorted(FOLDER.glob("slice_*.dcm"))

if not FILES:
    pytest.skip("the sample series is not in this checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def headers() -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(file, stop_before_pixels=True) for file in FILES]


def test_the_slices_stand_on_one_straight_line(headers: list[pydicom.FileDataset]) -> None:
    positions = np.array([h.ImagePositionPatient for h in headers], float)
    assert len(headers) == 181
    assert np.allclose(np.diff(positions, axis=0), (0, 0, 1))
    assert [h.InstanceNumber for h in headers] == list(range(1, 182))
    for name in ("SeriesInstanceUID", "FrameOfReferenceUID", "StudyInstanceUID"):
        assert len({h[name].value for h in headers}) == 1
    assert len({h.SOPInstanceUID for h in headers}) == 181


def test_every_header_says_the_same_grid(headers: list[pydicom.FileDataset]) -> None:
    for h in headers:
        assert (h.Rows, h.Columns) == (217, 181)
        assert list(h.PixelSpacing) == [1, 1]
        assert list(h.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
        assert (h.SliceThickness, h.SpacingBetweenSlices) == (1, 1)
        assert (h.Modality, h.BodyPartExamined, h.PhotometricInterpretation) == (
            "MR", "HEAD", "MONOCHROME2"
        )  # fmt: skip
        assert h.SOPInstanceUID.startswith("2.25.")
        assert h.SOPInstanceUID == h.file_meta.MediaStorageSOPInstanceUID


def test_the_reference_lies_on_the_head(headers: list[pydicom.FileDataset]) -> None:
    pytest.importorskip("pylibjpeg")
    with np.load(FOLDER / "reference.npz") as reference:
        brain, structures = reference["brain"], reference["structures"]
    assert brain.shape == structures.shape == (181, 217, 181)
    assert set(np.unique(structures)) == {0, 4, 5, 6, 7, 8, 9, 11}
    assert 1.7e6 < brain.sum() < 1.85e6
    for number in (60, 80, 100):
        pixels = pydicom.dcmread(FILES[number]).pixel_array
        assert pixels.max() <= 255
        assert pixels[brain[number] > 0].mean() > 2 * pixels[brain[number] == 0].mean()


def test_columns_grow_to_the_left_and_rows_to_the_back() -> None:
    """The two putamina differ in size, so a mirrored conversion would show."""
    with np.load(FOLDER / "reference.npz") as reference:
        structures = reference["structures"]
    cerebellum, caudate = (np.argwhere(structures == c).mean(axis=0) for c in (11, 5))
    assert cerebellum[1] > caudate[1] + 40  # behind: larger row
    assert cerebellum[0] < caudate[0] - 30  # below: smaller slice
    putamen = np.argwhere(structures == 6)
    assert (putamen[:, 2] > 90).sum() == AAL_LEFT_PUTAMEN_VOXELS
    assert (putamen[:, 2] < 90).sum() == AAL_RIGHT_PUTAMEN_VOXELS


def test_the_labels_file_lies_on_the_series_and_is_written_the_same_again(tmp_path: Path) -> None:
    first = pydicom.dcmread(FILES[0], stop_before_pixels=True)
    left, posterior, superior = map(float, first.ImagePositionPatient)
    with np.load(FOLDER / "reference.npz") as reference:
        structures = reference["structures"]
    again = tmp_path / "labels.nii.gz"
    write_labels(
        structures, Volume(structures, (1, 1, 1), "axial", (left, posterior, superior)), again
    )
    committed = (FOLDER / "labels.nii.gz").read_bytes()
    assert gzip.decompress(again.read_bytes()) == gzip.decompress(committed)
    image: Any = SimpleITK.ReadImage(again)
    assert image.GetOrigin() == (left, posterior, superior)
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), structures)

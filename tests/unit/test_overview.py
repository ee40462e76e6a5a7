"""The overview shows the right sides, the right colours and the right millilitres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.dicom.reader import read_study
from client.dicom.seg import build_segmentation
from client.errors import NotFound
from client.limits import ReadLimits
from client.overview import display, overview_from_files, write_overview
from preprocess.spec import ModelSpec, Plane
from tests.dicom_factory import ORIENTATIONS, Recipe, classic_files
from tests.unit.test_dicom_results import PROVENANCE

pytestmark = pytest.mark.unit

LPS_LETTERS = {"A": (1, -1), "P": (1, 1), "R": (0, -1), "L": (0, 1), "S": (2, 1), "I": (2, -1)}
"""Axis of the patient coordinates and the sign with which it grows towards the letter."""
EDGES = {
    Plane.AXIAL: "APRL",
    Plane.CORONAL: "SIRL",
    Plane.SAGITTAL: "SIAP",
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_sides_are_radiological_in_every_orientation(brain_mr: ModelSpec, orientation: str) -> None:
    """The voxel nearest to each side of the patient lies at the side that the picture names."""
    shape = (9, 11, 13)
    recipe = Recipe(
        np.ones(shape, np.int16), orientation=ORIENTATIONS[orientation], spacing_mm=(2.0, 3.0)
    )
    series = read_study(classic_files(recipe), ReadLimits()).series[0]
    centre = recipe.patient_mm((np.array(shape)[None] - 1) / 2)[0]
    edges = EDGES[series.geometry.plane]
    for place, letter in enumerate(edges):
        axis, sign = LPS_LETTERS[letter]
        index = np.argwhere(np.ones(shape, bool))
        offset = sign * (recipe.patient_mm(index) - centre)[:, axis]
        mask = np.zeros(shape, np.uint8)
        mask[tuple(index[np.argmax(offset)])] = 1
        view = display(series, mask, brain_mr)
        row, column = (np.argwhere(view.mask)[0][1:] + 0.5) / view.mask.shape[1:]
        distance = {0: row, 1: 1 - row, 2: column, 3: 1 - column}[place]
        assert distance < 0.5


def test_picture_from_the_stored_result(brain_mr: ModelSpec, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    volume = rng.integers(0, 200, (16, 40, 32)).astype(np.int16)
    mask = np.zeros(volume.shape, np.uint8)
    mask[3:13, 8:30, 6:26] = 2
    mask[5:11, 12:24, 10:20] = 9
    files = []
    for name, data in classic_files(Recipe(volume, order=rng.permutation(16).tolist())):
        files.append(tmp_path / name)
        files[-1].write_bytes(data)
    content = read_study(((file.name, file.read_bytes()) for file in files), ReadLimits())
    series = content.series[0]
    segmentation = build_segmentation(series, mask, brain_mr, PROVENANCE)

    write_overview(series, mask, brain_mr, tmp_path / "direct.png")
    overview_from_files(files, segmentation, brain_mr, tmp_path / "stored.png")
    assert (tmp_path / "direct.png").read_bytes() == (tmp_path / "stored.png").read_bytes()

    with Image.open(tmp_path / "direct.png") as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    assert picture.shape[1] > 900
    for value in (2, 9):
        colour = np.array(brain_mr.segments[value - 1].color)
        assert (np.abs(picture - colour).max(axis=2) <= 40).sum() > 300

    with pytest.raises(NotFound):
        overview_from_files([tmp_path / "direct.png"], segmentation, brain_mr, tmp_path / "none")


def test_a_single_slice_and_an_empty_mask(brain_mr: ModelSpec, tmp_path: Path) -> None:
    for slices in (1, 3):
        volume = np.arange(slices * 600, dtype=np.int16).reshape(slices, 20, 30)
        series = read_study(classic_files(Recipe(volume)), ReadLimits()).series[0]
        write_overview(series, np.zeros(volume.shape, np.uint8), brain_mr, tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.size[1] > 300
    flat = np.zeros((2, 16, 16), np.int16)
    series = read_study(classic_files(Recipe(flat)), ReadLimits()).series[0]
    write_overview(series, flat.astype(np.uint8), brain_mr, tmp_path / "flat.png")

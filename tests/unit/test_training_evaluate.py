"""Volumes are cut as patients lie, and overlaps are counted right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("nibabel")
pytest.importorskip("onnxruntime")

from preprocess.geometry import plan_geometry
from preprocess.spec import GeometrySpec, Plane
from training.card import fill, table
from training.evaluate import dice, thicken
from training.reference import brain_of_classes, classes_from_aal
from training.volumes import from_ras, to_plane

pytestmark = pytest.mark.unit

SPACING_MM = (1.0, 2.0, 3.0)
ORIGIN_MM = (-10.0, -20.0, -30.0)


def ramp() -> np.ndarray:
    """[x, y, z] whose value says where it lies: 10000 x + 100 y + z."""
    x, y, z = np.meshgrid(np.arange(5), np.arange(6), np.arange(7), indexing="ij")
    return np.asarray(10000 * x + 100 * y + z)


def test_axial_slices_run_to_posterior_and_left() -> None:
    volume = from_ras(ramp(), SPACING_MM, ORIGIN_MM, "axial")
    assert volume.voxels.shape == (7, 6, 5)
    assert volume.spacing_mm == (3.0, 2.0, 1.0)
    assert volume.voxels[0, 0, 0] == 40500  # most right, most anterior, lowest
    assert volume.position_mm(2) == (6.0, 10.0, -24.0)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_cutting_again_equals_cutting_at_once(plane: str) -> None:
    at_once = from_ras(ramp(), SPACING_MM, ORIGIN_MM, plane)
    again = to_plane(from_ras(ramp(), SPACING_MM, ORIGIN_MM, "axial"), plane)
    assert np.array_equal(again.voxels, at_once.voxels)
    assert again.spacing_mm == at_once.spacing_mm
    assert again.position_mm(3) == pytest.approx(at_once.position_mm(3))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_served_path_leaves_these_slices_as_they_are(plane: str) -> None:
    volume = from_ras(ramp(), (1.0, 1.0, 1.0), ORIGIN_MM, plane)
    plan = plan_geometry(GeometrySpec(spacing_mm=(1.0, 1.0), size=(64, 64)), volume.geometry)
    rows, columns = volume.voxels.shape[1:]
    assert plan.plane == Plane(plane)
    assert not plan.transpose
    assert plan.region == (0, 0, rows, columns)


def test_slices_are_averaged_without_a_gap() -> None:
    volume = from_ras(ramp(), (1.0, 1.0, 1.0), ORIGIN_MM, "axial")
    thick = thicken(volume, 3.0)
    assert thick.spacing_mm == (3.0, 1.0, 1.0)
    assert np.array_equal(thick.voxels[1], volume.voxels[3:6].mean(axis=0))


def test_dice_of_known_masks() -> None:
    a, b = np.zeros(10, bool), np.zeros(10, bool)
    assert dice(a, b) == 1.0
    a[:4], b[2:6] = True, True
    assert dice(a, b) == 0.5


def test_the_brain_takes_ventricles_in_but_not_the_outer_fluid() -> None:
    classes = np.ones((40, 40, 40), np.uint8)
    classes[8:32, 8:32, 8:32] = 3
    classes[18:22, 18:22, 18:22] = 1
    brain = brain_of_classes(classes, (1.0, 1.0, 1.0))
    assert brain[20, 20, 20]
    assert brain.sum() == 24**3


def test_aal_numbers_become_classes() -> None:
    assert classes_from_aal(np.array([0, 1, 37, 38, 41, 71, 74, 75, 78, 91, 116])).tolist() == [
        0, 0, 8, 8, 9, 5, 6, 7, 4, 11, 11
    ]  # fmt: skip


def test_a_card_is_filled_between_its_marks() -> None:
    results = [{"case": "a", "plane": "axial", "slice_mm": 1.0, "dice": {"brain": 0.9}}]
    card = "x\n<!-- a: written by training.card -->\nold\n<!-- end of a -->\ny"
    once = fill(card, {"results": results})
    assert "| axial | 1 | 0.900 |" in once
    assert "old" not in once
    assert once.startswith("x\n")
    assert once.endswith("\ny")
    assert fill(once, {"results": results}) == once
    with pytest.raises(ValueError, match="marks"):
        fill("no marks", {"results": results})


def test_the_shipped_card_shows_the_shipped_figures() -> None:
    import json

    folder = Path(__file__).parents[2] / "docs/models"
    if not (folder / "brain_mr.json").exists():
        pytest.skip("no measurements in this checkout")
    report = json.loads((folder / "brain_mr.json").read_text())
    card = (folder / "brain_mr.md").read_text()
    for case in {row["case"] for row in report["results"]}:
        assert table(report["results"], case) in card

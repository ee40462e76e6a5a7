"""Series of any file type and orientation become what the worker would make of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from client.dicom.reader import read_study
from client.limits import ReadLimits
from export.errors import RecipeError
from export.parity.material import (
    Series,
    network_images,
    plan_of,
    read_series,
    stored_slices,
    synthetic_series,
)
from export.recipe import Recipe, SeriesFile
from preprocess.geometry import SliceGeometry
from preprocess.plan import plan_series
from preprocess.reference import network_image
from preprocess.spec import ModelSpec
from tests.dicom_factory import ORIENTATIONS, classic_files
from tests.dicom_factory import Recipe as Scan
from tests.export_networks import tiny_spec, write_recipe

pytestmark = pytest.mark.unit

SAMPLE = Path(__file__).parents[2] / "samples" / "colin27_mr"
SIZE = np.array([20, 24, 12])
SPACING = np.array([2.0, 1.5, 3.0])
"""Voxels and millimetres from right to left, anterior to posterior, inferior to superior."""
MARKER = 180
PERCENTILES = {
    "kind": "percentile_zscore",
    "low_percentile": 0.5,
    "high_percentile": 99.5,
    "foreground": 0.1,
}
ORDER = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
"""Of these axes, the one along which slices lie, that of their rows, that of their columns."""
TURNS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def recipe_of(folder: Path) -> Recipe:
    return write_recipe(folder, {"kind": "onnx", "file": "none.onnx"})


def head() -> NDArray[np.int16]:
    """[to left, to posterior, to superior]: a block with a marker left, anterior, superior."""
    volume = np.full(SIZE, -100, dtype=np.int16)
    volume[2:-2, 2:-2, 2:-2] = 20
    volume[-7:-3, 3:8, -5:-3] = MARKER
    return volume


def turned(
    volume: NDArray[np.int16], axes: tuple[int, ...], flips: tuple[bool, ...], tilt_deg: float = 0
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The volume with its axes stored in another order, and its RAS affine."""
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = 31.0, 17.0, -40.0
    array, columns, corner = volume.transpose(axes), affine[:3, list(axes)], affine[:3, 3].copy()
    for axis, flip in enumerate(flips):
        if flip:
            corner += columns[:, axis] * (array.shape[axis] - 1)
            columns[:, axis] *= -1
            array = np.flip(array, axis)
    affine[:3, :3], affine[:3, 3] = columns, corner
    affine[:3] = Rotation.from_euler("xyz", [tilt_deg] * 3, degrees=True).as_matrix() @ affine[:3]
    return np.ascontiguousarray(array), affine


def save(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    image: Any = nib.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    nib.save(image, path)


def read(folder: Path, spec: ModelSpec, image: str = "image.nii.gz", **keys: Any) -> Series:
    return read_series(recipe_of(folder), SeriesFile(image=image, **keys), spec)


def expected_images(plane: str) -> NDArray[np.int16]:
    """Slices of ``head`` as docs/models.md shows them: [slices, rows, columns] from one side."""
    volume = head().transpose(ORDER[plane])
    return volume if plane == "axial" else volume[:, ::-1]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_every_storage_order_gives_the_same_upright_images(tmp_path: Path, plane: str) -> None:
    spec = tiny_spec(planes=(plane,))
    slices = expected_images(plane)
    distances = SPACING[list(ORDER[plane])].tolist()
    rows, columns = slices.shape[1:]
    orientation: Any = ORIENTATIONS[plane]
    geometry = SliceGeometry(rows, columns, distances[1], distances[2], orientation)
    plan = plan_series(spec, slices, geometry)
    wanted = np.stack([network_image(spec, plan.tensors(one)) for one in slices])
    for axes, flips in TURNS:
        save(tmp_path / "image.nii.gz", *turned(head(), axes, flips))
        series = read(tmp_path, spec)
        images = network_images(series, spec)
        assert series.spacing_mm[0] == pytest.approx(distances[0])
        assert sorted(series.spacing_mm) == pytest.approx(sorted(distances))
        backwards = not np.allclose(images, wanted, atol=1e-5)
        assert np.allclose(images[::-1] if backwards else images, wanted, atol=1e-5), (axes, flips)


@pytest.mark.parametrize("tilt_deg", [0, 9])
@pytest.mark.parametrize(
    ("plane", "top", "left"),
    [("axial", True, False), ("coronal", True, False), ("sagittal", True, True)],
)
def test_left_anterior_superior_comes_out_where_it_belongs(
    tmp_path: Path, plane: str, top: bool, left: bool, tilt_deg: float
) -> None:
    """On a canvas, left of the patient is right of the picture."""
    spec = tiny_spec(planes=(plane,))
    for axes, flips in TURNS[::5]:
        save(tmp_path / "image.nii.gz", *turned(head(), axes, flips, tilt_deg))
        images = network_images(read(tmp_path, spec), spec)
        marked = np.argwhere(images[:, 0] > 0.75)  # tissue lies at 0.4
        assert len(marked) > 8
        row, column = marked[:, 1:].mean(axis=0)
        assert (row < 31) == top, (axes, flips)
        assert (column < 31) == left, (axes, flips)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii"])
def test_file_types_agree(tmp_path: Path, suffix: str) -> None:
    spec = tiny_spec()
    save(tmp_path / "image.nii.gz", *turned(head(), (1, 2, 0), (True, False, True)))
    SimpleITK.WriteImage(
        SimpleITK.ReadImage(tmp_path / "image.nii.gz"), tmp_path / f"other{suffix}"
    )
    one, other = read(tmp_path, spec), read(tmp_path, spec, f"other{suffix}")
    assert np.array_equal(one.stored, other.stored)
    assert np.allclose(one.geometry.orientation, other.geometry.orientation, atol=1e-6)
    assert np.allclose(network_images(one, spec), network_images(other, spec), atol=1e-5)


@pytest.mark.parametrize("name", sorted(ORIENTATIONS))
def test_a_dicom_folder_is_read_as_the_worker_reads_it(tmp_path: Path, name: str) -> None:
    spec = tiny_spec(planes=("axial", "coronal", "sagittal"))
    rng = np.random.default_rng(0)
    scan = Scan(
        volume=rng.integers(0, 2000, (5, 18, 22)).astype(np.uint16),
        orientation=ORIENTATIONS[name],
        spacing_mm=(1.25, 0.8),
        modality="CT",
        slope=1.0,
        intercept=-1024.0,
        order=[3, 0, 4, 1, 2],
    )
    files = classic_files(scan)
    folder = tmp_path / "series"
    folder.mkdir()
    for file, content in files:
        (folder / file).write_bytes(content)
    ours = read(tmp_path, spec, "series")
    (theirs,) = read_study(files, ReadLimits()).series
    plan = plan_series(
        spec, theirs.stored, theirs.geometry, slope=theirs.slope, intercept=theirs.intercept
    )
    images = np.stack([network_image(spec, plan.tensors(one)) for one in theirs.stored])
    assert plan.geometry.plane is plan_of(ours, spec).geometry.plane
    mine = network_images(ours, spec)
    same = np.allclose(mine, images, atol=1e-4)
    assert same or np.allclose(mine[::-1], images, atol=1e-4)


def test_monochrome1_is_shown_upright_as_the_worker_shows_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 900, (3, 18, 22)).astype(np.uint16)
    scan = Scan(volume=volume, photometric="MONOCHROME1", bits_stored=12)
    files = classic_files(scan)
    for file, content in files:
        (tmp_path / file).write_bytes(content)
    spec = tiny_spec(intensity=PERCENTILES)
    series = read(tmp_path, spec, ".")
    (theirs,) = read_study(files, ReadLimits()).series
    plan = plan_series(spec, theirs.stored, theirs.geometry, inverted=theirs.inverted)
    images = np.stack([network_image(spec, plan.tensors(one)) for one in theirs.stored])
    assert theirs.inverted
    assert np.allclose(network_images(series, spec), images, atol=1e-4)
    assert "expected MONOCHROME2 for hu_window" in refusal(tmp_path, tiny_spec(), image=".")


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample series is not in this checkout")
def test_the_sample_is_read_with_its_labels(tmp_path: Path) -> None:
    spec = tiny_spec(classes=12)
    classes = (4, 5, 6, 7, 8, 9, 11)
    file = SeriesFile(
        image=str(SAMPLE), labels=str(SAMPLE / "labels.nii.gz"), label_classes=classes, step=40
    )
    series = read_series(recipe_of(tmp_path), file, spec)
    with np.load(SAMPLE / "reference.npz") as reference:
        structures, brain = reference["structures"], reference["brain"]
    assert series.labels is not None
    assert np.array_equal(series.labels, structures)
    assert series.label_classes == classes
    assert series.spacing_mm == (1.0, 1.0, 1.0)
    assert series.geometry.orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert series.stored[brain > 0].mean() > 2 * series.stored[brain == 0].mean()
    assert stored_slices(series).shape == (5, 217, 181)
    assert series.chosen_spacing_mm == (40.0, 1.0, 1.0)


def test_slices_are_chosen_after_the_whole_series_was_planned(tmp_path: Path) -> None:
    spec = tiny_spec(intensity=PERCENTILES)
    ramp = head() + 400 * np.arange(SIZE[2], dtype=np.int16)
    save(tmp_path / "image.nii.gz", *turned(ramp, (0, 1, 2), (False, False, False)))
    whole, some = read(tmp_path, spec), read(tmp_path, spec, first=1, step=5)
    assert list(some.chosen) == [1, 6, 11]
    assert np.array_equal(network_images(some, spec), network_images(whole, spec)[[1, 6, 11]])


def test_a_single_slice_lies_on_the_canvas_of_the_models_first_plane(tmp_path: Path) -> None:
    flat = np.zeros((40, 30), dtype=np.int16)
    flat[:10, 20:] = MARKER  # x large, y small: right of the picture, top
    image: Any = SimpleITK.GetImageFromArray(flat)
    SimpleITK.WriteImage(image, tmp_path / "flat.nrrd")
    for plane in ("axial", "coronal", "sagittal"):
        spec = tiny_spec(planes=(plane,))
        series = read(tmp_path, spec, "flat.nrrd")
        assert series.stored.shape == (1, 40, 30)
        rows, columns = np.nonzero(network_images(series, spec)[0, 0] > 0.8)
        assert rows.max() < 31 < columns.min()


def test_labels_turn_with_the_image(tmp_path: Path) -> None:
    spec = tiny_spec(planes=("coronal",))
    for axes, flips in TURNS[::7]:
        array, affine = turned(head(), axes, flips)
        save(tmp_path / "image.nii.gz", array, affine)
        save(tmp_path / "labels.nii.gz", (array == MARKER).astype(np.float32) * 2, affine)
        series = read(tmp_path, spec, labels="labels.nii.gz")
        assert series.labels is not None
        assert np.array_equal(series.labels == 2, series.stored == MARKER)


def refusal(folder: Path, spec: ModelSpec, **keys: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        read(folder, spec, **keys)
    return str(caught.value)


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    spec = tiny_spec()
    assert "there is none" in refusal(tmp_path, spec, image="nothing.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8bnot at all")
    assert "broken.nii.gz: SimpleITK cannot read it" in refusal(
        tmp_path, spec, image="broken.nii.gz"
    )
    save(tmp_path / "four.nii.gz", np.zeros((4, 4, 4, 3), dtype=np.int16), np.eye(4))
    assert "got 4 axes with 1 values" in refusal(tmp_path, spec, image="four.nii.gz")
    colours: Any = SimpleITK.GetImageFromArray(np.zeros((2, 4, 4, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colours, tmp_path / "colours.mha")
    assert "3 axes with 3 values" in refusal(tmp_path, spec, image="colours.mha")
    (tmp_path / "empty").mkdir()
    assert "found 0 series" in refusal(tmp_path, spec, image="empty")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([0.0, np.nan]), "some are NaN"),
        (np.array([0, 40000]), "got 0 to 40000"),
        (np.array([-70000.0, 3.0]), "got -70000.0 to 3.0"),
        (np.array([0.0, 1.4]), "that whole numbers can tell apart"),
    ],
)
def test_values_that_int16_cannot_hold_are_refused(
    tmp_path: Path, values: NDArray[Any], reason: str
) -> None:
    array = np.resize(values, (16, 16, 5))
    kind = np.int32 if values.dtype.kind == "i" else np.float32
    image = SimpleITK.GetImageFromArray(array.astype(kind))
    SimpleITK.WriteImage(image, tmp_path / "image.nrrd")  # NIfTI readers turn NaN to 0
    assert reason in refusal(tmp_path, tiny_spec(), image="image.nrrd")


def test_fractions_that_do_not_matter_are_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(300, 100, (16, 16, 5)).astype(np.float32)
    save(tmp_path / "image.nii.gz", values, np.eye(4))
    series = read(tmp_path, tiny_spec())
    assert np.abs(np.sort(series.stored, axis=None) - np.sort(values, axis=None)).max() <= 0.5


def test_folders_of_several_series_or_with_gaps_are_refused(tmp_path: Path) -> None:
    volume = np.zeros((6, 16, 16), dtype=np.uint16)
    (tmp_path / "two").mkdir()
    (tmp_path / "gap").mkdir()
    for number in (1, 2):
        for file, content in classic_files(Scan(volume=volume[:2], series=number)):
            (tmp_path / "two" / f"{number}{file}").write_bytes(content)
    for file, content in (
        classic_files(Scan(volume=volume))[:2] + classic_files(Scan(volume=volume))[4:]
    ):
        (tmp_path / "gap" / file).write_bytes(content)
    assert "found 2 series" in refusal(tmp_path, tiny_spec(), image="two")
    assert "even distances, got 2.000 to 6.000 mm" in refusal(tmp_path, tiny_spec(), image="gap")


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec()
    array, affine = turned(head(), (0, 1, 2), (False, False, False))
    save(tmp_path / "image.nii.gz", array, affine)
    mask = (array == MARKER).astype(np.uint8)

    def refused(labels: NDArray[Any], grid: NDArray[np.float64], **keys: Any) -> str:
        save(tmp_path / "labels.nii.gz", labels, grid)
        return refusal(tmp_path, spec, labels="labels.nii.gz", **keys)

    moved, wider, mirrored = affine.copy(), affine.copy(), affine.copy()
    moved[0, 3] += 1
    wider[:3, 1] *= 1.02
    mirrored[:3, 0] *= -1
    for grid in (moved, wider, mirrored):
        message = refused(mask, grid)
        assert (
            "labels.nii.gz: labels are not on the image's grid: expected size 12x24x20" in message
        )
        assert "spacing [3.0, 1.5, 2.0] mm" in message
    assert "got size 12x24x19" in refused(mask[:19], affine)
    assert "got also [7]" in refused(mask * 7, affine)
    assert "got also [0.5]" in refused(mask * np.float32(0.5), affine)
    assert "label_classes: expected classes of (1, 2)" in refused(mask, affine, label_classes=(3,))


def test_a_first_slice_beyond_the_end_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", *turned(head(), (0, 1, 2), (False, False, False)))
    assert "it has 0 to 11" in refusal(tmp_path, tiny_spec(), first=12)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("intensity", ["hu_window", "percentile_zscore"])
def test_the_synthetic_series_fills_the_canvas_with_something_to_tell_apart(
    plane: str, intensity: str
) -> None:
    kinds = {
        "hu_window": {"kind": "hu_window", "hu_low": -100.0, "hu_high": 200.0},
        "percentile_zscore": PERCENTILES,
    }
    spec = tiny_spec(planes=(plane,), size=(64, 96), intensity=kinds[intensity])
    series = synthetic_series(spec)
    again = synthetic_series(spec)
    images = network_images(series, spec)
    assert series.synthetic
    assert str(series.geometry.plane) == plane
    assert np.array_equal(series.stored, again.stored)
    assert images.shape == (12, 1, 64, 96)
    assert np.isfinite(images).all()
    assert all(len(np.unique(image.round(2))) > 40 for image in images)
    assert images.std(axis=(1, 2, 3)).min() > 0.1

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocess.errors import PlanError
from preprocess.geometry import GeometryPlan, SliceGeometry, plan_geometry, restore_mask
from preprocess.reference import preprocess_slice
from preprocess.spec import GeometrySpec, Plane

pytestmark = pytest.mark.unit

SPEC = GeometrySpec(spacing_mm=(1.0, 1.0), size=(256, 256))
UNEQUAL = GeometrySpec(spacing_mm=(0.7, 1.6), size=(300, 160))
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Orientation = tuple[float, float, float, float, float, float]


def signed_orientations() -> Iterator[Orientation]:
    """Every way an axis-aligned slice may lie: 6 pairs of axes, each with 4 signs, are the 24
    that in-plane directions tell apart; the normal's sign makes them the 48 of a volume."""
    axes = np.eye(3)
    for first, second in itertools.permutations(range(3), 2):
        for sign, other in itertools.product((1, -1), repeat=2):
            yield tuple(np.concatenate([sign * axes[first], other * axes[second]]))


def to_canvas(labels: NDArray[np.uint8], plan: GeometryPlan) -> NDArray[np.uint8]:
    image = labels.T if plan.transpose else labels
    y = preprocess_slice(
        image.astype(np.int16), plan.region, plan.size, (1 / 255, 0, 255, 0), plan.canvas
    )
    return np.asarray(np.rint(y[0]), dtype=np.uint8)


def shown_part(labels: NDArray[np.uint8], plan: GeometryPlan) -> NDArray[np.uint8]:
    """The labels with 0 outside the planned region."""
    image = labels.T if plan.transpose else labels
    (y0, y1), (x0, x1) = sorted(plan.region[0::2]), sorted(plan.region[1::2])
    part = np.zeros_like(image)
    window = np.s_[int(y0) : int(y1), int(x0) : int(x1)]
    part[window] = image[window]
    return part.T if plan.transpose else part


@pytest.mark.parametrize("shape", [(181, 217), (256, 256), (1, 1), (301, 255), (300, 257)])
@pytest.mark.parametrize("normal_sign", [1, -1])
def test_the_round_trip_is_exact_on_the_models_own_spacing(
    shape: tuple[int, int], normal_sign: int
) -> None:
    labels = np.random.default_rng(0).integers(0, 12, (2, *shape)).astype(np.uint8)[::normal_sign]
    for orientation in signed_orientations():
        plan = plan_geometry(SPEC, SliceGeometry(*shape, 1.0, 1.0, orientation))
        canvas = np.stack([to_canvas(one, plan) for one in labels])
        expected = np.stack([shown_part(one, plan) for one in labels])
        np.testing.assert_array_equal(restore_mask(canvas, plan), expected)


@pytest.mark.parametrize("orientation", list(signed_orientations()))
def test_the_canvas_shows_the_plane_as_it_is_displayed(orientation: Orientation) -> None:
    """A mark in the corner towards anterior/superior and right/anterior lands at the top left."""
    geometry = SliceGeometry(100, 100, 1.0, 1.0, orientation)
    plan = plan_geometry(SPEC, geometry)
    rows_to, columns_to = {
        Plane.AXIAL: ((0, 1, 0), (1, 0, 0)),
        Plane.CORONAL: ((0, 0, -1), (1, 0, 0)),
        Plane.SAGITTAL: ((0, 0, -1), (0, 1, 0)),
    }[plan.plane]
    across, down = geometry.directions
    y, x = np.mgrid[:100, :100]
    position = (y - 49.5)[..., None] * down + (x - 49.5)[..., None] * across
    for axis, direction in enumerate((rows_to, columns_to)):
        behind = (position @ np.array(direction, dtype=float) > 0).astype(np.uint8)
        canvas = to_canvas(behind, plan)[78:178, 78:178]
        halves = np.split(canvas, 2, axis=axis)
        assert halves[0].max() == 0
        assert halves[1].min() == 1


@st.composite
def oblique_geometries(draw: st.DrawFn) -> SliceGeometry:
    quaternion = np.array(
        [draw(st.floats(-1, 1, allow_nan=False)) for _ in range(3)] + [draw(st.floats(0.1, 1))]
    )
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    across = (1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w))
    down = (2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w))
    return SliceGeometry(
        draw(st.integers(20, 400)),
        draw(st.integers(20, 400)),
        draw(st.floats(0.3, 2.5)),
        draw(st.floats(0.3, 2.5)),
        (*across, *down),
    )


@settings(max_examples=40, deadline=None)
@given(geometry=oblique_geometries(), spec=st.sampled_from([SPEC, UNEQUAL]))
def test_a_label_keeps_its_place_in_the_patient(
    geometry: SliceGeometry, spec: GeometrySpec
) -> None:
    """The centroid of a restored disc lies within half a pixel (native or canvas) of the disc's."""
    plan = plan_geometry(spec, geometry)
    y, x = np.mgrid[: geometry.rows, : geometry.columns].astype(float)
    y0, x0 = (geometry.rows - 1) / 2, (geometry.columns - 1) / 2
    extent = min(
        geometry.rows * geometry.row_spacing_mm, geometry.columns * geometry.column_spacing_mm, 200
    )
    distance = np.hypot(
        (y - y0) * geometry.row_spacing_mm - extent / 12,
        (x - x0) * geometry.column_spacing_mm + extent / 10,
    )
    disc = (distance < extent / 3).astype(np.uint8)
    back = restore_mask(to_canvas(disc, plan), plan)
    assert back.shape == disc.shape
    for axis, spacing in ((y, geometry.row_spacing_mm), (x, geometry.column_spacing_mm)):
        moved_mm = abs(axis[back > 0].mean() - axis[disc > 0].mean()) * spacing
        assert moved_mm <= 0.5 * max(spacing, *spec.spacing_mm)


@settings(max_examples=40, deadline=None)
@given(geometry=oblique_geometries(), spec=st.sampled_from([SPEC, UNEQUAL]))
def test_every_plan_lies_within_its_image_and_canvas(
    geometry: SliceGeometry, spec: GeometrySpec
) -> None:
    plan = plan_geometry(spec, geometry)
    rows, columns = (geometry.rows, geometry.columns)[:: -1 if plan.transpose else 1]
    assert all(0 <= edge <= rows for edge in plan.region[0::2])
    assert all(0 <= edge <= columns for edge in plan.region[1::2])
    assert plan.region[0] != plan.region[2]
    assert plan.region[1] != plan.region[3]
    assert all(1 <= length <= side for length, side in zip(plan.size, plan.canvas, strict=True))


@pytest.mark.parametrize("orientation", list(signed_orientations()))
def test_the_two_pixel_distances_are_those_of_the_canvas(orientation: Orientation) -> None:
    """However the slice lies, a square of 100 mm gets 100 mm of rows and of columns."""
    plan = plan_geometry(UNEQUAL, SliceGeometry(100, 100, 1.0, 1.0, orientation))
    assert plan.size == (round(100 / 0.7), round(100 / 1.6))


@pytest.mark.parametrize("flip", [1, -1])
def test_the_round_trip_is_exact_on_two_pixel_distances(flip: int) -> None:
    labels = np.random.default_rng(0).integers(0, 12, (120, 90)).astype(np.uint8)
    for transpose, shape, spacing in (
        (False, (120, 90), (0.7, 1.6)),
        (True, (90, 120), (1.6, 0.7)),
    ):
        across, down = ((0, flip, 0), (1, 0, 0)) if transpose else ((1, 0, 0), (0, flip, 0))
        plan = plan_geometry(UNEQUAL, SliceGeometry(*shape, *spacing, (*across, *down)))
        native = labels.T if transpose else labels
        assert plan.transpose is transpose
        np.testing.assert_array_equal(restore_mask(to_canvas(native, plan), plan), native)


def plain_restore(mask: NDArray[np.uint8], plan: GeometryPlan) -> NDArray[np.uint8]:
    """Every native pixel looked up by itself."""
    rows, columns = plan.native_shape[:: -1 if plan.transpose else 1]
    native = np.zeros((*mask.shape[:-2], rows, columns), np.uint8)
    places = []
    for axis, side in enumerate((rows, columns)):
        start, end = plan.region[axis], plan.region[axis + 2]
        position = (np.arange(side) + 0.5 - start) / (end - start)
        index = np.clip(np.floor(position * plan.size[axis]), 0, plan.size[axis] - 1)
        places.append((index.astype(int) + plan.offset[axis], (position >= 0) & (position <= 1)))
    (down, seen_down), (across, seen_across) = places
    native = mask[..., down[:, None], across] * (seen_down[:, None] & seen_across)
    return native.swapaxes(-1, -2) if plan.transpose else native


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    spacing=st.tuples(st.floats(0.3, 9.0), st.floats(0.3, 9.0)),
    orientation=st.sampled_from(list(signed_orientations())),
    spec=st.sampled_from(
        [SPEC, UNEQUAL, GeometrySpec((1.0, 2.0), (32, 48)), GeometrySpec((0.5, 0.5), (64, 16))]
    ),
    slices=st.sampled_from([(), (1,), (3,), (2, 2), (0,)]),
    seed=st.integers(0, 2**32 - 1),
    filled=st.sampled_from([0.0, 0.0005, 0.1, 1.0]),
)
def test_masks_come_back_as_when_each_pixel_is_looked_up(
    *,
    shape: tuple[int, int],
    spacing: tuple[float, float],
    orientation: Orientation,
    spec: GeometrySpec,
    slices: tuple[int, ...],
    seed: int,
    filled: float,
) -> None:
    plan = plan_geometry(spec, SliceGeometry(*shape, *spacing, orientation))
    rng = np.random.default_rng(seed)
    canvas = rng.integers(1, 256, (*slices, *spec.size)).astype(np.uint8)
    canvas[rng.random(canvas.shape) >= filled] = 0
    native = restore_mask(canvas, plan)
    np.testing.assert_array_equal(native, plain_restore(canvas, plan))
    assert native.flags.c_contiguous


def test_what_the_canvas_cannot_show_comes_back_as_background() -> None:
    plan = plan_geometry(SPEC, SliceGeometry(400, 300, 1.0, 1.0, AXIAL))
    back = restore_mask(np.full((256, 256), 7, dtype=np.uint8), plan)
    assert back.shape == (400, 300)
    assert (back[72:328, 22:278] == 7).all()
    assert int((back == 7).sum()) == 256 * 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 1.0, 1.0, AXIAL), "rows and columns"),
        ((10, 20000, 1.0, 1.0, AXIAL), "rows and columns"),
        ((10, 10, 0.0, 1.0, AXIAL), "pixel spacing"),
        ((10, 10, 1.0, float("nan"), AXIAL), "pixel spacing"),
        ((10, 10, 1.0, 1.0, (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)), "orthogonal"),
        ((10, 10, 1.0, 1.0, (2.0, 0.0, 0.0, 0.0, 1.0, 0.0)), "orthogonal"),
        ((10, 10, 1.0, 1.0, (float("nan"), 0.0, 0.0, 0.0, 1.0, 0.0)), "orthogonal"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(
    arguments: tuple[int, int, float, float, Orientation], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        SliceGeometry(*arguments)


def test_a_mask_of_another_canvas_is_refused() -> None:
    plan = plan_geometry(SPEC, SliceGeometry(10, 10, 1.0, 1.0, AXIAL))
    with pytest.raises(PlanError, match="expected masks of"):
        restore_mask(np.zeros((128, 128), dtype=np.uint8), plan)

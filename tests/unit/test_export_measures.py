"""Distances are zero where answers are equal, symmetric, and grow with the difference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from export.parity.measures import (
    Difference,
    class_counts,
    dice,
    difference,
    differing_fraction,
    hausdorff95_mm,
)

pytestmark = pytest.mark.unit

CLASSES = 4
Masks = tuple[NDArray[np.uint8], NDArray[np.uint8]]
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)
MASKS = SHAPES.flatmap(
    lambda shape: st.tuples(
        *(hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)) for _ in range(2))
    )
)
VALUES = hnp.arrays(
    np.float32, (3, 4, 5), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


@given(MASKS)
def test_dice_of_a_mask_with_itself_is_one(
    masks: Masks,
) -> None:
    found = dice(class_counts(masks[0], masks[0], CLASSES))
    present = np.isin(np.arange(CLASSES), masks[0])
    assert np.array_equal(found[present], np.ones(present.sum()))
    assert np.isnan(found[~present]).all()


@given(MASKS)
def test_dice_is_symmetric_and_follows_its_definition(
    masks: Masks,
) -> None:
    first, second = masks
    found = dice(class_counts(first, second, CLASSES))
    assert np.array_equal(found, dice(class_counts(second, first, CLASSES)), equal_nan=True)
    for value in range(CLASSES):
        a, b = first == value, second == value
        if a.any() or b.any():
            assert found[value] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        else:
            assert math.isnan(found[value])


@given(MASKS)
def test_pooling_slices_is_the_same_as_counting_at_once(
    masks: Masks,
) -> None:
    counts = class_counts(masks[0], masks[1], CLASSES)
    at_once = class_counts(masks[0].reshape(1, -1), masks[1].reshape(1, -1), CLASSES)
    assert np.array_equal(counts.sum(axis=0), at_once[0])
    assert np.array_equal(dice(counts), dice(at_once), equal_nan=True)


@given(MASKS)
def test_the_differing_fraction_is_zero_only_for_equal_masks(
    masks: Masks,
) -> None:
    fraction = differing_fraction(*masks)
    assert (fraction == 0) == np.array_equal(masks[0], masks[1])
    assert fraction == differing_fraction(masks[1], masks[0])
    assert 0 <= fraction <= 1


@given(VALUES, st.floats(0.001, 8))
def test_relative_l2_scales_with_the_difference(reference: NDArray[Any], factor: float) -> None:
    if not np.square(reference, dtype=np.float64).sum() > 1e-6:
        reference = reference + 1
    given_values = reference.astype(np.float64) * (1 + factor)
    found = difference(given_values, reference)
    assert found.relative_l2 == pytest.approx(factor, rel=1e-6)
    assert found.max_abs.max() == pytest.approx(factor * np.abs(reference).max(), rel=1e-6)
    assert difference(reference, reference).relative_l2 == 0


@given(VALUES, VALUES)
def test_batches_joined_are_the_whole(answer: NDArray[Any], reference: NDArray[Any]) -> None:
    whole = difference(answer, reference)
    parts = [difference(answer[i : i + 1], reference[i : i + 1]) for i in range(3)]
    joined = Difference.join(parts)
    assert np.array_equal(joined.max_abs, whole.max_abs)
    assert joined.relative_l2 == whole.relative_l2
    assert [part.relative_l2 for part in parts] == [whole.slice_relative_l2(i) for i in range(3)]


def test_values_that_are_not_finite_are_counted_and_not_averaged_away() -> None:
    reference = np.ones((2, 6), dtype=np.float32)
    answer = reference.copy()
    answer[1, 2:4] = np.nan, np.inf
    found = difference(answer, reference)
    assert found.nonfinite.tolist() == [0, 2]
    assert found.max_abs[0] == 0
    assert math.isnan(found.max_abs[1])
    assert math.isnan(found.relative_l2)


def test_a_zero_reference_is_at_an_infinite_distance_from_anything_else() -> None:
    zero = np.zeros((1, 4), dtype=np.float32)
    assert difference(zero, zero).relative_l2 == 0
    assert difference(zero + 1, zero).relative_l2 == math.inf


@given(st.integers(1, 6), st.floats(0.5, 4), st.floats(0.5, 4))
@settings(deadline=None, max_examples=8)
def test_hd95_of_a_shifted_plate_is_the_shift(
    shift: int, rows_mm: float, columns_mm: float
) -> None:
    plate = np.zeros((3, 20, 20), dtype=bool)
    plate[:, 5:8, :] = True
    moved = np.roll(plate, shift, axis=1)
    found = hausdorff95_mm(moved, plate, (2.0, rows_mm, columns_mm))
    assert found == pytest.approx(shift * rows_mm, rel=1e-5)
    assert hausdorff95_mm(plate, plate, (2.0, rows_mm, columns_mm)) == 0


def brute_hd95(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    surfaces = [np.argwhere(v & ~ndimage.binary_erosion(v)) * spacing for v in (a, b)]
    apart = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
    return float(max(np.percentile(apart.min(axis=axis), 95) for axis in (0, 1)))


@pytest.mark.parametrize("slices", [1, 12])
@pytest.mark.parametrize("seed", range(3))
def test_hd95_on_the_box_is_hd95_on_the_whole_volume(seed: int, slices: int) -> None:
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.standard_normal((slices, 30, 34)), 2) for _ in range(2)]
    a, b = (one > 1.2 * one.std() for one in noise)
    a[:, :6] = b[:, :6] = False
    spacing = (2.5, 1.0, 0.5)
    wanted = brute_hd95(a[0], b[0], spacing[1:]) if slices == 1 else brute_hd95(a, b, spacing)
    assert hausdorff95_mm(a, b, spacing) == pytest.approx(wanted, rel=1e-4)
    assert hausdorff95_mm(b, a, spacing) == pytest.approx(wanted, rel=1e-4)


def test_hd95_is_undefined_without_a_surface() -> None:
    empty, block = np.zeros((2, 4, 4), dtype=bool), np.ones((2, 4, 4), dtype=bool)
    assert hausdorff95_mm(empty, block, (1, 1, 1)) is None
    assert hausdorff95_mm(block, empty, (1, 1, 1)) is None

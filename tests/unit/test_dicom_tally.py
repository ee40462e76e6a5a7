"""One pass over a mask finds what plain formulas find, with exact sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.dicom.tally import Tally, take_tally
from tests.folded_masks import drawn_mask

pytestmark = pytest.mark.unit

CLASSES = 6


def check(stored: NDArray[np.int16], mask: NDArray[np.uint8]) -> None:
    check_tally(take_tally(stored, mask, CLASSES), stored, mask)


def check_tally(tally: Tally, stored: NDArray[np.int16], mask: NDArray[np.uint8]) -> None:
    for index in range(len(mask)):
        for value in range(1, CLASSES):
            rows, columns = np.nonzero(mask[index] == value)
            inside = [int(one) for one in stored[index][mask[index] == value]]
            place = index, value
            assert tally.voxels[place] == len(inside)
            assert tally.total[place] == sum(inside)
            assert tally.squares[place] == sum(one * one for one in inside)
            edges = (
                (tally.first_row, rows.min, -1),
                (tally.last_row, rows.max, -1),
                (tally.first_column, columns.min, -1),
                (tally.last_column, columns.max, -1),
            )
            for edge, of, absent in edges:
                assert edge[place] == (of() if inside else absent)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 600)),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_any_mask(seed: int, shape: tuple[int, int, int], filled: float) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.integers(-32768, 32768, shape).astype(np.int16)
    long = np.repeat(rng.integers(0, CLASSES, (*shape[:2], 5)), -(-shape[2] // 5), axis=2)
    mask = long[..., : shape[2]].astype(np.uint8)
    mask[rng.random(shape) >= filled] = 0
    check(stored, mask)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 25), st.integers(1, 40)),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([2, 3, 4, 40]),
)
def test_any_folded_mask(seed: int, shape: tuple[int, int, int], filled: float, most: int) -> None:
    draw = np.random.default_rng(seed)
    cells = np.sort(draw.integers(0, CLASSES, shape), axis=2).astype(np.uint8)
    cells[draw.random(shape) >= filled] = 0
    mask = drawn_mask(draw, cells, most)
    stored = draw.integers(-32768, 32768, mask.shape).astype(np.int16)
    check_tally(take_tally(stored, mask, CLASSES), stored, mask.unfolded())


@pytest.mark.parametrize("value", [-32768, 32767])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_the_largest_sums_of_a_folded_mask(value: int, most: int) -> None:
    mask = drawn_mask(np.random.default_rng(2), np.full((1, 40, 90), 3, np.uint8), most)
    stored = np.full(mask.shape, value, np.int16)
    check_tally(take_tally(stored, mask, CLASSES), stored, mask.unfolded())


@pytest.mark.parametrize("value", [-32768, -1, 0, 32767])
@pytest.mark.parametrize("columns", [1, 255, 256, 257, 512, 700])
def test_the_largest_sums(value: int, columns: int) -> None:
    shape = (2, 150, columns)
    check(np.full(shape, value, np.int16), np.full(shape, 3, np.uint8))


def test_a_large_slice_is_summed_in_parts() -> None:
    rng = np.random.default_rng(1)
    stored = rng.integers(-32768, 32768, (1, 400, 300)).astype(np.int16)
    mask = np.kron(rng.integers(0, CLASSES, (1, 40, 30)), np.ones((1, 10, 10))).astype(np.uint8)
    check(stored, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((1, 3, 4), np.uint8), "expected a uint8 mask of"),
        (np.zeros((2, 3, 4), np.int16), "expected a uint8 mask of"),
        (np.full((2, 3, 4), CLASSES, np.uint8), "expected classes 0 to 5, got 6"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take_tally(np.zeros((2, 3, 4), np.int16), mask, CLASSES)

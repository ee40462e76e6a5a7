"""A folded mask is the mask that plain repetition of its cells makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocess.foldedmask import FoldedMask, fold
from tests.folded_masks import drawn_mask

pytestmark = pytest.mark.unit


def plain(mask: FoldedMask) -> NDArray[np.uint8]:
    native = np.zeros(mask.shape, np.uint8)
    rows = np.repeat(mask.cells, np.diff(mask.row_edges), axis=-2)
    voxels = np.repeat(rows, np.diff(mask.column_edges), axis=-1)
    native[
        ...,
        mask.row_edges[0] : mask.row_edges[-1],
        mask.column_edges[0] : mask.column_edges[-1],
    ] = voxels
    return native


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(0, 12), st.integers(0, 12)),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([1, 3, 40]),
)
def test_it_unfolds_and_divides(
    seed: int, shape: tuple[int, int, int], filled: float, most: int
) -> None:
    draw = np.random.default_rng(seed)
    cells = draw.integers(1, 4, shape).astype(np.uint8)
    cells[draw.random(shape) >= filled] = 0
    mask = drawn_mask(draw, cells, most)
    expected = plain(mask)
    np.testing.assert_array_equal(mask.unfolded(), expected)
    divided = mask.divided(3, 5)
    assert np.diff(divided.row_edges).max(initial=0) <= 3
    assert np.diff(divided.column_edges).max(initial=0) <= 5
    assert divided.shape == mask.shape
    np.testing.assert_array_equal(plain(divided), expected)
    np.testing.assert_array_equal(fold(expected).unfolded(), expected)


def test_a_mask_whose_parts_are_small_enough_is_not_divided() -> None:
    mask = drawn_mask(np.random.default_rng(1), np.ones((1, 5, 5), np.uint8), 3)
    assert mask.divided(3, 3) is mask
    assert fold(mask) is mask

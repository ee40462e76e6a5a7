"""Islands go, the organ and its separate large parts stay, nothing changes its class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocess.cleanup import remove_islands
from preprocess.spec import CleanupSpec, ModelSpec, SpecError

pytestmark = pytest.mark.unit

SPEC = CleanupSpec(core=(2, 3), opening_mm=2.0, min_fraction=0.05)
ISO = (1.0, 1.0, 1.0)


def blank() -> NDArray[np.uint8]:
    return np.zeros((24, 48, 60), np.uint8)


def organ() -> NDArray[np.uint8]:
    """A block of class 2 around one of class 3, in a rim of class 1."""
    mask = blank()
    mask[2:22, 4:30, 4:34] = 1
    mask[4:20, 6:28, 6:32] = 2
    mask[8:16, 12:20, 12:24] = 3
    return mask


def test_the_organ_alone_is_left_as_it_is() -> None:
    assert np.array_equal(remove_islands(organ(), ISO, SPEC), organ())


def test_an_island_goes_and_so_does_what_hangs_on_it() -> None:
    mask = organ()
    mask[8:14, 36:44, 44:52] = 2
    mask[8:14, 36:44, 52:56] = 1
    assert np.array_equal(remove_islands(mask, ISO, SPEC), organ())


def test_a_thin_bridge_does_not_save_an_island() -> None:
    mask = organ()
    mask[8:14, 14:21, 46:53] = 2
    mask[10:12, 16:18, 32:46] = 2
    cleaned = remove_islands(mask, ISO, SPEC)
    assert not cleaned[8:14, 14:21, 46:53].any()
    assert np.array_equal(cleaned[:, :, :32], organ()[:, :, :32])


def test_two_parts_of_like_size_both_stay() -> None:
    mask = blank()
    mask[4:20, 4:44, 4:26] = 2
    mask[4:20, 4:44, 32:54] = 3
    assert np.array_equal(remove_islands(mask, ISO, SPEC), mask)


def test_slices_far_apart_are_judged_in_their_plane() -> None:
    mask = organ()[::7]
    mask[1, 40:43, 50:53] = 2
    cleaned = remove_islands(mask, (7.0, 1.0, 1.0), SPEC)
    assert np.array_equal(cleaned, organ()[::7])


@pytest.mark.parametrize("value", [0, 1])
def test_without_any_core_nothing_is_touched(value: int) -> None:
    mask = np.full((4, 8, 8), value, np.uint8)
    assert np.array_equal(remove_islands(mask, ISO, SPEC), mask)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([ISO, (5.0, 0.5, 0.5), (1.5, 0.9, 0.9)]))
def test_voxels_only_ever_go_to_zero(seed: int, spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (4, 6, 6)) * (rng.random((4, 6, 6)) < 0.5)
    mask = np.kron(coarse, np.ones((4, 6, 6), np.int64)).astype(np.uint8)
    cleaned = remove_islands(mask, spacing, SPEC)
    changed = cleaned != mask
    assert not cleaned[changed].any()
    assert cleaned.dtype == np.uint8


def test_a_core_class_that_the_model_lacks_is_refused(brain_mr: ModelSpec) -> None:
    assert brain_mr.cleanup is not None
    assert brain_mr.cleanup.core == tuple(range(2, 12))
    with pytest.raises(SpecError, match=r"cleanup\.core"):
        CleanupSpec(core=(), opening_mm=2.0, min_fraction=0.1)

"""Islands go, the organ and its separate large parts stay, nothing changes its class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from preprocess.bitvolume import Parts, eroded, grown, pack, unpack
from preprocess.cleanup import native_mask, remove_islands
from preprocess.geometry import GeometryPlan
from preprocess.intensity import IntensityPlan
from preprocess.plan import SeriesPlan
from preprocess.spec import CleanupSpec, ModelSpec, Plane, SpecError

pytestmark = pytest.mark.unit

SPEC = CleanupSpec(core=(2, 3), opening_mm=2.0, min_fraction=0.05)
ISO = (1.0, 1.0, 1.0)


def plain_remove_islands(
    mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float], spec: CleanupSpec
) -> NDArray[np.uint8]:
    """The same in a few calls of scipy, one byte and more per voxel."""
    window = plain_window(mask)
    if window is None:
        return mask.copy()
    part = mask[window]
    core = np.isin(part, spec.core)
    element = ndimage.generate_binary_structure(3, 1)
    if spacing_mm[0] > spec.opening_mm:
        element[[0, 2]] = False
    steps = max(1, round(spec.opening_mm / min(spacing_mm[1:])))
    # Beyond the window, as beyond the field of view, the organ may go on.
    opened = ndimage.binary_erosion(core, element, iterations=steps, border_value=1)
    kept = plain_large_parts(opened, spec.min_fraction)
    if not kept.any():
        return mask.copy()
    # The corner of a block lies three steps away for each step that was eroded.
    kept = ndimage.binary_dilation(kept, element, iterations=3 * steps, mask=core)
    left = np.where(core & ~kept, 0, part)
    labels, _ = ndimage.label(left > 0)
    connected = np.isin(labels, np.unique(labels[kept]))
    out = np.zeros_like(mask)
    out[window] = np.where(connected, left, 0)
    return out


def plain_window(mask: NDArray[np.uint8]) -> tuple[slice, ...] | None:
    found = ndimage.find_objects((mask > 0).astype(np.uint8))
    return found[0] if found else None


def plain_large_parts(core: NDArray[np.bool_], min_fraction: float) -> NDArray[np.bool_]:
    labels, count = ndimage.label(core)
    if count == 0:
        return core
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0
    return np.asarray((voxels >= min_fraction * voxels.max())[labels] & core)


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


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Blobs of any coarseness, in any part of the volume, with and without single voxels."""
    shape = tuple(draw(st.integers(1, most)) for most in (9, 24, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    field = ndimage.gaussian_filter(rng.normal(size=shape), draw(st.sampled_from([0, 0.7, 1.5, 3])))
    field /= field.std() or 1
    mask = np.digitize(field, sorted(rng.normal(size=4))).astype(np.uint8)
    mask[rng.random(shape) < draw(st.sampled_from([0, 0.02, 0.3]))] = 0
    for axis, side in enumerate(shape):
        low, high = sorted(rng.integers(0, side + 1, 2)) if draw(st.booleans()) else (0, side)
        beyond = np.ones(side, bool)
        beyond[low:high] = False
        np.moveaxis(mask, axis, 0)[beyond] = 0
    return np.asarray(mask)


@settings(max_examples=150, deadline=None)
@given(
    masks(),
    st.sampled_from([ISO, (5.0, 0.5, 0.5), (1.5, 0.9, 0.7), (2.0, 3.0, 2.5), (2.5, 2.0, 2.0)]),
    st.sampled_from([(1,), (2, 3), (1, 3), (1, 2, 3, 4), (4,)]),
    st.sampled_from([0.001, 0.05, 0.5, 0.999]),
)
def test_the_same_voxels_as_the_plain_way(
    mask: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    core: tuple[int, ...],
    min_fraction: float,
) -> None:
    spec = CleanupSpec(core=core, opening_mm=2.0, min_fraction=min_fraction)
    before = mask.copy()
    cleaned = remove_islands(mask, spacing, spec)
    np.testing.assert_array_equal(cleaned, plain_remove_islands(mask, spacing, spec))
    np.testing.assert_array_equal(mask, before)
    assert not np.shares_memory(cleaned, mask)


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(1, 4), st.booleans())
def test_bits_do_what_bytes_do(mask: NDArray[np.uint8], steps: int, across: bool) -> None:
    voxels, within, columns = mask > 1, mask > 0, mask.shape[2]
    bits = pack(voxels)
    np.testing.assert_array_equal(unpack(bits, columns), voxels)
    element = ndimage.generate_binary_structure(3, 1)
    element[[0, 2]] &= across
    np.testing.assert_array_equal(
        unpack(eroded(bits, columns, steps, across=across), columns),
        ndimage.binary_erosion(voxels, element, iterations=steps, border_value=1),
    )
    np.testing.assert_array_equal(
        unpack(grown(bits, pack(within), steps, across=across), columns),
        ndimage.binary_dilation(voxels, element, iterations=steps, mask=within),
    )
    parts, (labels, count) = Parts(bits), ndimage.label(voxels)
    sizes = parts.sizes()
    assert sorted(sizes) == sorted(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    seeds = voxels & (mask > 2)
    touched = np.isin(labels, np.unique(labels[seeds])) & voxels
    np.testing.assert_array_equal(
        unpack(parts.select(parts.touched(pack(seeds))), columns), touched
    )


def test_the_margin_of_the_canvas_connects_nothing(brain_mr: ModelSpec) -> None:
    """What the network says of the padding never reaches the image, nor what hangs on it."""
    plan = SeriesPlan(
        GeometryPlan(Plane.AXIAL, False, (0, 0, 60, 40), (60, 40), (60, 40), (256, 256)),
        IntensityPlan(1, 0, 1, 0),
        brain_mr.tensors,
    )
    (y, x), shown = plan.geometry.offset, np.zeros((9, 60, 40), np.uint8)
    shown[:, 5:40, :25] = 2
    island = np.s_[:, 50:54, 34:40]
    canvas = np.zeros((9, 256, 256), np.uint8)
    canvas[:, y : y + 60, x : x + 40] = shown
    canvas[:, y + 50 : y + 54, x + 34 : x + 90] = 2
    canvas[:, y - 30 : y + 100, x + 60 : x + 120] = 2
    canvas[:, y - 30 : y - 20, x : x + 120] = 2
    canvas[:, y - 30 : y + 6, x : x + 10] = 2
    native = native_mask(plan, canvas, (1.0, 1.0, 1.0), brain_mr)
    assert not native[island].any()
    shown[:, :6, :10] = 2
    np.testing.assert_array_equal(native, shown)


def test_a_core_class_that_the_model_lacks_is_refused(brain_mr: ModelSpec) -> None:
    assert brain_mr.cleanup is not None
    assert brain_mr.cleanup.core == tuple(range(2, 12))
    with pytest.raises(SpecError, match=r"cleanup\.core"):
        CleanupSpec(core=(), opening_mm=2.0, min_fraction=0.1)

"""Drawn images keep the anatomy they were drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("scipy")
pytest.importorskip("nibabel")

from training.draw import draw_contrast, draw_example, draw_image, normalise, strip_skull
from training.label_maps import (
    CLASS_NAMES,
    CLASS_OF_INDEX,
    GROUP_OF_INDEX,
    LABEL_VALUES,
    STRAY_CSF_INDEX,
    HeadMap,
    class_of_label,
    encode_map,
)
from training.slices import PLANES, Slab, cut_slab, smooth_field

pytestmark = pytest.mark.unit

SIDE = 96


def toy_labels() -> NDArray[np.int32]:
    """A head of nested balls in RAS axes: skin, bone, fluid, cortex, white matter, one putamen."""
    axes = np.ogrid[:SIDE, :SIDE, :SIDE]
    distance = np.sqrt(sum((a - SIDE / 2) ** 2 for a in axes))
    labels = np.zeros((SIDE, SIDE, SIDE), np.int32)
    for radius, value in ((44, 511), (40, 515), (36, 24), (32, 3), (26, 2)):
        labels[distance < radius] = value
    labels[30:40, 44:52, 44:52] = 12  # left of the middle: small x in RAS
    labels[2:4, 2:4, 2:4] = 24
    return labels


@pytest.fixture(scope="module")
def head() -> HeadMap:
    return encode_map("toy", toy_labels())


def test_every_label_has_one_of_the_classes() -> None:
    assert len(CLASS_NAMES) == 12
    assert set(CLASS_OF_INDEX.tolist()) == set(range(12))
    assert [class_of_label(v) for v in (0, 24, 42, 41, 49, 58, 60, 47, 507)] == [
        0, 1, 2, 3, 4, 5, 10, 11, 0
    ]  # fmt: skip
    assert CLASS_OF_INDEX[STRAY_CSF_INDEX] == 0


def test_left_and_right_share_class_and_intensity() -> None:
    assert (CLASS_OF_INDEX[GROUP_OF_INDEX][:STRAY_CSF_INDEX] == CLASS_OF_INDEX[:-1]).all()
    mean, sd = draw_contrast(np.random.default_rng(0))
    left, right = LABEL_VALUES.index(17), LABEL_VALUES.index(53)
    assert (mean[left], sd[left]) == (mean[right], sd[right])


def test_fluid_away_from_the_brain_is_no_class(head: HeadMap) -> None:
    assert (head.index[2:4, 2:4, 2:4] == STRAY_CSF_INDEX).all()
    middle = head.index[SIDE // 2, SIDE // 2]
    assert LABEL_VALUES.index(24) in middle
    assert head.distance_mm[SIDE // 2, SIDE // 2, SIDE // 2] == 0


def test_an_unknown_label_is_refused() -> None:
    labels = toy_labels()
    labels[0, 0, 0] = 999
    with pytest.raises(ValueError, match="known labels"):
        encode_map("toy", labels)


@pytest.mark.parametrize("plane", sorted(PLANES))
def test_the_same_seed_draws_the_same_pair(head: HeadMap, plane: str) -> None:
    def draw(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        rng = np.random.default_rng(seed)
        return draw_image(rng, head, cut_slab(rng, head, plane, 64))

    first, again, other = draw(1), draw(1), draw(2)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_pairs_are_finite_and_labelled_with_known_classes(head: HeadMap) -> None:
    rng = np.random.default_rng(3)
    seen: set[int] = set()
    for _ in range(40):
        image, mask = draw_example(rng, [head], 64)
        assert image.shape == mask.shape == (64, 64)
        assert image.dtype == np.float32
        assert mask.dtype == np.uint8
        assert np.isfinite(image).all()
        seen |= set(np.unique(mask).tolist())
    assert seen == {0, 1, 2, 3, 6}


def test_both_mirror_images_are_drawn(head: HeadMap) -> None:
    rng = np.random.default_rng(5)
    sides = set()
    for _ in range(60):
        slab = cut_slab(rng, head, "axial", SIDE)
        putamen = np.argwhere(CLASS_OF_INDEX[slab.middle] == 6)
        brain = np.argwhere(CLASS_OF_INDEX[slab.middle] > 1)
        if len(putamen) > 20:
            sides.add(bool(putamen[:, 1].mean() > brain[:, 1].mean()))
    assert sides == {True, False}


def test_stripping_keeps_the_brain_and_drops_the_skin(head: HeadMap) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        slab = cut_slab(rng, head, "coronal", SIDE)
        index, kept = strip_skull(rng, slab)
        assert kept[CLASS_OF_INDEX[slab.middle] > 1].all()
        assert (index[:, ~kept] == 0).all()


def test_a_constant_series_stays_finite_and_constant() -> None:
    image = np.full((8, 8), 7, np.float32)
    out = normalise(image, image.ravel())
    assert np.isfinite(out).all()
    assert np.ptp(out) == 0


def test_normalising_follows_the_serving_rule() -> None:
    image = np.random.default_rng(0).uniform(-5, 50, (64, 64)).astype(np.float32)
    low, high = np.percentile(image, [0.5, 99.5])
    unit = np.clip((image - low) / (high - low), 0, 1)
    inside = unit[unit > 0.1]
    expected = (unit - inside.mean()) / inside.std()
    np.testing.assert_allclose(normalise(image, image.ravel()), expected, atol=1e-4)


def test_flat_labels_without_noise_give_one_value_a_label() -> None:
    slab = Slab(np.zeros((3, 16, 16), np.uint8), np.full((16, 16), 40, np.uint8))
    assert (CLASS_OF_INDEX[slab.middle] == 0).all()
    field = smooth_field(np.random.default_rng(0), 64, 4)
    assert np.abs(np.diff(field[0], axis=0)).max() < 0.5

"""Draw an MR-like image of a slab: label indices ▶ normalised image and class map.

After SynthSeg (Billot et al., Medical Image Analysis 86, 2023): every label gets a random
intensity, so that the network learns shape and not one contrast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.label_maps import CLASS_OF_INDEX, GROUP_OF_INDEX, LABEL_VALUES, HeadMap
from training.slices import PLANES, Slab, cut_slab, smooth_field

__all__ = ("draw_contrast", "draw_example", "draw_image", "normalise", "strip_skull")

_LABELS = len(CLASS_OF_INDEX)
_BRAIN = CLASS_OF_INDEX > 0
# T1 intensities of the brain labels as fractions of the white matter's, by label value.
_T1_OF_VALUE = {3: 0.66, 2: 1.0, 4: 0.2, 14: 0.2, 15: 0.22, 24: 0.24, 7: 0.95, 8: 0.65}
_T1_OF_VALUE |= {10: 0.82, 11: 0.72, 12: 0.77, 13: 0.92, 16: 0.9, 17: 0.66, 18: 0.67}
_T1_OF_VALUE |= {25: 0.8, 26: 0.7, 28: 0.88, 30: 0.4}
# (low, high) of the other labels on T1: fat is bright, bone and air are dark.
_T1_RANGE = {0: (0.0, 0.06), 502: (0.3, 1.2), 506: (0.1, 0.4), 507: (0.3, 1.2), 508: (0.4, 0.9)}
_T1_RANGE |= {509: (0.3, 0.9), 511: (0.4, 1.6), 512: (0.6, 1.0), 514: (0.2, 1.0)}
_T1_RANGE |= {515: (0.02, 0.35), 516: (0.3, 1.5), 530: (0.5, 0.9), 85: (0.6, 1.0)}


def draw_contrast(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw mean and standard deviation [labels] of every label's intensity."""
    mean = rng.uniform(0, 1, _LABELS)
    sd = rng.uniform(0, 0.08, _LABELS)
    kind = rng.random()
    if kind < 0.5:
        spread = rng.uniform(0.01, 0.07)
        gap = rng.uniform(0.6, 1.3)  # the contrast between the tissues
        for value, level in _T1_OF_VALUE.items():
            mean[LABEL_VALUES.index(value)] = 1 - (1 - level) * gap + rng.normal(0, spread)
        for value, (low, high) in _T1_RANGE.items():
            mean[LABEL_VALUES.index(value)] = rng.uniform(low, high)
        sd *= rng.uniform(0.2, 0.9)
        mean = mean.clip(0, 2) * 0.6
    elif rng.random() < 0.7:
        mean[0], sd[0] = rng.uniform(0, 0.05), rng.uniform(0, 0.03)
    if rng.random() < 0.75:  # dark cortical bone
        mean[LABEL_VALUES.index(515)] = rng.uniform(0, 0.15)
    group = GROUP_OF_INDEX
    return mean[group].astype(np.float32), sd[group].astype(np.float32)


def strip_skull(
    rng: np.random.Generator, slab: Slab
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the slab's indices without the skull, and which pixels were kept.

    Some strippings keep all the CSF, some cut it near the brain, some leave a rim of skull.
    """
    size = slab.distance_mm.shape[0]
    if rng.random() < 0.3:
        kept = _BRAIN[slab.middle]
    else:
        wobble = smooth_field(rng, size, int(rng.integers(5, 14)))[0] * rng.uniform(0, 2)
        limit_mm = rng.uniform(0.5, 3.5) if rng.random() < 0.75 else rng.uniform(3, 10)
        kept = slab.distance_mm <= np.maximum(limit_mm + wobble, 0)
        kept |= ndimage.binary_closing(kept, iterations=3) & (slab.distance_mm < 30)
        if rng.random() < 0.5:
            kept &= _BRAIN[slab.middle]
    return slab.index * kept, kept


def _muscle_and_fat(
    rng: np.random.Generator, mean: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the means with the soft tissue of the head as muscle, and as fat.

    Muscles between fat look like lobes of the brain on real scans, and on T1 they are as bright.
    """
    muscle, fat = mean.copy(), mean.copy()
    model = mean[LABEL_VALUES.index(int(rng.choice((3, 2, 8))))]
    level = model * rng.uniform(0.6, 1.15) if rng.random() < 0.7 else rng.uniform(0, 1)
    bright = mean[_BRAIN].max() * rng.uniform(0.9, 1.8) if rng.random() < 0.7 else rng.uniform(0, 1)
    for value in (507, 508, 509, 502):
        muscle[LABEL_VALUES.index(value)] = level * rng.uniform(0.9, 1.1)
        fat[LABEL_VALUES.index(value)] = bright
    return muscle, fat


def _texture(
    rng: np.random.Generator, mean: NDArray[np.float32], index: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the slab's mean image; outside the brain in patches or bands."""
    value = mean[index].mean(axis=0)
    kind, size = rng.random(), index.shape[-1]
    if kind < 0.3:
        second = np.where(_BRAIN, mean, rng.permutation(mean))
        second[0] = mean[0]
        patches = smooth_field(rng, size, int(rng.integers(6, 40)))[0] > rng.normal(0, 0.3)
        value = np.where(patches, second[index].mean(axis=0), value)
    elif kind < 0.85:
        muscle, fat = _muscle_and_fat(rng, mean)
        field = smooth_field(rng, size, int(rng.integers(5, 22)))[0]
        bands = np.abs(field + rng.normal(0, 0.2)) < rng.uniform(0.05, 0.3)
        value = np.where(bands, fat[index].mean(axis=0), muscle[index].mean(axis=0))
    if rng.random() < 0.5:  # tissue is not flat
        knots = int(rng.integers(8, 32))
        value = value * (1 + smooth_field(rng, size, knots)[0] * rng.uniform(0, 0.05))
    drawn: NDArray[np.float32] = value.astype(np.float32)
    return drawn


def normalise(
    image: NDArray[np.float32],
    pool: NDArray[np.float32],
    quantiles: tuple[float, float] = (0.005, 0.995),
) -> NDArray[np.float32]:
    """Apply the serving rule with the statistics of `pool` (the voxels of the series).

    u = clip((x - lo) / (hi - lo), 0, 1), then (u - mean) / sd over the pool's u > 0.1.
    """
    low, high = np.quantile(pool, quantiles)
    span = max(float(high - low), 1e-6)
    unit = ((pool - low) / span).clip(0, 1)
    inside = unit[unit > 0.1]
    mean = float(inside.mean()) if inside.size else 0.0
    sd = float(inside.std()) if inside.size else 1.0
    out: NDArray[np.float32] = (((image - low) / span).clip(0, 1) - mean) / max(sd, 1e-3)
    return out.astype(np.float32)


def draw_image(
    rng: np.random.Generator, head: HeadMap, slab: Slab
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw the normalised image [size, size] of a slab, and its classes 0..11."""
    size = slab.distance_mm.shape[0]
    mean, sd = draw_contrast(rng)
    index, target = slab.index, CLASS_OF_INDEX[slab.middle]
    pool = mean[head.sample]
    if rng.random() < 0.25:
        index, kept = strip_skull(rng, slab)
        target = target * kept
        mean[0] = sd[0] = 0
        pool = np.where(_BRAIN[head.sample], pool, 0)
    image = _texture(rng, mean, index)
    image += sd[slab.middle] * rng.standard_normal((size, size), np.float32) / len(index) ** 0.5

    blur_mm = rng.uniform(0.35, 0.8) if rng.random() < 0.6 else rng.uniform(0.5, 1.6)
    image = ndimage.gaussian_filter(image, blur_mm, truncate=2.5)
    if rng.random() < 0.2:  # acquired on a coarse matrix, interpolated by the scanner
        step = rng.uniform(1.3, 2.6)
        small = ndimage.zoom(image, 1 / step, order=1, mode="nearest", grid_mode=True)
        back = (size / small.shape[0], size / small.shape[1])
        image = ndimage.zoom(small, back, order=1, mode="nearest", grid_mode=True)
    if rng.random() < 0.8:
        field = smooth_field(rng, size, int(rng.integers(2, 5)))[0]
        image = image * np.exp(field * np.float32(rng.uniform(0, 0.35)))
    gamma = np.float32(np.exp(rng.normal(0, 0.25)))
    image, pool = (np.maximum(a, 0) ** gamma for a in (image, pool))
    noise = rng.standard_normal((size, size), np.float32)
    image = np.abs(image + noise * np.float32(rng.exponential(0.02)) * (image > 0))

    if rng.random() < 0.25:  # the field of view ends inside the canvas
        image, target = _cut_field_of_view(rng, image, target)
    if rng.random() < 0.35:
        pool = image.ravel()[::3]
    spread = (rng.uniform(0, 0.01), rng.uniform(0.985, 1.0))
    image = normalise(image, pool.astype(np.float32), spread)
    floor = image.min()
    image = (image - floor) * rng.uniform(0.88, 1.14) + floor + rng.normal(0, 0.08)
    return image.astype(np.float32), target.astype(np.uint8)


def _cut_field_of_view(
    rng: np.random.Generator, image: NDArray[np.float32], target: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    size = image.shape[0]
    inside = np.zeros(image.shape, bool)
    low, high = rng.integers(0, size // 4, 2), rng.integers(size * 5 // 8, size + 1, 2)
    inside[low[0] : high[0], low[1] : high[1]] = True
    return image * inside, target * inside


def draw_example(
    rng: np.random.Generator, maps: list[HeadMap], size: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one training pair: a random map, plane, pose and contrast."""
    if rng.random() < 0.005:
        blank = rng.standard_normal((size, size), np.float32) * np.float32(rng.uniform(0, 0.3))
        return blank - 1, np.zeros((size, size), np.uint8)
    head = maps[rng.integers(len(maps))]
    plane = str(rng.choice(list(PLANES), p=(0.4, 0.3, 0.3)))
    return draw_image(rng, head, cut_slab(rng, head, plane, size))

"""A made-up volume that looks like a body: smooth tissue, sharp edges, a little noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ("draw_body",)


def draw_body(shape: tuple[int, int, int], values: tuple[float, float]) -> NDArray[np.int16]:
    """A body with a bright rim and smooth tissue on an empty ground, the same for every call.

    Args:
        shape: Slices, rows and columns.
        values: Value of the ground, and of the brightest tissue.
    """
    rng = np.random.default_rng(0)
    side = min(shape[1:])
    tissue = sum(weight * _smooth(rng, shape, side / part) for weight, part in ((3, 8), (1, 24)))
    axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    radius = np.sqrt(0.3 * axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2)
    edge = radius + 0.08 * _smooth(rng, shape, side / 6)
    inside = np.clip((0.85 - edge) / 0.03, 0, 1)
    rim = np.exp(-(((edge - 0.78) / 0.03) ** 2))
    u = inside * np.clip(0.5 + 0.12 * tissue + 0.35 * rim, 0.05, 1)
    u = u + 0.015 * rng.standard_normal(shape)
    return np.rint(values[0] + np.clip(u, 0, 1) * (values[1] - values[0])).astype(np.int16)


def _smooth(
    rng: np.random.Generator, shape: tuple[int, int, int], sigma: float
) -> NDArray[np.float64]:
    """Noise without detail below ``sigma`` pixels, mean 0, standard deviation 1."""
    depth = min(sigma / 4, shape[0] / 4)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (depth, sigma, sigma), mode="wrap")
    return (noise - noise.mean()) / noise.std()

"""The preprocessing in NumPy: slow, plain, and what every other implementation is held to.

image ─▶ resize the region (triangular filter) ─▶ clamp ─▶ centre on the canvas ─▶ affine

Where the model pads with zero, the last two change places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.spec import ModelSpec, Padding

__all__ = ("network_image", "preprocess_slice", "resize_matrix")


def network_image(spec: ModelSpec, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """One slice as the model's network sees it.

    Args:
        spec: The model.
        tensors: ``SeriesPlan.tensors`` of the slice.

    Returns:
        float32 [1, canvas rows, canvas columns].
    """
    names = spec.tensors
    return preprocess_slice(
        tensors[names.image],
        tensors[names.region],
        tensors[names.size],
        tensors[names.intensity],
        spec.geometry.size,
        padding=spec.intensity.padding,
    )


def preprocess_slice(
    image: NDArray[np.int16],
    region: Sequence[float] | NDArray[np.float32],
    size: Sequence[int] | NDArray[np.int32],
    intensity: Sequence[float] | NDArray[np.float32],
    canvas: tuple[int, int],
    *,
    padding: Padding = Padding.LOW,
) -> NDArray[np.float32]:
    """One slice on the network's canvas.

    Args:
        image: Stored values [rows, columns], transposed already where planned.
        region: (y0, x0, y1, x1), see ``GeometryPlan.region``.
        size: Rows and columns after resizing.
        intensity: (scale, offset, gain, bias), see ``IntensityPlan``.
        canvas: Rows and columns of the result.
        padding: What lies around the resized slice.

    Returns:
        float32 [1, canvas rows, canvas columns].
    """
    y0, x0, y1, x1 = (float(edge) for edge in region)
    height, width = (int(length) for length in size)
    scale, offset, gain, bias = (float(value) for value in intensity)
    down = resize_matrix(image.shape[0], y0, y1, height)
    across = resize_matrix(image.shape[1], x0, x1, width)
    u = np.clip(down @ image.astype(np.float64) @ across.T * scale + offset, 0, 1)
    if padding is Padding.ZERO:
        y = _centre(u * gain + bias, canvas)
    else:
        y = _centre(u, canvas) * gain + bias
    return y.astype(np.float32)[None]


def resize_matrix(pixels: int, start: float, end: float, length: int) -> NDArray[np.float64]:
    """Weights [length, pixels] of antialiased linear interpolation along one axis.

    Each output pixel is a weighted mean under a triangle centred on it, as wide as one input
    pixel or, when shrinking, as one output pixel on either side. Beyond the image its edge pixel
    is repeated.

    Args:
        pixels: Input length.
        start: Where the first output pixel begins, in input pixel-edge coordinates.
        end: Where the last one ends; below ``start`` the axis is flipped.
        length: Output length.
    """
    step = (end - start) / length
    radius = max(abs(step), 1.0)
    centre = start + (np.arange(length) + 0.5) * step
    first = np.floor(centre - radius - 0.5).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(2 * radius)) + 2)
    weight = np.maximum(0, 1 - np.abs(taps + 0.5 - centre[:, None]) / radius)
    weight /= weight.sum(axis=1, keepdims=True)
    matrix = np.zeros((length, pixels))
    rows = np.broadcast_to(np.arange(length)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, pixels - 1)), weight)
    return matrix


def _centre(image: NDArray[np.float64], canvas: tuple[int, int]) -> NDArray[np.float64]:
    """Pads with zeros, or cuts, evenly on both sides."""
    out = np.zeros(canvas)
    target, source = [], []
    for have, want in zip(image.shape, canvas, strict=True):
        margin = (want - have) // 2 if want >= have else -((have - want) // 2)
        target.append(slice(max(margin, 0), max(margin, 0) + min(have, want)))
        source.append(slice(max(-margin, 0), max(-margin, 0) + min(have, want)))
    out[tuple(target)] = image[tuple(source)]
    return out

"""The preprocessing as the cpu profile serves it: the reference's steps in float32, a slice each.

image ─▶ rows by a sparse matrix ─▶ columns by another ─▶ clamp ─▶ centre on the canvas ─▶ affine

Where the model pads with zero, the last two change places. Linear interpolation looks at a few
pixels only, so its matrices are nearly empty; those of a series are made once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from preprocess.reference import resize_matrix
from preprocess.spec import ModelSpec, Padding

__all__ = ("prepare_slice",)

_AXES_KEPT = 256


def prepare_slice(
    spec: ModelSpec, tensors: Mapping[str, NDArray[Any]], canvas: NDArray[np.float32]
) -> None:
    """Writes one slice as the model's network sees it; ``preprocess.reference`` says what that is.

    Contract:
        - Equal to the reference within 1e-5 of the clamped range, times the gain, as long as
          stored values times the scale, and the offset, stay below 32.
        - The answer depends on this slice and its plan alone, bit for bit.

    Args:
        spec: The model.
        tensors: ``SeriesPlan.tensors`` of the slice.
        canvas: Where it is written, [canvas rows, canvas columns].
    """
    names = spec.tensors
    image = tensors[names.image]
    y0, x0, y1, x1 = tensors[names.region].tolist()
    height, width = tensors[names.size].tolist()
    scale, offset, gain, bias = tensors[names.intensity].tolist()
    low = 0.0 if spec.intensity.padding is Padding.ZERO else bias
    if (height, width) != canvas.shape:
        canvas.fill(low)
    top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
    down = _axis(image.shape[0], y0, y1, height)
    across = _axis(image.shape[1], x0, x1, width)
    values: NDArray[np.float32] = (across @ np.ascontiguousarray((down @ _floats(image)).T)).T
    values *= np.float32(scale)
    values += np.float32(offset)
    np.clip(values, 0, 1, out=values)
    values *= np.float32(gain)
    values += np.float32(bias)
    canvas[top : top + height, left : left + width] = values


def _floats(image: NDArray[np.int16]) -> NDArray[np.float32]:
    """A copy that is aligned, which what Triton hands over is not."""
    return image.astype(np.float32)


@lru_cache(_AXES_KEPT)
def _axis(pixels: int, start: float, end: float, length: int) -> Any:
    """``resize_matrix`` in float32, without its zeros."""
    return csr_array(resize_matrix(pixels, start, end, length).astype(np.float32))

"""Brings the slices of a series to int16 on one common scale.

stored values + rescale of each slice ──▶ int16 [slices, rows, columns], slope, intercept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from client.dicom.attributes import integer, invalid, items, value

__all__ = ("CommonScale", "apply_lut", "replace_padding", "to_common_scale")

INT16_MIN, INT16_MAX = -32768, 32767
LEVELS = INT16_MAX - INT16_MIN
EXACT = 1e-6
"""How near a whole number of steps counts as exact."""


@dataclass(frozen=True, eq=False)
class CommonScale:
    """Stored values of a whole series: modality units are ``stored * slope + intercept``.

    Attributes:
        stored: int16 [slices, rows, columns].
    """

    stored: NDArray[np.int16]
    slope: float
    intercept: float


def to_common_scale(
    slices: Sequence[NDArray[Any]], slopes: Sequence[float], intercepts: Sequence[float]
) -> CommonScale:
    """Stacks slices of 8- or 16-bit integers; exact wherever int16 allows it.

    One rescale for all slices: values are kept, or moved by 32768 where unsigned ones do not fit
    (with the intercept moved against it). Rescales that differ by whole steps only: exact. Slopes
    that differ from slice to slice (PET, some MR): the series' whole range is spread over 65535
    steps, so that no value moves by more than half a step.

    Args:
        slices: [rows, columns] each, all of one shape, in their final order.
        slopes: Rescale Slope of each slice, not 0.
        intercepts: Rescale Intercept of each slice.
    """
    slope, shifts = slopes[0], _whole_shifts(slopes, intercepts)
    if shifts is not None:
        low = min(int(part.min()) + shift for part, shift in zip(slices, shifts, strict=True))
        high = max(int(part.max()) + shift for part, shift in zip(slices, shifts, strict=True))
        if high - low <= LEVELS:
            move = 0
            if high > INT16_MAX or low < INT16_MIN:
                move = 32768 if low >= 0 else low - INT16_MIN
            stored = _empty(slices)
            for index, (part, shift) in enumerate(zip(slices, shifts, strict=True)):
                stored[index] = part.astype(np.int32) + (shift - move)
            return CommonScale(stored, slope, intercepts[0] + move * slope)
    return _spread(slices, slopes, intercepts)


def apply_lut(pixels: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Applies the Modality LUT Sequence (PS3.3 C.11.1); without one, returns the pixels as given.

    Raises:
        Rejected: ``INVALID_ATTRIBUTE``: the table is malformed.
    """
    if not items(dataset, "ModalityLUTSequence"):
        return pixels
    try:
        return np.asarray(apply_modality_lut(pixels, dataset))
    except Exception as error:  # a malformed table raises whatever it breaks
        raise invalid("ModalityLUTSequence", "one well-formed lookup table") from error


def replace_padding(pixels: NDArray[Any], dataset: Dataset, *, inverted: bool) -> NDArray[Any]:
    """Gives padding (PS3.3 C.7.5.1.1.2) the darkest value that the image itself has.

    Padding may be any number, such as the largest one; as background it disturbs neither the
    intensity plan nor the measured means.

    Args:
        pixels: Stored values of one instance, before any rescale.
        dataset: Its attributes.
        inverted: MONOCHROME1: the darkest value is the largest.
    """
    if value(dataset, "PixelPaddingValue") is None:
        return pixels
    ends = [integer(dataset, "PixelPaddingValue", INT16_MIN, 2**16 - 1)]
    if value(dataset, "PixelPaddingRangeLimit") is not None:
        ends.append(integer(dataset, "PixelPaddingRangeLimit", INT16_MIN, 2**16 - 1))
    padding = (pixels >= min(ends)) & (pixels <= max(ends))
    if padding.all() or not padding.any():
        return pixels
    image = pixels[~padding]
    return np.where(padding, image.max() if inverted else image.min(), pixels)


def _whole_shifts(slopes: Sequence[float], intercepts: Sequence[float]) -> list[int] | None:
    """How many steps each slice lies above the first one, None if not a whole number."""
    if any(slope != slopes[0] for slope in slopes):
        return None
    shifts = [(intercept - intercepts[0]) / slopes[0] for intercept in intercepts]
    if any(abs(shift - round(shift)) > EXACT or abs(shift) > LEVELS for shift in shifts):
        return None
    return [round(shift) for shift in shifts]


def _spread(
    slices: Sequence[NDArray[Any]], slopes: Sequence[float], intercepts: Sequence[float]
) -> CommonScale:
    ends = [
        float(end) * slope + intercept
        for part, slope, intercept in zip(slices, slopes, intercepts, strict=True)
        for end in (part.min(), part.max())
    ]
    low, step = min(ends), (max(ends) - min(ends)) / LEVELS or 1.0
    stored = _empty(slices)
    for index, (part, slope, intercept) in enumerate(zip(slices, slopes, intercepts, strict=True)):
        levels = np.round((part * slope + (intercept - low)) / step)
        stored[index] = np.clip(levels, 0, LEVELS).astype(np.int32) + INT16_MIN
    return CommonScale(stored, step, low - INT16_MIN * step)


def _empty(slices: Sequence[NDArray[Any]]) -> NDArray[np.int16]:
    return np.empty((len(slices), *slices[0].shape), dtype=np.int16)

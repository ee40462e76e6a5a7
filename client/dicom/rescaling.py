"""Brings the slices of a series to int16 on one common scale.

stored values + rescale of each slice ──put──▶ int16 [slices, rows, columns] ──▶ slope, intercept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from client.dicom.attributes import Attributes, integer, invalid, items, value
from client.dicom.plain import PlainAttributes

__all__ = ("CommonScale", "SliceStack", "apply_lut", "replace_padding")

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


class SliceStack:
    """Takes slices of 8- or 16-bit integers into their places, and brings them to one scale there.

    One rescale for all slices: values are kept, or moved by 32768 where unsigned ones do not fit
    (with the intercept moved against it). Rescales that differ by whole steps only: exact. Slopes
    that differ from slice to slice (PET, some MR): the series' whole range is spread over 65535
    steps, so that no value moves by more than half a step.

    Args:
        room: int16 [slices, rows, columns], contiguous; takes the slices, whatever it held before.
        slopes: Rescale Slope of each slice, not 0.
        intercepts: Rescale Intercept of each slice.
        places: Where in ``room`` each slice lies until all are there; None: where it stays.
    """

    def __init__(
        self,
        room: NDArray[np.int16],
        slopes: Sequence[float],
        intercepts: Sequence[float],
        places: Sequence[int] | None = None,
    ) -> None:
        self._room = room
        self._places = list(range(len(room)) if places is None else places)
        self._bits = room.view(np.uint16)
        self._slopes = slopes
        self._intercepts = intercepts
        self._shifts = _whole_shifts(slopes, intercepts)
        self._ends: dict[int, tuple[int, int]] = {}
        self._unsigned: set[int] = set()
        self._wide: dict[int, NDArray[Any]] = {}

    def put(self, index: int, pixels: NDArray[Any]) -> None:
        """Copy one slice [rows, columns] to its place; unsigned ones as the bits that they are.

        The slice may itself lie in ``room``, where it overlaps its own place, or none in use.
        """
        kind, size = pixels.dtype.kind, pixels.dtype.itemsize
        place = self._places[index]
        # As single rows: NumPy moves those that overlap without a copy in between.
        if (kind, size) == ("u", 2):
            self._unsigned.add(index)
            np.copyto(self._bits[place].reshape(-1), pixels.reshape(-1))
        elif size == 1 or (kind, size) == ("i", 2):
            np.copyto(self._room[place].reshape(-1), pixels.reshape(-1))
        else:  # what a lookup table of more than 16 bits gives
            self._wide[index] = pixels
        if self._moves:
            self._ends[index] = self._ends_of(index)

    def to_common_scale(self) -> CommonScale:
        """Bring all slices to their places and to scale; none can be put afterwards."""
        _arrange(self._room, self._places)
        shifts, slope = self._shifts, self._slopes[0]
        if not self._moves:
            return CommonScale(self._room, slope, self._intercepts[0] + 0 * slope)
        if shifts is not None:
            ends = [self._ends_of(index) for index in range(len(self._room))]
            low = min(end[0] + shift for end, shift in zip(ends, shifts, strict=True))
            high = max(end[1] + shift for end, shift in zip(ends, shifts, strict=True))
            if high - low <= LEVELS:
                move = 0
                if high > INT16_MAX or low < INT16_MIN:
                    move = 32768 if low >= 0 else low - INT16_MIN
                for index, shift in enumerate(shifts):
                    self._add(index, shift - move)
                return CommonScale(self._room, slope, self._intercepts[0] + move * slope)
        return self._spread()

    @property
    def _moves(self) -> bool:
        """Whether any value may change, as none does of int16 with one rescale for all."""
        return bool(self._shifts is None or any(self._shifts) or self._unsigned or self._wide)

    def _part(self, index: int) -> NDArray[Any]:
        if index in self._wide:
            return self._wide[index]
        room = self._bits if index in self._unsigned else self._room
        part: NDArray[Any] = room[self._places[index]]
        return part

    def _ends_of(self, index: int) -> tuple[int, int]:
        """Least and greatest value of a slice."""
        if index not in self._ends:
            part = self._part(index)
            self._ends[index] = int(part.min()), int(part.max())
        return self._ends[index]

    def _add(self, index: int, steps: int) -> None:
        """Exact, as the sums fit int16: bits carried beyond the sixteenth cancel out."""
        if index in self._wide:
            self._room[index] = self._wide[index].astype(np.int32) + steps
        elif steps:
            self._bits[index] += np.uint16(steps & 0xFFFF)

    def _spread(self) -> CommonScale:
        scales = list(zip(self._slopes, self._intercepts, strict=True))
        ends = [
            float(end) * slope + intercept
            for index, (slope, intercept) in enumerate(scales)
            for end in self._ends_of(index)
        ]
        low, step = min(ends), (max(ends) - min(ends)) / LEVELS or 1.0
        for index, (slope, intercept) in enumerate(scales):
            levels = np.round((self._part(index) * slope + (intercept - low)) / step)
            self._room[index] = np.clip(levels, 0, LEVELS).astype(np.int32) + INT16_MIN
        return CommonScale(self._room, step, low - INT16_MIN * step)


def apply_lut(pixels: NDArray[Any], dataset: Dataset | PlainAttributes) -> NDArray[Any]:
    """Applies the Modality LUT Sequence (PS3.3 C.11.1); without one, returns the pixels as given.

    Raises:
        Rejected: ``INVALID_ATTRIBUTE``: the table is malformed.
    """
    if not isinstance(dataset, Dataset) or not items(dataset, "ModalityLUTSequence"):
        return pixels
    try:
        return np.asarray(apply_modality_lut(pixels, dataset))
    except Exception as error:  # a malformed table raises whatever it breaks
        raise invalid("ModalityLUTSequence", "one well-formed lookup table") from error


def replace_padding(pixels: NDArray[Any], dataset: Attributes, *, inverted: bool) -> NDArray[Any]:
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
    low, high = min(ends), max(ends)
    if pixels.max() < low or pixels.min() > high:
        return pixels
    padding = (pixels >= low) & (pixels <= high)
    if padding.all() or not padding.any():
        return pixels
    span = np.iinfo(pixels.dtype)
    darkest = (
        np.where(padding, span.min, pixels).max()
        if inverted
        else np.where(padding, span.max, pixels).min()
    )
    return np.where(padding, darkest, pixels)


def _arrange(room: NDArray[np.int16], places: list[int]) -> None:
    """Bring each slice from its place to the one of its index, with memory for one more."""
    spare: NDArray[np.int16] | None = None
    for start in range(len(places)):
        if places[start] == start:
            continue
        spare = np.empty_like(room[start]) if spare is None else spare
        np.copyto(spare, room[start])
        here = start
        while places[here] != start:
            there, places[here] = places[here], here
            np.copyto(room[here], room[there])
            here = there
        np.copyto(room[here], spare)
        places[here] = here


def _whole_shifts(slopes: Sequence[float], intercepts: Sequence[float]) -> list[int] | None:
    """How many steps each slice lies above the first one, None if not a whole number."""
    if any(slope != slopes[0] for slope in slopes):
        return None
    shifts = [(intercept - intercepts[0]) / slopes[0] for intercept in intercepts]
    if any(abs(shift - round(shift)) > EXACT or abs(shift) > LEVELS for shift in shifts):
        return None
    return [round(shift) for shift in shifts]

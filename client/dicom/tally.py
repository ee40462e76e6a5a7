"""Goes over a mask once: which structure is where in which slice, and how bright it is there.

mask + stored values ──runs of one class in a row──▶ voxels, sums, rows and columns per slice
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ("Tally", "take_tally")

Integers = NDArray[np.int64]

LONGEST = 256
"""Voxels of a run at most, so that the sums over it fit into one integer."""

BLOCK = 1 << 15
"""Voxels whose sums are formed at once: what stays in a core's own cache."""


@dataclass(frozen=True, eq=False)
class Tally:
    """What each slice holds of each class, int64 [slices, classes] throughout, class 0 unused.

    Attributes:
        voxels: Number of voxels.
        total: Sum of their stored values, exact.
        squares: Sum of the squares of their stored values, exact.
        first_row: Smallest row, -1 where there is no voxel.
        last_row: Largest row.
        first_column: Smallest column.
        last_column: Largest column.
    """

    voxels: Integers
    total: Integers
    squares: Integers
    first_row: Integers
    last_row: Integers
    first_column: Integers
    last_column: Integers


def take_tally(stored: NDArray[np.int16], mask: NDArray[np.uint8], classes: int) -> Tally:
    """Counts the foreground.

    Args:
        stored: Stored values [slices, rows, columns].
        mask: Classes, uint8, of the same shape.
        classes: Number of classes, background included.

    Raises:
        ValueError: The mask is not on the grid of the stored values, or holds a class beyond.
    """
    if mask.shape != stored.shape or mask.dtype != np.uint8:
        raise ValueError(f"expected a uint8 mask of {stored.shape}, got {mask.dtype} {mask.shape}")
    shape = (len(mask), classes)
    sums = [np.zeros(shape, dtype=np.int64) for _ in range(3)]
    edges = [np.full(shape, -1, dtype=np.int64) for _ in range(4)]
    tally = Tally(*sums, *edges)
    scratch = np.empty((2, max(BLOCK, mask.shape[2] + 1)), dtype=np.int64)
    for index, (values, labels) in enumerate(zip(stored, mask, strict=True)):
        _count(tally, index, values, labels, scratch)
    return tally


def _count(
    tally: Tally,
    index: int,
    values: NDArray[np.int16],
    labels: NDArray[np.uint8],
    scratch: Integers,
) -> None:
    """Counts one slice by its runs of one class within a row."""
    rows, columns = (np.flatnonzero(labels.max(axis=axis, initial=0)) for axis in (1, 0))
    if len(rows) == 0:
        return
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    window = np.s_[top : top + height, left : left + width]
    # A column of background behind each row: no run goes on in the next one.
    padded = np.zeros((height, width + 1), dtype=np.uint8)
    padded[:, :width] = labels[window]
    starts, ends = _runs(padded)
    kind = padded.ravel()[starts]
    classes = tally.voxels.shape[1]
    if kind.max() >= classes:
        raise ValueError(f"expected classes 0 to {classes - 1}, got {kind.max()}")
    sums = _sums(values[window], starts, scratch)
    there = np.flatnonzero(kind)
    kind, starts, length, sums = (
        kind[there].astype(np.intp),
        starts[there],
        ends[there],
        sums[there],
    )
    length -= starts
    total = ((sums + 2**23) & (2**24 - 1)) - 2**23
    np.add.at(tally.voxels[index], kind, length)
    np.add.at(tally.total[index], kind, total)
    np.add.at(tally.squares[index], kind, (sums - total) >> 24)
    row = starts // (width + 1)
    column = starts - row * (width + 1) + left
    row += top
    tally.last_row[index, kind] = row
    tally.first_row[index, kind[::-1]] = row[::-1]
    tally.first_column[index, kind] = left + width
    np.minimum.at(tally.first_column[index], kind, column)
    np.maximum.at(tally.last_column[index], kind, column + length - 1)


def _runs(labels: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Flat index of each run's first voxel, and of the voxel behind its last; cut at LONGEST."""
    last = np.empty(labels.shape, dtype=np.bool_)
    flat, behind = labels.ravel(), last.ravel()
    np.not_equal(flat[1:], flat[:-1], out=behind[:-1])
    behind[-1] = True
    last[:, LONGEST - 1 :: LONGEST] = True
    ends = np.flatnonzero(behind) + 1
    return np.concatenate([[0], ends[:-1]]), ends


def _sums(values: NDArray[np.int16], starts: NDArray[np.intp], scratch: Integers) -> Integers:
    """Sums over each run, the values' in the low 24 bits and their squares' above, exact.

    One addition does both: over 256 voxels of 16 bits the sums stay within 2 ** 23 and 2 ** 38, and
    so apart.
    """
    height, width = values.shape
    rows = max(1, scratch.shape[1] // (width + 1))
    sums = np.zeros(len(starts), dtype=np.int64)
    for top in range(0, height, rows):
        part = values[top : top + rows]
        wide, both = (one[: len(part) * (width + 1)].reshape(-1, width + 1) for one in scratch)
        wide[:, :width] = part
        wide[:, width] = 0
        np.left_shift(wide, 24, out=both)
        both += 1
        both *= wide
        # A run of background may go on in the next part; its sum is of no use.
        at = top * (width + 1)
        first, last = np.searchsorted(starts, (at, at + both.size))
        if first < last:
            sums[first:last] = np.add.reduceat(both.ravel(), starts[first:last] - at)
    return sums

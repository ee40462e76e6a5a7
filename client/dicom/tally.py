"""Goes over a mask once: which structure is where in which slice, and how bright it is there.

mask ──runs of one class in a line of cells──▶ voxels, rows and columns per slice ─┐
stored values ──sums over the rows of a line──▶ sums over each run ────────────────┴─▶ Tally
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocess.foldedmask import FoldedMask, fold, occupied

__all__ = ("Tally", "take_tally")

Integers = NDArray[np.int64]
Places = NDArray[np.intp]

MOST_ROWS, MOST_COLUMNS, CUT = 3, 16, 64
"""Rows of a line, columns of a cell, and columns after which a run is cut: so that the sums over a
run, of at most 3 x (64 + 15) voxels, fit into one integer."""

BLOCK = 1 << 16
"""Sums that are formed at once: what stays in a core's own cache."""


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


def take_tally(
    stored: NDArray[np.int16], mask: NDArray[np.uint8] | FoldedMask, classes: int
) -> Tally:
    """Counts the foreground.

    Args:
        stored: Stored values [slices, rows, columns].
        mask: Classes, uint8, of the same shape.
        classes: Number of classes, background included.

    Raises:
        ValueError: The mask is not on the grid of the stored values, or holds a class beyond.
    """
    folded = fold(mask)
    if folded.shape != stored.shape or folded.cells.dtype != np.uint8:
        raise ValueError(
            f"expected a uint8 mask of {stored.shape}, got {folded.cells.dtype} {folded.shape}"
        )
    shape = (len(stored), classes)
    sums = [np.zeros(shape, dtype=np.int64) for _ in range(3)]
    edges = [np.full(shape, -1, dtype=np.int64) for _ in range(4)]
    tally = Tally(*sums, *edges)
    folded = folded.divided(MOST_ROWS, MOST_COLUMNS)
    scratch = _Scratch(stored.shape[2])
    for index, (values, cells) in enumerate(zip(stored, folded.cells, strict=True)):
        window = occupied(cells)
        if window is not None:
            lines, bars = window
            row_edges = folded.row_edges[lines.start : lines.stop + 1]
            column_edges = folded.column_edges[bars.start : bars.stop + 1]
            _count(tally, index, values, cells[window], (row_edges, column_edges), scratch=scratch)
    return tally


def _count(
    tally: Tally,
    index: int,
    values: NDArray[np.int16],
    cells: NDArray[np.uint8],
    edges: tuple[Places, Places],
    *,
    scratch: _Scratch,
) -> None:
    """Counts one slice by its runs of one class within a line."""
    row_edges, column_edges = edges
    height, width = cells.shape
    # A bar of background behind each line: no run goes on in the next one.
    padded = np.zeros((height, width + 1), dtype=np.uint8)
    padded[:, :width] = cells
    starts, ends = _runs(padded, column_edges)
    kind = padded.ravel()[starts]
    classes = tally.voxels.shape[1]
    if kind.max() >= classes:
        raise ValueError(f"expected classes 0 to {classes - 1}, got {kind.max()}")
    line = starts // (width + 1)
    first = column_edges[starts - line * (width + 1)]
    sums = scratch.sums(values, row_edges, column_edges, line, first)
    there = np.flatnonzero(kind)
    kind, line, first, sums = kind[there].astype(np.intp), line[there], first[there], sums[there]
    behind = column_edges[ends[there] - line * (width + 1)]
    top, bottom = row_edges[line], row_edges[line + 1]
    total = ((sums + 2**23) & (2**24 - 1)) - 2**23
    np.add.at(tally.voxels[index], kind, (behind - first) * (bottom - top))
    np.add.at(tally.total[index], kind, total)
    np.add.at(tally.squares[index], kind, (sums - total) >> 24)
    tally.last_row[index, kind] = bottom - 1
    tally.first_row[index, kind[::-1]] = top[::-1]
    tally.first_column[index, kind] = column_edges[-1]
    np.minimum.at(tally.first_column[index], kind, first)
    np.maximum.at(tally.last_column[index], kind, behind - 1)


def _runs(cells: NDArray[np.uint8], column_edges: Places) -> tuple[Places, Places]:
    """Flat index of each run's first cell, and of the cell behind its last; cut at CUT."""
    last = np.empty(cells.shape, dtype=np.bool_)
    flat, behind = cells.ravel(), last.ravel()
    np.not_equal(flat[1:], flat[:-1], out=behind[:-1])
    behind[-1] = True
    cut = np.diff((column_edges - column_edges[0]) // CUT) != 0
    last[:, :-1] |= cut
    ends = np.flatnonzero(behind) + 1
    return np.concatenate([[0], ends[:-1]]), ends


class _Scratch:
    """Memory to form sums in.

    Args:
        columns: Of the series.
    """

    def __init__(self, columns: int) -> None:
        length = max(BLOCK, columns)
        self._narrow = np.empty((3, length), dtype=np.int32)
        self._wide = np.empty((2, length), dtype=np.int64)

    def sums(
        self,
        values: NDArray[np.int16],
        row_edges: Places,
        column_edges: Places,
        line: Places,
        first: Places,
    ) -> Integers:
        """Sums over each run, the values' in the low 24 bits and their squares' above, exact.

        One addition does both: over 256 voxels of 16 bits the sums stay within 2 ** 23 and
        2 ** 38, and so apart.

        Args:
            values: The slice.
            row_edges: Of the lines.
            column_edges: Of their cells.
            line: Number of the line of each run, rising; a run ends where the next one starts.
            first: First column of each run.
        """
        left, right = int(column_edges[0]), int(column_edges[-1])
        wide = right - left
        step = max(1, self._wide.shape[1] // wide)
        # Background behind the last column counts as starting in the next line: with nothing.
        starts = line * wide + (first - left)
        sums = np.zeros(len(starts), dtype=np.int64)
        for top in range(0, len(row_edges) - 1, step):
            both = self._by_line(values[:, left:right], row_edges[top : top + step + 1])
            # A run of background may go on in the next part; its sum is of no use.
            at = top * wide
            begin, end = starts.searchsorted((at, at + len(both)))
            if begin < end:
                sums[begin:end] = np.add.reduceat(both, starts[begin:end] - at)
        return sums

    def _by_line(self, values: NDArray[np.int16], row_edges: Places) -> Integers:
        """Both sums over the rows of each line, flat."""
        first, rows = row_edges[:-1], np.diff(row_edges)
        shape = len(first), values.shape[1]
        size = shape[0] * shape[1]
        both: Integers = self._wide[0, :size]
        wide = self._wide[1, :size]
        if len(first) == row_edges[-1] - row_edges[0]:
            both.reshape(shape)[...] = values[row_edges[0] : row_edges[-1]]
            np.left_shift(both, 24, out=wide)
            wide += 1
            both *= wide
            return both
        total, square, more = (one[:size].reshape(shape) for one in self._narrow)
        total[...] = values[first]
        np.multiply(total, total, out=square)
        for number in range(1, int(rows.max())):
            some = np.flatnonzero(rows > number)
            one = more[: len(some)]
            one[...] = values[first[some] + number]
            if len(some) == len(first):
                total += one
                one *= one
                square += one
            else:
                total[some] += one
                one *= one
                square[some] += one
        # Three squares of 16 bits fit without a sign.
        both[...] = square.view(np.uint32).ravel()
        both <<= 24
        wide[...] = total.ravel()
        both += wide
        return both

"""A mask whose equal rows and columns lie on each other, as a coarser grid leaves them.

canvas ──which of its rows and columns are where──▶ FoldedMask ──unfolded──▶ native mask
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ("FoldedMask", "fold", "occupied")

Edges = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class FoldedMask:
    """Masks of one grid, each cell the voxels of some rows by some columns, all of one class.

    Whatever goes over cells instead of voxels costs a part of the time, and gives the same.

    Attributes:
        cells: Classes, uint8 [..., lines, bars].
        row_edges: First row of each line, and the row behind the last line's; strictly rising.
            Rows before and behind are background.
        column_edges: The same of columns and bars.
        grid: Rows and columns.
    """

    cells: NDArray[np.uint8]
    row_edges: Edges
    column_edges: Edges
    grid: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., rows, columns], of the mask that this is."""
        return (*self.cells.shape[:-2], *self.grid)

    def unfolded(self) -> NDArray[np.uint8]:
        """The mask itself, new and C-contiguous."""
        native = np.zeros(self.shape, dtype=np.uint8)
        line_of_row = self.line_of_row()
        for place in np.ndindex(self.cells.shape[:-2]):
            window = occupied(self.cells[place])
            if window is not None:
                lines = window[0]
                down = slice(*self.row_edges[[lines.start, lines.stop]])
                line = line_of_row[down] - lines.start
                native[place][down] = np.take(self.wide(place, *window), line, axis=0)
        return native

    def wide(self, place: int | tuple[int, ...], lines: slice, bars: slice) -> NDArray[np.uint8]:
        """One row of each of some lines of one mask, background beyond some bars.

        Returns:
            Classes [lines, columns].
        """
        wide = np.zeros((lines.stop - lines.start, self.grid[1]), dtype=np.uint8)
        edges = self.column_edges[bars.start : bars.stop + 1]
        bar_of_column = np.repeat(np.arange(bars.start, bars.stop), np.diff(edges))
        wide[:, edges[0] : edges[-1]] = self.cells[place][lines][:, bar_of_column]
        return wide

    def line_of_row(self) -> Edges:
        """The number of each row's line, -1 where there is none."""
        return _part_of_each(self.row_edges, self.grid[0])

    def bar_of_column(self) -> Edges:
        """The number of each column's bar, -1 where there is none."""
        return _part_of_each(self.column_edges, self.grid[1])

    def divided(self, rows: int, columns: int) -> FoldedMask:
        """The same mask in lines of at most so many rows, and bars of so many columns."""
        divided = self
        if np.diff(self.row_edges).max(initial=0) > rows:
            line, edges = _divided(self.row_edges, rows)
            divided = replace(self, cells=np.take(self.cells, line, axis=-2), row_edges=edges)
        if np.diff(self.column_edges).max(initial=0) > columns:
            bar, edges = _divided(self.column_edges, columns)
            cells = np.take(divided.cells, bar, axis=-1)
            divided = replace(divided, cells=cells, column_edges=edges)
        return divided


def fold(mask: NDArray[np.uint8] | FoldedMask) -> FoldedMask:
    """Takes a mask [..., rows, columns] as folded: every voxel is a cell."""
    if isinstance(mask, FoldedMask):
        return mask
    rows, columns = mask.shape[-2:]
    return FoldedMask(mask, np.arange(rows + 1), np.arange(columns + 1), (rows, columns))


def occupied(cells: NDArray[np.uint8]) -> tuple[slice, slice] | None:
    """The smallest window [lines, bars] with everything that is not background."""
    lines = np.flatnonzero(cells.max(axis=1, initial=0))
    if len(lines) == 0:
        return None
    down = slice(int(lines[0]), int(lines[-1]) + 1)
    bars = np.flatnonzero(cells[down].max(axis=0))
    return down, slice(int(bars[0]), int(bars[-1]) + 1)


def _part_of_each(edges: Edges, length: int) -> Edges:
    part = np.full(length, -1)
    part[edges[0] : edges[-1]] = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    return part


def _divided(edges: Edges, most: int) -> tuple[Edges, Edges]:
    """For each new line the one that it is of, and the new edges."""
    length = np.diff(edges)
    line = np.repeat(np.arange(len(length)), -(-length // most))
    part = np.arange(len(line)) - np.searchsorted(line, line)
    return line, np.append(edges[line] + part * most, edges[-1])

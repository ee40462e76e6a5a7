"""Folded masks of any kind, drawn by chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from preprocess.foldedmask import FoldedMask

__all__ = ("drawn_mask",)


def drawn_mask(
    draw: np.random.Generator, cells: NDArray[np.uint8], most: int, grid: tuple[int, int] = (0, 0)
) -> FoldedMask:
    """Spreads cells over lines of 1 to ``most`` rows, with some background around.

    Args:
        draw: The source of chance.
        cells: Classes [slices, lines, bars].
        most: Rows of a line, and columns of a bar, at most.
        grid: Rows and columns at least.
    """
    edges = [
        draw.integers(0, 4) + np.append(0, np.cumsum(draw.integers(1, most + 1, length)))
        for length in cells.shape[1:]
    ]
    sides = [
        max(int(edge[-1]) + int(draw.integers(0, 4)), least)
        for edge, least in zip(edges, grid, strict=True)
    ]
    return FoldedMask(cells, edges[0], edges[1], (sides[0], sides[1]))

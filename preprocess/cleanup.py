"""The last step on a mask: without islands, and back on the native grid.

masks on the canvas ─▶ opened core ─▶ large connected parts ─▶ masks without islands ─▶ native grid
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preprocess.bitvolume import Bits, Parts, eroded, grown, pack, unpack
from preprocess.foldedmask import FoldedMask
from preprocess.plan import SeriesPlan
from preprocess.spec import CleanupSpec, ModelSpec

__all__ = ("folded_mask", "native_mask", "remove_islands")


def native_mask(
    plan: SeriesPlan,
    canvas: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    spec: ModelSpec,
) -> NDArray[np.uint8]:
    """As ``folded_mask``, every voxel by itself: classes [slices, rows, columns]."""
    return folded_mask(plan, canvas, spacing_mm, spec).unfolded()


def folded_mask(
    plan: SeriesPlan,
    canvas: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    spec: ModelSpec,
) -> FoldedMask:
    """The mask of a series as it goes into results, equal rows and columns once.

    Islands are removed on the canvas, which holds all that the network said: what is removed does
    not depend on the scanner's matrix. What the network saw in the margin around the image is no
    part of it and connects nothing.

    Args:
        plan: The plan of the series.
        canvas: The network's masks of all its slices [slices, canvas rows, canvas columns].
        spacing_mm: Distances between slices, rows and columns on the native grid.
        spec: The model.

    Returns:
        Classes [slices, rows, columns] on the native grid.
    """
    if spec.cleanup:
        grid = (spacing_mm[0], *spec.geometry.spacing_mm)
        (y, x), (height, width) = plan.geometry.offset, plan.geometry.size
        shown = np.s_[:, y : y + height, x : x + width]
        cleaned = np.zeros_like(canvas)
        cleaned[shown] = remove_islands(canvas[shown], grid, spec.cleanup)
        canvas = cleaned
    return plan.fold(canvas)


def remove_islands(
    mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float], spec: CleanupSpec
) -> NDArray[np.uint8]:
    """Set what is not connected to a large part of the core classes to 0.

    The core classes are eroded by ``opening_mm``, so that thin bridges break. Connected parts
    (through faces, in 3D) with less than ``min_fraction`` of the largest part's voxels are
    islands. What is left grows back inside the core classes; other classes stay where they are
    connected to it. No voxel changes from one class to another.

    Separate parts of like size all stay: the two hemispheres in a series of the vertex, say.

    Args:
        mask: Classes [slices, rows, columns].
        spacing_mm: Distances between slices, rows and columns. Slices farther apart than
            ``opening_mm`` are eroded in their plane only.
        spec: What the model's description asks for.

    Returns:
        A new mask; a copy where there is nothing to judge by.
    """
    out = mask.copy()
    window = _window(mask)
    if window is None:
        return out
    part = mask[window]
    columns = part.shape[2]
    core, whole = pack(_is_any(part, spec.core)), pack(part != 0)
    across = spacing_mm[0] <= spec.opening_mm
    steps = max(1, round(spec.opening_mm / min(spacing_mm[1:])))
    # Beyond the window, as beyond the field of view, the organ may go on.
    opened = eroded(core, columns, steps, across=across)
    if not opened.any():
        return out
    kept = _large_parts(opened, spec.min_fraction)
    # The corner of a block lies three steps away for each step that was eroded.
    kept = grown(kept, core, 3 * steps, across=across)
    left = whole & ~(core & ~kept)
    parts = Parts(left)
    islands = whole & ~parts.select(parts.touched(kept))
    out[window] *= ~unpack(islands, columns)
    return out


def _window(mask: NDArray[np.uint8]) -> tuple[slice, slice, slice] | None:
    """The part of the series that holds anything."""
    flat = mask.max(axis=0, initial=0)
    sides = []
    for found in (mask.max(axis=(1, 2), initial=0), flat.max(axis=1), flat.max(axis=0)):
        places = np.flatnonzero(found)
        if len(places) == 0:
            return None
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _is_any(mask: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.bool_]:
    """Where the mask holds one of the classes; those in a row cost two operations together."""
    found = np.zeros(mask.shape, dtype=np.bool_)
    for low, high in _ranges(classes):
        found |= mask - np.uint8(low) <= np.uint8(high - low)
    return found


def _ranges(classes: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each row of consecutive classes."""
    ranges: list[tuple[int, int]] = []
    for value in sorted(set(classes)):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], value)
        else:
            ranges.append((value, value))
    return ranges


def _large_parts(core: Bits, min_fraction: float) -> Bits:
    parts = Parts(core)
    voxels = parts.sizes()
    return parts.select(voxels >= min_fraction * voxels.max())

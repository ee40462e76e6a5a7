"""The last step on a mask: back on the native grid, and without islands.

masks on the canvas ─▶ native grid ─▶ opened core ─▶ large connected parts ─▶ mask without islands
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from preprocess.plan import SeriesPlan
from preprocess.spec import CleanupSpec, ModelSpec

__all__ = ("native_mask", "remove_islands")


def native_mask(
    plan: SeriesPlan,
    canvas: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    spec: ModelSpec,
) -> NDArray[np.uint8]:
    """The mask of a series as it goes into results.

    Args:
        plan: The plan of the series.
        canvas: The network's masks of all its slices [slices, canvas rows, canvas columns].
        spacing_mm: Distances between slices, rows and columns on the native grid.
        spec: The model.

    Returns:
        Classes [slices, rows, columns] on the native grid.
    """
    mask = plan.restore(canvas)
    return remove_islands(mask, spacing_mm, spec.cleanup) if spec.cleanup else mask


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
    window = _window(mask)
    if window is None:
        return mask.copy()
    part = mask[window]
    core = np.isin(part, spec.core)
    element = ndimage.generate_binary_structure(3, 1)
    if spacing_mm[0] > spec.opening_mm:
        element[[0, 2]] = False
    steps = max(1, round(spec.opening_mm / min(spacing_mm[1:])))
    # Beyond the window, as beyond the field of view, the organ may go on.
    opened = ndimage.binary_erosion(core, element, iterations=steps, border_value=1)
    kept = _large_parts(opened, spec.min_fraction)
    if not kept.any():
        return mask.copy()
    # The corner of a block lies three steps away for each step that was eroded.
    kept = ndimage.binary_dilation(kept, element, iterations=3 * steps, mask=core)
    left = np.where(core & ~kept, 0, part)
    labels, _ = ndimage.label(left > 0)
    connected = np.isin(labels, np.unique(labels[kept]))
    out = np.zeros_like(mask)
    out[window] = np.where(connected, left, 0)
    return out


def _window(mask: NDArray[np.uint8]) -> tuple[slice, ...] | None:
    """The part of the series that holds anything."""
    found = ndimage.find_objects((mask > 0).astype(np.uint8))
    return found[0] if found else None


def _large_parts(core: NDArray[np.bool_], min_fraction: float) -> NDArray[np.bool_]:
    labels, count = ndimage.label(core)
    if count == 0:
        return core
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0
    return np.asarray((voxels >= min_fraction * voxels.max())[labels] & core)

"""Reference masks of the real validation images, in the network's classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ("AAL_CLASSES", "ball", "brain_from_stripped", "brain_of_classes", "classes_from_aal")

# AAL (Tzourio-Mazoyer et al. 2002) numbers, left then right, by the network's class.
AAL_CLASSES: dict[int, tuple[int, ...]] = {
    4: (77, 78),
    5: (71, 72),
    6: (73, 74),
    7: (75, 76),
    8: (37, 38),
    9: (41, 42),
    11: tuple(range(91, 117)),
}
_CLOSING_MM = 5.0


def ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Return a ball as a structuring element on a grid of this spacing."""
    reach = [int(radius_mm // s) for s in spacing_mm]
    axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    squared = sum((a * s) ** 2 for a, s in zip(axes, spacing_mm, strict=True))
    return np.asarray(squared <= radius_mm**2)


def _close(mask: NDArray[np.bool_], element: NDArray[np.bool_]) -> NDArray[np.bool_]:
    margin = [(n, n) for n in element.shape]
    inner = tuple(slice(n, -n) for n in element.shape)
    closed: NDArray[np.bool_] = ndimage.binary_closing(np.pad(mask, margin), element)[inner]
    return np.asarray(ndimage.binary_fill_holes(closed))


def brain_from_stripped(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the brain mask of a skull-stripped image at 1 mm: above 0, closed and filled."""
    return _close(image > 0, ball(3.0, (1.0, 1.0, 1.0))).astype(np.uint8)


def brain_of_classes(
    classes: NDArray[np.uint8], spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Return the brain of a class volume: tissue (2..11), closed by 5 mm and filled.

    The closing takes in ventricles and the fluid of the sulci, but not the fluid around the
    brain, as brain masks of BET and FSL do.
    """
    return _close(classes > 1, ball(_CLOSING_MM, spacing_mm))


def classes_from_aal(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the network's classes of AAL labels; 0 where AAL names no class of ours."""
    classes = np.zeros(labels.shape, np.uint8)
    for value, members in AAL_CLASSES.items():
        classes[np.isin(labels, members)] = value
    return classes

"""Reference masks of the real validation images, in the network's classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ("AAL_CLASSES", "brain_from_stripped", "brain_of_classes", "classes_from_aal")

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


def _close(
    mask: NDArray[np.bool_], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Close a mask with a ball and fill its holes."""
    closed = np.zeros_like(mask)
    if not mask.any():
        return closed
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    reach = [int(radius_mm // s) + 1 for s in spacing_mm]
    padded = np.pad(mask[box], [(n, n) for n in reach])
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing_mm) <= radius_mm
    shrunk = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > radius_mm
    inner = tuple(slice(n, -n) for n in reach)
    closed[box] = ndimage.binary_fill_holes(shrunk)[inner]
    return closed


def brain_from_stripped(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the brain mask of a skull-stripped image at 1 mm: above 0, closed and filled."""
    return _close(image > 0, 3.0, (1.0, 1.0, 1.0)).astype(np.uint8)


def brain_of_classes(
    classes: NDArray[np.uint8], spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Return the brain of a class volume: tissue (2..11), closed by 5 mm and filled.

    The closing takes in ventricles and the fluid of the sulci, but not the fluid around the
    brain, as brain masks of BET and FSL do.
    """
    return _close(classes > 1, _CLOSING_MM, spacing_mm)


def classes_from_aal(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the network's classes of AAL labels; 0 where AAL names no class of ours."""
    classes = np.zeros(labels.shape, np.uint8)
    for value, members in AAL_CLASSES.items():
        classes[np.isin(labels, members)] = value
    return classes

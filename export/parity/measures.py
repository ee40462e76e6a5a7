"""How far two answers lie apart: numbers of heads, overlap of masks, distance of surfaces."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import MissingPart

__all__ = (
    "Difference",
    "class_counts",
    "dice",
    "difference",
    "differing_fraction",
    "hausdorff95_mm",
)


@dataclass(frozen=True)
class Difference:
    """Distance of one head's values from the reference's, for each slice of a batch.

    Attributes:
        max_abs: float64 [N], largest absolute difference; NaN where a value is not finite.
        squares: float64 [N], sum of squared differences.
        reference_squares: float64 [N], sum of the reference's squares.
        nonfinite: int64 [N], values that are NaN or infinite.
    """

    max_abs: NDArray[np.float64]
    squares: NDArray[np.float64]
    reference_squares: NDArray[np.float64]
    nonfinite: NDArray[np.int64]

    @property
    def relative_l2(self) -> float:
        """||answer - reference|| / ||reference|| over the whole batch.

        0 where both are all zero, infinite where only the reference is.
        """
        return _ratio(float(self.squares.sum()), float(self.reference_squares.sum()))

    def slice_relative_l2(self, index: int) -> float:
        """The same of one slice."""
        return _ratio(float(self.squares[index]), float(self.reference_squares[index]))

    @staticmethod
    def join(parts: list[Difference]) -> Difference:
        """Batches one after the other as one."""
        return Difference(
            np.concatenate([part.max_abs for part in parts]),
            np.concatenate([part.squares for part in parts]),
            np.concatenate([part.reference_squares for part in parts]),
            np.concatenate([part.nonfinite for part in parts]),
        )


def difference(answer: NDArray[Any], reference: NDArray[Any]) -> Difference:
    """Compares a head's values, in float64.

    Args:
        answer: [N, ...].
        reference: Of the same shape.
    """
    given = answer.reshape(len(answer), -1).astype(np.float64)
    wanted = reference.reshape(len(reference), -1).astype(np.float64)
    nonfinite = (~np.isfinite(given)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        apart = np.where(nonfinite[:, None] == 0, given - wanted, np.nan)
    return Difference(
        max_abs=np.abs(apart).max(axis=1),
        squares=np.square(apart).sum(axis=1),
        reference_squares=np.square(wanted).sum(axis=1),
        nonfinite=nonfinite,
    )


def class_counts(
    mask: NDArray[np.uint8], reference: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """Pixels of every class in each slice of two masks.

    Args:
        mask: Classes [N, ...], all below ``classes``.
        reference: Of the same shape.
        classes: Number of classes, background included.

    Returns:
        [N, 3, classes]: pixels with the class in both, in the mask, in the reference.
    """
    counts = np.empty((len(mask), 3, classes), dtype=np.int64)
    for one, a, b in zip(counts, mask, reference, strict=True):
        one[0] = np.bincount(a[a == b].ravel(), minlength=classes)
        one[1] = np.bincount(a.ravel(), minlength=classes)
        one[2] = np.bincount(b.ravel(), minlength=classes)
    return counts


def dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Dice coefficient of every class, pooled over all slices (Dice 1945).

    Args:
        counts: [3, classes] or [N, 3, classes], see ``class_counts``.

    Returns:
        [classes]; NaN where neither mask has the class, so that there is nothing to judge.
    """
    both, first, second = counts.reshape(-1, *counts.shape[-2:]).sum(axis=0)
    pixels = first + second
    return np.where(pixels > 0, 2 * both / np.maximum(pixels, 1), np.nan)


def differing_fraction(mask: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Part of the pixels whose class differs."""
    return float(np.mean(mask != reference))


def hausdorff95_mm(
    mask: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> float | None:
    """95th percentile of the distances between two surfaces, the larger of both directions.

    Computed by MONAI on the box around both, which gives the same as on the whole volume. A
    volume of one slice is measured in its plane.

    Args:
        mask: [slices, rows, columns].
        reference: Of the same shape.
        spacing_mm: Distance between neighbours along each axis.

    Returns:
        None where one of them is empty, and with it the distance undefined.

    Raises:
        MissingPart: MONAI is not installed.
    """
    try:
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    except ImportError as error:
        raise MissingPart("HD95 needs MONAI: pip install 'hounsfield[export]'") from error
    if not (mask.any() and reference.any()):
        return None
    box = tuple(slice(ends[0], ends[-1] + 1) for ends in _extents(mask | reference))
    pair, spacing = (mask[box], reference[box]), spacing_mm
    if len(mask) == 1:
        pair, spacing = (pair[0][0], pair[1][0]), spacing_mm[1:]
    a, b = (part[None, None].astype(np.float32) for part in pair)
    with warnings.catch_warnings():
        # MONAI calls itself with an argument that it has deprecated.
        warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
        distance = compute_hausdorff_distance(
            a, b, include_background=True, percentile=95, spacing=[float(step) for step in spacing]
        )
    return float(distance[0, 0])


def _extents(volume: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Where something is, along every axis."""
    axes = range(volume.ndim)
    return [
        np.flatnonzero(volume.any(axis=tuple(other for other in axes if other != axis)))
        for axis in axes
    ]


def _ratio(squares: float, reference_squares: float) -> float:
    if reference_squares == 0:
        return 0.0 if squares == 0 else float("inf")
    return float(np.sqrt(squares / reference_squares))

"""Sorts slices along their normal and refuses what is not one regular, complete stack.

Frame … ──same grid?──▶ position along the normal ──gaps, shear──▶ Stack
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.dicom.attributes import invalid, name_of
from client.dicom.frames import Frame
from client.dicom.series import Vector
from client.errors import RefusalCode, Rejected

__all__ = ("Stack", "stack_frames")

UNIT_TOLERANCE = 1e-2
"""Largest error of a direction's length and of the right angle: headers round to 2 digits."""
ORIENTATION_TOLERANCE = 2e-3
"""Largest difference of a cosine between two slices of one series (0.1 degrees)."""
SPACING_TOLERANCE = 1e-3
"""Largest relative difference of pixel spacing between two slices of one series."""
GAP_TOLERANCE = 0.05
"""Largest relative difference of a slice distance from the mean one …"""
ROUNDING_MM = 0.02
"""… and what positions rounded to a hundredth of a millimetre add to it."""
COINCIDENT_MM = 0.01
"""Slices closer than this lie at the same position."""
TILT_LIMIT = math.tan(math.radians(0.5))
"""Largest drift of the first pixel across the normal, per millimetre along it."""
LARGEST_SPACING_MM = 1000.0


@dataclass(frozen=True)
class Stack:
    """A regular stack of parallel slices.

    Attributes:
        order: Indices of the frames, sorted along the normal (column x row direction).
        origin_mm: Position of the first slice.
        step_mm: From each slice to the next.
        orientation: Image Orientation (Patient) of the first slice.
        thickness_mm: Slice Thickness, or the slice distance where none is given.
    """

    order: tuple[int, ...]
    origin_mm: Vector
    step_mm: Vector
    orientation: tuple[float, float, float, float, float, float]
    thickness_mm: float


def stack_frames(frames: Sequence[Frame]) -> Stack:
    """Sorts frames by position along the normal, whatever their instance numbers say.

    Raises:
        Rejected: ``INVALID_ATTRIBUTE``, ``MIXED_ORIENTATION``, ``MIXED_SPACING``,
            ``MULTIPLE_VOLUMES``, ``DUPLICATE_SLICE``, ``GANTRY_TILT``, ``MISSING_SLICE`` or
            ``NO_GEOMETRY`` (one slice of unknown thickness).
    """
    _check_grid(frames)
    across, down = _orthonormal(frames[0])
    normal = np.cross(across, down)
    positions = np.array([frame.position_mm for frame in frames], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    _check_one_volume([frames[i] for i in order], along[order])
    if len(frames) == 1:
        step = normal * _single_distance(frames[0])
    else:
        _check_tilt(positions[order], along[order], normal, frames[0].spacing_mm)
        _check_gaps(np.diff(along[order]))
        step = (positions[order[-1]] - positions[order[0]]) / (len(frames) - 1)
    thickness = frames[order[0]].thickness_mm
    return Stack(
        order=tuple(int(i) for i in order),
        origin_mm=_vector(positions[order[0]]),
        step_mm=_vector(step),
        orientation=frames[order[0]].orientation,
        thickness_mm=thickness if thickness and thickness > 0 else float(np.linalg.norm(step)),
    )


def _check_grid(frames: Sequence[Frame]) -> None:
    first = frames[0]
    distinct: dict[object, Frame] = {}
    for frame in frames:
        distinct.setdefault((frame.spacing_mm, frame.orientation), frame)
    for frame in distinct.values():
        if not all(1e-3 <= spacing <= LARGEST_SPACING_MM for spacing in frame.spacing_mm):
            raise invalid("PixelSpacing", f"two distances from 0.001 to {LARGEST_SPACING_MM:g} mm")
        _orthonormal(frame)
    turned = _count(frames, "orientation", first.orientation, ORIENTATION_TOLERANCE)
    if turned:
        raise Rejected(
            RefusalCode.MIXED_ORIENTATION,
            f"All {len(frames)} slices of a series were expected to be parallel, but {turned} are "
            "turned against the first one (a localizer, a radial or a reformatted series); send "
            "each orientation as a series of its own.",
        )
    other = _count(frames, "spacing_mm", first.spacing_mm, SPACING_TOLERANCE * first.spacing_mm[0])
    if other:
        raise Rejected(
            RefusalCode.MIXED_SPACING,
            f"One Pixel Spacing was expected in all {len(frames)} slices, but {other} differ from "
            "the first one; send each spacing as a series of its own.",
        )


def _count(frames: Sequence[Frame], field: str, expected: Sequence[float], atol: float) -> int:
    values = np.array([getattr(frame, field) for frame in frames], dtype=np.float64)
    return int(np.count_nonzero((np.abs(values - np.asarray(expected)) > atol).any(axis=1)))


def _orthonormal(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two directions, freed from the rounding of their decimal digits."""
    across = np.array(frame.orientation[:3], dtype=np.float64)
    down = np.array(frame.orientation[3:], dtype=np.float64)
    errors = (across @ across - 1, down @ down - 1, across @ down)
    if max(map(abs, errors)) > UNIT_TOLERANCE:
        raise invalid("ImageOrientationPatient", "two unit vectors at a right angle")
    across /= np.linalg.norm(across)
    down -= across * (across @ down)
    return across, down / np.linalg.norm(down)


def _check_one_volume(frames: Sequence[Frame], along: NDArray[np.float64]) -> None:
    stacks = {dict(frame.labels).get(name_of("StackID"), "") for frame in frames}
    coincident = int(np.count_nonzero(np.diff(along) < COINCIDENT_MM))
    if len(stacks) == 1 and not coincident:
        return
    labels = zip(*(frame.labels for frame in frames), strict=True)
    differing = [column[0][0] for column in labels if len({item for _, item in column}) > 1]
    if differing:
        raise Rejected(
            RefusalCode.MULTIPLE_VOLUMES,
            f"One volume per series was expected, but its {len(frames)} slices differ in "
            f"{differing[0]} (echoes, b-values, time points or stacks); send each volume as a "
            "series of its own.",
        )
    raise Rejected(
        RefusalCode.DUPLICATE_SLICE,
        f"Every slice was expected at a position of its own, but {coincident} of {len(frames)} lie "
        "where another one lies; send each slice once.",
    )


def _check_tilt(
    positions: NDArray[np.float64],
    along: NDArray[np.float64],
    normal: NDArray[np.float64],
    spacing_mm: tuple[float, float],
) -> None:
    offset = positions - positions[0]
    drift = np.linalg.norm(offset - np.outer(along - along[0], normal), axis=1)
    allowed = np.maximum(TILT_LIMIT * (along - along[0]), 0.5 * min(spacing_mm))
    if (drift > allowed).any():
        worst = int(np.argmax(drift - allowed))
        raise Rejected(
            RefusalCode.GANTRY_TILT,
            f"Slices were expected to lie straight above each other, but are shifted sideways by "
            f"up to {drift[worst]:.1f} mm (tilted gantry); send a series reformatted without tilt.",
        )


def _check_gaps(gaps: NDArray[np.float64]) -> None:
    distance = float(gaps.mean())
    if (np.abs(gaps - distance) <= GAP_TOLERANCE * distance + ROUNDING_MM).all():
        return
    distance = float(gaps[gaps < 1.5 * gaps.min()].mean())
    multiples = np.round(gaps / distance)
    if (np.abs(gaps - multiples * distance) <= GAP_TOLERANCE * distance + ROUNDING_MM).all():
        missing = int(np.sum(multiples - 1))
        raise Rejected(
            RefusalCode.MISSING_SLICE,
            f"A slice was expected every {distance:.2f} mm, but {missing} are missing in "
            f"{np.count_nonzero(multiples > 1)} gaps; send the complete series.",
        )
    raise Rejected(
        RefusalCode.MIXED_SPACING,
        f"A slice was expected every {distance:.2f} mm, but distances vary from "
        f"{gaps.min():.2f} to {gaps.max():.2f} mm; send an evenly spaced reconstruction.",
    )


def _single_distance(frame: Frame) -> float:
    """What a series of one slice stands for: its thickness, or else the spacing it names."""
    for candidate in (frame.thickness_mm, frame.distance_mm):
        if candidate is not None and 1e-3 <= candidate <= LARGEST_SPACING_MM:
            return candidate
    raise Rejected(
        RefusalCode.NO_GEOMETRY,
        f"A single slice was expected to state its {name_of('SliceThickness')}, but does not; send "
        "the whole series or the original instance.",
    )


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z

"""Compares the answers of all ways, so that no speed is bought with another result.

slices: every way ▸ the raw engine of its precision      studies: SEG ▸ the ensemble's masks at home
precisions: every raw engine ▸ the one in float32
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from client.dicom.readback import read_mask
from loadtest.loads import ENSEMBLE, RAW
from loadtest.material import Material
from loadtest.report import Agreement
from loadtest.ways import SliceWay, StudyWay, Way
from preprocess.cleanup import native_mask
from preprocess.spec import ModelSpec

__all__ = ("compare", "compare_all")

Ways = Mapping[tuple[str, str], Way]


def compare_all(ways: Ways, material: Material, spec: ModelSpec) -> tuple[Agreement, ...]:
    """Compares every way with its reference.

    Args:
        ways: By name and precision; each has run.
        material: What was segmented.
        spec: The model.

    Raises:
        ValueError: A SEG is not of this series.
    """
    found = []
    for (name, precision), way in ways.items():
        if isinstance(way, SliceWay):
            reference = (RAW, precision) if name != RAW else (RAW, "f32")
            other = ways.get(reference)
            if isinstance(other, SliceWay) and other is not way:
                found.append(compare((name, precision), reference, way.masks, other.masks))
        elif isinstance(way, StudyWay) and way.segmentation:
            other = ways[ENSEMBLE, precision]
            assert isinstance(other, SliceWay)  # noqa: S101  # the ensemble is one
            home = native_mask(material.plan, other.masks, material.series.spacing_mm, spec)
            mask = read_mask(way.segmentation, material.series)
            what = f"{ENSEMBLE}, masks on the native grid"
            found.append(compare((name, precision), (what, precision), mask, home))
    return tuple(found)


def compare(
    way: tuple[str, str],
    reference: tuple[str, str],
    ours: NDArray[np.uint8],
    theirs: NDArray[np.uint8],
) -> Agreement:
    """Counts equal pixels.

    Args:
        way: Name and precision.
        reference: The same of what it is compared with.
        ours: Classes of any shape.
        theirs: Classes of the same shape.
    """
    equal = ours == theirs
    inside = (ours > 0) | (theirs > 0)
    return Agreement(
        way=way[0],
        precision=way[1],
        reference=f"{reference[0]}, {reference[1]}",
        pixels=equal.size,
        equal=round(float(equal.mean()), 7),
        equal_in_structures=round(float(equal[inside].mean()) if inside.any() else 1.0, 7),
    )

"""Compares the answers of the three ways, so that no speed is bought with another result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.dicom.readback import read_mask
from loadtest.material import Material
from loadtest.report import Agreement
from preprocess.cleanup import native_mask
from preprocess.spec import ModelSpec

__all__ = ("compare",)


def compare(
    material: Material,
    spec: ModelSpec,
    raw: NDArray[np.uint8],
    ensemble: NDArray[np.uint8],
    segmentation: bytes,
) -> Agreement:
    """Counts equal pixels.

    Args:
        material: What was segmented.
        spec: The model.
        raw: The raw engine's masks on the canvas [slices, rows, columns].
        ensemble: The ensemble's, likewise.
        segmentation: The DICOM SEG that came back on the whole way.

    Raises:
        ValueError: The SEG is not of this series.
    """
    equal = raw == ensemble
    inside = (raw > 0) | (ensemble > 0)
    native = native_mask(material.plan, ensemble, material.series.spacing_mm, spec)
    returned = read_mask(segmentation, material.series)
    return Agreement(
        pixels=equal.size,
        ensemble_equal=round(float(equal.mean()), 7),
        ensemble_equal_in_structures=round(float(equal[inside].mean()), 7),
        voxels=native.size,
        whole_way_equal=round(float((native == returned).mean()), 7),
    )

"""Our normalisations against those of MONAI and nnU-Net, by their own code.

They compute in float32: tolerance 1e-4 of values of order 1.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocess.intensity import plan_intensity
from preprocess.normalisation import (
    HuWindow,
    IntensityKind,
    IntensitySpec,
    PercentileRange,
    ZScore,
    ZScoreRegion,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.transforms.intensity.array import (
        NormalizeIntensity,
        ScaleIntensityRange,
        ScaleIntensityRangePercentiles,
    )
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
        CTNormalization,
        ZScoreNormalization,
    )

pytestmark = pytest.mark.unit

RESCALES = [(1.0, 0.0), (0.1, -30.0), (2.0, -1024.0), (-1.0, 0.0)]


def head() -> NDArray[np.int16]:
    """Noise with a hole, in a ground of stored 0, nearer to one corner."""
    stored = np.zeros((9, 40, 36), np.int16)
    stored[2:7, 3:25, 10:30] = np.random.default_rng(0).normal(600, 150, (5, 22, 20))
    stored[4, 10:15, 15:20] = 0
    return stored


def units(stored: NDArray[np.int16], slope: float, intercept: float) -> NDArray[np.float32]:
    return (stored * slope + intercept).astype(np.float32)


def ours(
    spec: IntensitySpec, stored: NDArray[np.int16], slope: float, intercept: float
) -> NDArray[np.float64]:
    plan = plan_intensity(spec, stored, slope, intercept)
    u = np.clip(stored.astype(np.float64) * plan.scale + plan.offset, 0, 1)
    return np.asarray(u * plan.gain + plan.bias)


@pytest.mark.parametrize(("slope", "intercept"), RESCALES)
def test_a_zscore_is_monais_normalize_intensity(slope: float, intercept: float) -> None:
    expected = NormalizeIntensity()(units(head(), slope, intercept))
    got = ours(ZScore(IntensityKind.ZSCORE), head(), slope, intercept)
    np.testing.assert_allclose(got, np.asarray(expected), atol=1e-4)


@pytest.mark.parametrize(("slope", "intercept"), RESCALES)
def test_a_percentile_range_is_monais(slope: float, intercept: float) -> None:
    theirs = ScaleIntensityRangePercentiles(1, 98, -0.5, 2.0, clip=True)
    spec = PercentileRange(IntensityKind.PERCENTILE_RANGE, 1, 98, -0.5, 2.0)
    expected = np.asarray(theirs(units(head(), slope, intercept)))
    np.testing.assert_allclose(ours(spec, head(), slope, intercept), expected, atol=1e-4)


@pytest.mark.parametrize(("slope", "intercept"), [*RESCALES, (0.1, 60.0), (0.3, 0.1)])
def test_a_zscore_over_the_nonzero_box_is_nnunets(slope: float, intercept: float) -> None:
    """Also where the ground is not 0 in modality units, so that there is nothing to crop."""
    stored = head() - np.int16(600 if slope == 0.1 and intercept == 60 else 0)
    image = units(stored, slope, intercept)
    cropped, _, box = crop_to_nonzero(image[None])
    expected = ZScoreNormalization(intensityproperties={}).run(cropped[0])
    spec = ZScore(IntensityKind.ZSCORE, ZScoreRegion.NONZERO_BOX)
    got = ours(spec, stored, slope, intercept)[tuple(slice(*edges) for edges in box)]
    assert (cropped.size < image.size) == (intercept in {0.0, 60.0})
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(("slope", "intercept"), RESCALES)
def test_a_window_is_monais_intensity_range(slope: float, intercept: float) -> None:
    theirs = ScaleIntensityRange(-50, 450, -1.0, 1.0, clip=True)
    spec = HuWindow(IntensityKind.HU_WINDOW, -50, 450, -1.0, 1.0)
    expected = np.asarray(theirs(units(head(), slope, intercept)))
    np.testing.assert_allclose(ours(spec, head(), slope, intercept), expected, atol=1e-4)


def test_a_window_onto_a_range_is_nnunets_ct_normalisation() -> None:
    stored = np.random.default_rng(1).integers(-1024, 2000, (4, 32, 32)).astype(np.int16)
    mean, sd, low, high = 99.5, 37.25, -17.0, 201.0
    properties = {"mean": mean, "std": sd, "percentile_00_5": low, "percentile_99_5": high}
    theirs = CTNormalization(intensityproperties=properties)
    spec = HuWindow(IntensityKind.HU_WINDOW, low, high, (low - mean) / sd, (high - mean) / sd)
    expected = theirs.run(units(stored, 1.0, 0.0))
    np.testing.assert_allclose(ours(spec, stored, 1.0, 0.0), expected, atol=1e-4)

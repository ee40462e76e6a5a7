from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocess.errors import PlanError
from preprocess.intensity import CHUNK_VOXELS, IntensityPlan, plan_intensity
from preprocess.normalisation import (
    HuWindow,
    IntensityKind,
    IntensitySpec,
    PercentileRange,
    PercentileZScore,
    ZScore,
    ZScoreRegion,
)

pytestmark = pytest.mark.unit

MR = PercentileZScore(IntensityKind.PERCENTILE_ZSCORE, 0.5, 99.5, 0.1)
CT = HuWindow(IntensityKind.HU_WINDOW, -160, 240)
RANGE = PercentileRange(IntensityKind.PERCENTILE_RANGE, 1, 99, -1.0, 1.0)
WHOLE = ZScore(IntensityKind.ZSCORE)
BOX = ZScore(IntensityKind.ZSCORE, ZScoreRegion.NONZERO_BOX)


def clamped(stored: NDArray[np.int16], plan: IntensityPlan) -> NDArray[np.float64]:
    return np.clip(stored.astype(float) * plan.scale + plan.offset, 0, 1)


def applied(stored: NDArray[np.int16], plan: IntensityPlan) -> NDArray[np.float64]:
    return clamped(stored, plan) * plan.gain + plan.bias


def head(seed: int = 0) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    tissue = rng.normal(600, 200, (4, 64, 64))
    return np.where(rng.random((4, 64, 64)) < 0.4, 0, tissue).astype(np.int16)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.integers(-32768, 32767), min_size=2, max_size=300),
    low=st.floats(0, 40),
    high=st.floats(60, 100),
)
def test_percentiles_are_numpys(values: list[int], low: float, high: float) -> None:
    stored = np.array(values, dtype=np.int16)
    below, above = np.percentile(stored.astype(float), [low, high])  # int16 would overflow
    spec = PercentileZScore(IntensityKind.PERCENTILE_ZSCORE, low, high, 0.1)
    plan = plan_intensity(spec, stored, 1, 0)
    if below < above:
        assert 1 / plan.scale == pytest.approx(above - below, rel=1e-9)
        assert -plan.offset / plan.scale == pytest.approx(below, rel=1e-9, abs=1e-6)


def test_the_foreground_has_zero_mean_and_unit_variance() -> None:
    stored = head()
    plan = plan_intensity(MR, stored, 1, 0)
    u = clamped(stored, plan)
    y = (u * plan.gain + plan.bias)[u > MR.foreground]
    assert y.mean() == pytest.approx(0, abs=1e-9)
    assert y.std() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("slope", "intercept"), [(2.5, -100.0), (1e-4, 3.0), (40.0, 0.0)])
def test_rescaling_does_not_change_a_percentile_plan(slope: float, intercept: float) -> None:
    assert plan_intensity(MR, head(), slope, intercept) == plan_intensity(MR, head(), 1, 0)


@pytest.mark.parametrize("spec", [MR, RANGE], ids=lambda spec: f"{spec.kind}")
@pytest.mark.parametrize(("slope", "inverted"), [(-1.0, False), (1.0, True)])
def test_an_inverted_series_is_prepared_like_the_upright_one(
    slope: float, inverted: bool, spec: IntensitySpec
) -> None:
    stored = head()
    flipped = (1000 - stored).astype(np.int16)
    upright = plan_intensity(spec, stored, 1, 0)
    plan = plan_intensity(spec, flipped, slope, 0, inverted=inverted)
    np.testing.assert_allclose(clamped(flipped, plan), clamped(stored, upright), atol=1e-12)
    assert (plan.gain, plan.bias) == pytest.approx((upright.gain, upright.bias))


def test_a_window_means_hounsfield_units_whatever_the_rescale() -> None:
    units = np.array([-1000, -160, 40, 240, 3000], dtype=np.int16)
    expected = [0, 0, 0.5, 1, 1]
    for slope, intercept in ((1.0, 0.0), (1.0, -1024.0), (0.5, -100.0), (-1.0, 10.0)):
        stored = ((units - intercept) / slope).astype(np.int16)
        plan = plan_intensity(CT, stored, slope, intercept, inverted=True)
        np.testing.assert_allclose(clamped(stored, plan), expected, atol=1e-9)
        assert (plan.gain, plan.bias) == (1, 0)


def test_a_window_may_become_another_range() -> None:
    spec = HuWindow(IntensityKind.HU_WINDOW, -160, 240, low_value=-1.5, high_value=2.5)
    stored = np.array([-1000, -160, 40, 240, 3000], dtype=np.int16)
    plan = plan_intensity(spec, stored, 1, 0)
    np.testing.assert_allclose(applied(stored, plan), [-1.5, -1.5, 0.5, 2.5, 2.5], atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.integers(-32768, 32767), min_size=2, max_size=300),
    slope=st.sampled_from([1.0, -1.0, 0.25, -3.5]),
    intercept=st.sampled_from([0.0, -1024.0, 17.3]),
)
def test_a_zscore_is_numpys(values: list[int], slope: float, intercept: float) -> None:
    """Whatever MONOCHROME1 says; and nothing is clipped."""
    stored = np.array(values, dtype=np.int16)
    units = stored.astype(float) * slope + intercept
    plan = plan_intensity(WHOLE, stored, slope, intercept, inverted=True)
    expected = (units - units.mean()) / units.std() if units.std() > 0 else 0 * units
    np.testing.assert_allclose(applied(stored, plan), expected, atol=1e-7)
    assert plan.gain > 0


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.1, -30.0), (-1.0, 300.0)])
def test_the_nonzero_box_is_bounded_by_modality_values(slope: float, intercept: float) -> None:
    """Zeros inside the box count, those around it do not."""
    ground = round(-intercept / slope)
    stored = np.full((6, 20, 30), ground, np.int16)
    stored[1, 4, 5], stored[1, 9, 25], stored[3, 7, 11] = ground + 50, ground - 20, ground + 90
    box = stored[1:4, 4:10, 5:26].astype(float) * slope + intercept
    plan = plan_intensity(BOX, stored, slope, intercept)
    units = stored.astype(float) * slope + intercept
    np.testing.assert_allclose(applied(stored, plan), (units - box.mean()) / box.std(), atol=1e-7)


@pytest.mark.parametrize("intercept", [0.5, 1.0])
def test_without_zeros_the_box_is_the_whole_series(intercept: float) -> None:
    stored = np.abs(head())
    assert plan_intensity(BOX, stored, 1, intercept) == plan_intensity(WHOLE, stored, 1, intercept)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(-32768, 32767), min_size=2, max_size=300))
def test_percentiles_become_the_ends_of_a_range(values: list[int]) -> None:
    stored = np.array(values, dtype=np.int16)
    low, high = np.percentile(stored.astype(float), [1, 99])
    got = applied(stored, plan_intensity(RANGE, stored, 1, 0))
    if low < high:
        expected = np.clip((stored - low) / (high - low), 0, 1) * 2 - 1
        np.testing.assert_allclose(got, expected, atol=1e-7)
    assert got.min() >= -1
    assert got.max() <= 1


@pytest.mark.parametrize("spec", [MR, WHOLE, BOX], ids=lambda spec: f"{spec.kind}")
@pytest.mark.parametrize("value", [-32768, 0, 7, 32767])
def test_a_constant_series_becomes_zero(value: int, spec: IntensitySpec) -> None:
    stored = np.full((3, 8, 8), value, dtype=np.int16)
    assert (applied(stored, plan_intensity(spec, stored, 1, 0)) == 0).all()


def test_a_constant_series_becomes_the_low_end_of_a_range() -> None:
    stored = np.full((3, 8, 8), 7, dtype=np.int16)
    assert (applied(stored, plan_intensity(RANGE, stored, 1, 0)) == RANGE.low_value).all()


def test_a_constant_box_in_an_empty_ground_becomes_zero() -> None:
    stored = np.zeros((3, 8, 8), dtype=np.int16)
    stored[1, 2:5, 2:5] = 9
    assert (applied(stored, plan_intensity(BOX, stored, 1, 0)) == 0).all()


def test_a_small_bright_object_is_seen_although_the_percentiles_coincide() -> None:
    stored = np.zeros((1, 100, 100), dtype=np.int16)
    stored[0, 50, 50:53] = 500
    plan = plan_intensity(MR, stored, 1, 0)
    assert clamped(stored, plan)[0, 50, 51] == 1
    assert np.isfinite([plan.scale, plan.offset, plan.gain, plan.bias]).all()


@pytest.mark.parametrize("spec", [MR, RANGE, WHOLE], ids=lambda spec: f"{spec.kind}")
def test_the_order_of_voxels_does_not_matter(spec: IntensitySpec) -> None:
    stored = head()
    mixed = np.random.default_rng(1).permutation(stored.reshape(-1))
    assert plan_intensity(spec, mixed, 1, 0) == plan_intensity(spec, stored, 1, 0)


@pytest.mark.parametrize(
    ("stored", "slope", "intercept"),
    [
        (np.zeros(0, dtype=np.int16), 1.0, 0.0),
        (np.zeros(4, dtype=np.uint16), 1.0, 0.0),
        (np.zeros(4, dtype=np.int16), 0.0, 0.0),
        (np.zeros(4, dtype=np.int16), float("nan"), 0.0),
        (np.zeros(4, dtype=np.int16), 1.0, float("inf")),
    ],
)
def test_what_cannot_be_planned_is_refused(
    stored: NDArray[np.int16], slope: float, intercept: float
) -> None:
    with pytest.raises(PlanError):
        plan_intensity(MR, stored, slope, intercept)


def test_a_series_of_many_pieces_is_counted_whole() -> None:
    values = np.random.default_rng(0).normal(0, 9000, 3 * CHUNK_VOXELS + 17)
    stored = np.clip(values, -32768, 32767).astype(np.int16)
    stored[:CHUNK_VOXELS] = 7
    stored[CHUNK_VOXELS : CHUNK_VOXELS + 2] = -32768, 32767
    spec = PercentileRange(IntensityKind.PERCENTILE_RANGE, 0.5, 99.5, 0.0, 1.0)
    plan = plan_intensity(spec, stored.reshape(1, 1, -1), 1.0, 0.0)
    low, high = np.percentile(stored, [0.5, 99.5])
    assert (-plan.offset / plan.scale, (1 - plan.offset) / plan.scale) == pytest.approx((low, high))

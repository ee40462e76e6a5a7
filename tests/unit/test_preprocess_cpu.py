"""The cpu profile's preprocessing against the NumPy reference, and against DALI."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocess.cpu import prepare_slice
from preprocess.normalisation import Padding
from preprocess.pipeline import build_pipeline
from preprocess.reference import network_image
from preprocess.spec import GeometrySpec, ModelSpec, load_model_spec

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CANVAS = (96, 160)
GAIN = 3.0
DALI = 2e-4
"""DALI computes positions in float32: see test_preprocess_pipeline.py."""


@cache
def model(padding: Padding) -> ModelSpec:
    spec = load_model_spec(REPOSITORY / "brain_mr" / "model.yaml")
    return dataclasses.replace(
        spec,
        geometry=GeometrySpec(spacing_mm=(1.0, 1.0), size=CANVAS),
        intensity=dataclasses.replace(spec.intensity, padding=padding),
    )


@cache
def pipeline(padding: Padding) -> Any:
    made = build_pipeline(model(padding), device="cpu", max_batch_size=1)
    made.build()
    return made


def prepared(spec: ModelSpec, sample: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    canvas = np.full(CANVAS, np.nan, np.float32)
    prepare_slice(spec, sample, canvas)
    return canvas


def edges(draw: st.DrawFn, pixels: int) -> tuple[float, float]:
    """A part of an axis, or all of it, in either direction."""
    whole = draw(st.booleans())
    start = 0.0 if whole else draw(st.integers(0, pixels - 1)) * 1.0
    end = pixels * 1.0 if whole else start + draw(st.floats(0.5, pixels - start, width=32))
    return (end, start) if draw(st.booleans()) else (start, end)


@st.composite
def samples(draw: st.DrawFn) -> dict[str, NDArray[Any]]:
    rows, columns = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    same_size = draw(st.booleans())
    size = [
        min(pixels, side) if same_size else draw(st.integers(1, side))
        for pixels, side in zip((rows, columns), CANVAS, strict=True)
    ]
    (y0, y1), (x0, x1) = edges(draw, rows), edges(draw, columns)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 1 / 3000, -1 / 3000, 1 / 400]))
    offset = draw(st.floats(-1, 2, width=32))
    return {
        "image": rng.integers(-2000, 3000, (rows, columns)).astype(np.int16),
        "region": np.array([y0, x0, y1, x1], np.float32),
        "size": np.array(size, np.int32),
        "intensity": np.array([scale, offset, GAIN, -1.0], np.float32),
    }


@settings(deadline=None, max_examples=150)
@given(samples(), st.sampled_from(Padding))
def test_the_reference_within_the_stated_tolerance(
    sample: dict[str, NDArray[Any]], padding: Padding
) -> None:
    got = prepared(model(padding), sample)
    np.testing.assert_allclose(got, network_image(model(padding), sample)[0], atol=GAIN * 1e-5)


@settings(deadline=None, max_examples=40)
@given(samples(), st.sampled_from(Padding))
def test_dali_within_its_own_tolerance(sample: dict[str, NDArray[Any]], padding: Padding) -> None:
    """Up to eightfold contrast: DALI's positions, times the steepest edge of white noise."""
    columns = {name: [one] for name, one in sample.items()}
    theirs = np.array(pipeline(padding).run(**columns)[0].as_tensor())[0, 0]
    contrast = max(1.0, abs(float(sample["intensity"][0])) * 3000)
    got = prepared(model(padding), sample)
    np.testing.assert_allclose(got, theirs, atol=GAIN * DALI * contrast)


def test_an_unaligned_read_only_slice_is_as_good_as_any() -> None:
    """Triton hands over such views."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 900, (61, 77)).astype(np.int16)
    held = np.zeros(image.nbytes + 1, np.uint8)
    held[1:] = image.reshape(-1).view(np.uint8)
    view = held[1:].view(np.int16).reshape(image.shape)
    view.flags.writeable = False
    sample: dict[str, NDArray[Any]] = {
        "image": image,
        "region": np.array([0, 0, 61, 77], np.float32),
        "size": np.array([50, 99], np.int32),
        "intensity": np.array([1 / 900, 0, GAIN, 0], np.float32),
    }
    spec = model(Padding.LOW)
    np.testing.assert_array_equal(prepared(spec, sample), prepared(spec, sample | {"image": view}))

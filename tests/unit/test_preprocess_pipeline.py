"""The DALI pipeline against its NumPy reference.

Tolerance: 2e-4 of the clamped range, times the gain. DALI computes positions in float32; over a
side of 400 pixels that is a few 1e-5 of a pixel, times the steepest edge of white noise.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocess.geometry import SliceGeometry
from preprocess.normalisation import (
    HuWindow,
    IntensityKind,
    IntensitySpec,
    Padding,
    PercentileRange,
    PercentileZScore,
    ZScore,
    ZScoreRegion,
)
from preprocess.pipeline import build_pipeline
from preprocess.plan import plan_series
from preprocess.reference import network_image, preprocess_slice, resize_matrix
from preprocess.spec import GeometrySpec, ModelSpec, load_model_spec

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2] / "model_repository"
TOLERANCE = 2e-4
Sample = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_model_spec(REPOSITORY / "brain_mr" / "model.yaml")


@pytest.fixture(scope="module")
def pipeline(spec: ModelSpec) -> Any:
    made = build_pipeline(spec, device="cpu", max_batch_size=8)
    made.build()
    return made


NORMALISATIONS: tuple[IntensitySpec, ...] = (
    HuWindow(IntensityKind.HU_WINDOW, -160, 240, -1.5, 2.0),
    PercentileZScore(IntensityKind.PERCENTILE_ZSCORE, 0.5, 99.5, 0.1),
    PercentileRange(IntensityKind.PERCENTILE_RANGE, 1, 98, -1.0, 1.0),
    ZScore(IntensityKind.ZSCORE),
    ZScore(IntensityKind.ZSCORE, ZScoreRegion.NONZERO_BOX),
)
ORIENTATIONS = [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1), (0, 0, 1, -1, 0, 0)]


def run(pipeline: Any, samples: list[Sample]) -> NDArray[np.float32]:
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    return np.array(pipeline.run(**columns)[0].as_tensor())


def reference(spec: ModelSpec, sample: Sample) -> NDArray[np.float32]:
    return preprocess_slice(
        sample["image"], sample["region"], sample["size"], sample["intensity"], spec.geometry.size
    )


def make_sample(rng: np.random.Generator) -> Sample:
    """A random image, region (whole or part, either direction), size and intensities."""
    shape = rng.integers(1, 400, 2)
    edges = []
    for side in shape:
        span = np.array([0, side]) if rng.random() < 0.5 else np.sort(rng.uniform(0, side, 2))
        span = np.array([0, side]) if span[1] - span[0] < 0.5 else span
        edges.append(span[::-1] if rng.random() < 0.5 else span)
    region = [edges[0][0], edges[1][0], edges[0][1], edges[1][1]]
    return {
        "image": rng.integers(-2000, 3000, shape).astype(np.int16),
        "region": np.array(region, dtype=np.float32),
        "size": rng.integers(1, 257, 2).astype(np.int32),
        "intensity": np.array([rng.uniform(-1, 1) / 4000, 0.5, 3.0, -1.0], dtype=np.float32),
    }


@pytest.mark.parametrize("seed", range(12))
def test_dali_gives_the_reference(spec: ModelSpec, pipeline: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [make_sample(rng) for _ in range(int(rng.integers(1, 9)))]
    got = run(pipeline, samples)
    assert got.shape == (len(samples), 1, *spec.geometry.size)
    for sample, image in zip(samples, got, strict=True):
        np.testing.assert_allclose(image, reference(spec, sample), atol=3.0 * TOLERANCE)


@pytest.mark.parametrize("padding", Padding)
@pytest.mark.parametrize("normalisation", NORMALISATIONS, ids=lambda one: f"{one.kind}")
def test_dali_gives_the_reference_for_every_normalisation(
    spec: ModelSpec, normalisation: IntensitySpec, padding: Padding
) -> None:
    """Planned series, turned and flipped, of other pixel distances; larger and smaller than the
    canvas, whose two pixel distances differ."""
    model = dataclasses.replace(
        spec,
        geometry=GeometrySpec(spacing_mm=(0.8, 1.3), size=(128, 160)),
        intensity=dataclasses.replace(normalisation, padding=padding),
    )
    pipeline = build_pipeline(model, device="cpu", max_batch_size=8)
    pipeline.build()
    for seed, orientation in enumerate(ORIENTATIONS):
        rng = np.random.default_rng(seed)
        rows, columns = (int(side) for side in rng.integers(40, 220, 2))
        stored = np.zeros((3, rows, columns), np.int16)
        stored[:, 5:-9, 7:-4] = rng.integers(-1000, 2000, (3, rows - 14, columns - 11))
        row_mm, column_mm = rng.uniform(0.6, 1.4, 2)
        grid = SliceGeometry(rows, columns, row_mm, column_mm, orientation)
        plan = plan_series(model, stored, grid, slope=(-1.0 if seed == 1 else 0.5), intercept=40.0)
        samples = [plan.tensors(one) for one in stored]
        for sample, image in zip(samples, run(pipeline, samples), strict=True):
            expected = network_image(model, sample)
            np.testing.assert_allclose(image, expected, atol=plan.intensity.gain * TOLERANCE)


@pytest.mark.parametrize("padding", Padding)
def test_around_the_picture_lies_what_the_padding_says(spec: ModelSpec, padding: Padding) -> None:
    model = dataclasses.replace(
        spec, intensity=HuWindow(IntensityKind.HU_WINDOW, 0, 100, -2.0, 3.0, padding)
    )
    stored = np.full((1, 100, 200), 50, np.int16)
    plan = plan_series(model, stored, SliceGeometry(100, 200, 1.0, 1.0, (1, 0, 0, 0, 1, 0)))
    pipeline = build_pipeline(model, device="cpu", max_batch_size=1)
    pipeline.build()
    sample = plan.tensors(stored[0])
    for image in (run(pipeline, [sample])[0, 0], network_image(model, sample)[0]):
        inside = np.zeros(image.shape, bool)
        inside[78:178, 28:228] = True
        np.testing.assert_allclose(image[inside], 0.5, atol=1e-6)
        assert (image[~inside] == {Padding.LOW: -2.0, Padding.ZERO: 0.0}[padding]).all()


def test_a_batch_gives_what_its_slices_give_alone(pipeline: Any) -> None:
    rng = np.random.default_rng(100)
    samples = [make_sample(rng) for _ in range(8)]
    singles = np.concatenate([run(pipeline, [sample]) for sample in samples])
    np.testing.assert_array_equal(run(pipeline, samples), singles)


def test_constant_in_constant_out(spec: ModelSpec, pipeline: Any) -> None:
    """Inside the resized region every pixel is the same; around it lies the clamped zero."""
    sample: Sample = {
        "image": np.full((77, 130), 1234, dtype=np.int16),
        "region": np.array([77, 10, 0, 100.5], dtype=np.float32),
        "size": np.array([101, 202], dtype=np.int32),
        "intensity": np.array([1 / 2000, 0.1, 2.0, -0.5], dtype=np.float32),
    }
    image = run(pipeline, [sample])[0, 0]
    np.testing.assert_allclose(image[77:178, 27:229], (1234 / 2000 + 0.1) * 2 - 0.5, atol=1e-6)
    np.testing.assert_array_equal(image[:77], -0.5)
    np.testing.assert_array_equal(image[:, 229:], -0.5)


def test_a_slice_of_the_models_spacing_is_not_interpolated(spec: ModelSpec, pipeline: Any) -> None:
    stored = np.random.default_rng(5).integers(0, 1000, (3, 217, 181)).astype(np.int16)
    grid = SliceGeometry(217, 181, 1.0, 1.0, (-1, 0, 0, 0, 1, 0))
    plan = plan_series(spec, stored, grid)
    scale, offset = plan.intensity.scale, plan.intensity.offset
    y = np.clip(stored[1] * scale + offset, 0, 1) * plan.intensity.gain + plan.intensity.bias
    image = run(pipeline, [plan.tensors(stored[1])])[0, 0]
    np.testing.assert_allclose(image[19:236, 37:218], y[:, ::-1], atol=2e-5)


def test_the_weights_of_every_output_pixel_sum_to_one() -> None:
    for pixels, start, end, length in ((10, 0, 10, 25), (300, 280.5, 3.25, 17), (1, 0, 1, 9)):
        matrix = resize_matrix(pixels, start, end, length)
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        assert matrix.min() >= 0


def test_the_gpu_pipeline_is_made_on_a_machine_without_one(spec: ModelSpec) -> None:
    assert len(build_pipeline(spec, device="gpu", max_batch_size=32).serialize()) > 1000


def test_the_dali_backends_model_serialises_itself(tmp_path: Path) -> None:
    """As Triton's DALI backend does it: import 1/dali.py, find the one marked pipeline."""
    from nvidia.dali._utils.autoserialize import invoke_autoserialize

    path = REPOSITORY / "brain_mr_prep" / "1" / "dali.py"
    found = importlib.util.spec_from_file_location("brain_mr_prep_dali", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    invoke_autoserialize(module, str(tmp_path / "model.dali"))  # type: ignore[no-untyped-call]
    assert (tmp_path / "model.dali").stat().st_size > 1000

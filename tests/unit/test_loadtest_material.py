"""The benchmark's material: what the worker would read, as the network wants it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.errors import ConfigurationError
from loadtest.material import load_material
from preprocess.spec import ModelSpec

pytestmark = pytest.mark.unit

SAMPLE = Path(__file__).parents[2] / "samples" / "colin27_mr"


def test_the_middle_of_the_sample_is_read_and_prepared(brain_mr: ModelSpec) -> None:
    material = load_material(SAMPLE, brain_mr, 5)
    assert material.slices == len(material.files) == len(material.series.stored) == 5
    files = sorted(SAMPLE.glob("*.dcm"))
    assert material.files == tuple(files[(len(files) - 5) // 2 :][:5])
    assert material.images.shape == (5, 1, *brain_mr.geometry.size)
    assert material.images.dtype == np.float32
    assert material.study_bytes == sum(len(file.read_bytes()) for file in material.files)


def test_the_foreground_has_zero_mean_and_unit_variance(brain_mr: ModelSpec) -> None:
    """The plan's z-score, seen through resizing: within a tenth."""
    material = load_material(SAMPLE, brain_mr, 5)
    plan = material.plan.intensity
    u = (material.images - plan.bias) / plan.gain
    values = material.images[u > 0.1]
    assert abs(values.mean()) < 0.1
    assert abs(values.std() - 1) < 0.1


@pytest.mark.parametrize("slices", [0, 100_000])
def test_too_few_or_too_many_slices_are_refused(brain_mr: ModelSpec, slices: int) -> None:
    with pytest.raises(ConfigurationError, match="--slices"):
        load_material(SAMPLE, brain_mr, slices)


def test_a_folder_without_dicom_is_refused(brain_mr: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--sample"):
        load_material(tmp_path, brain_mr)

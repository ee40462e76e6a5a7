"""The benchmark's own parts: the enlarged series, derived recipes, slopes, the GPU's line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ConfigurationError
from loadtest.alternatives import choose
from loadtest.clienttier import COUNTED, ClientTier
from loadtest.engine import served_network
from loadtest.enlarged import enlarge
from loadtest.gpu import ABSENT, gpu_note
from loadtest.material import load_material
from loadtest.options import FULL
from loadtest.report import Memory
from loadtest.repositories import with_precision
from loadtest.soakreport import (
    SCHEMA,
    Sample,
    SoakReport,
    read_soak,
    slope,
    soak_verdicts,
    write_soak,
)
from preprocess.serving.configured import Precision
from preprocess.spec import ModelSpec
from tests.loadtest_reports import MACHINE

pytestmark = pytest.mark.unit

SHAPE = (5, 64, 60)


def test_the_enlarged_series_is_one_series_and_always_the_same(
    tmp_path: Path, brain_mr: ModelSpec
) -> None:
    first = enlarge(FULL.sample, tmp_path / "first", SHAPE)
    again = enlarge(FULL.sample, tmp_path / "again", SHAPE)
    assert [one.read_bytes() for one in first] == [one.read_bytes() for one in again]
    large = load_material(tmp_path / "first", brain_mr)
    small = load_material(FULL.sample, brain_mr)
    assert large.series.stored.shape == SHAPE
    assert large.series.uid != small.series.uid
    for ours, theirs in zip(_extent_mm(large.series), _extent_mm(small.series), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def _extent_mm(series: object) -> list[float]:
    stored, spacing = series.stored, series.spacing_mm  # type: ignore[attr-defined]
    steps = (len(stored) - 1, stored.shape[1], stored.shape[2])
    return [step * mm for step, mm in zip(steps, spacing, strict=True)]


def test_each_step_of_the_client_tier_is_timed(tmp_path: Path, brain_mr: ModelSpec) -> None:
    files = enlarge(FULL.sample, tmp_path / "study", SHAPE)
    masks = np.zeros((SHAPE[0], *brain_mr.geometry.size), np.uint8)
    masks[:, 100:150, 100:150] = 2
    tier = ClientTier.of(files, masks, brain_mr, tmp_path / "results").run()
    assert tier.slices == SHAPE[0]
    assert {*COUNTED, "islands", "measure"} == {span.name for span in tier.steps}
    assert all(span.seconds >= 0 for span in tier.steps)
    with pytest.raises(ConfigurationError, match="4 slices"):
        ClientTier.of(files, masks[:4], brain_mr, tmp_path / "results").run()


def test_a_derived_recipe_serves_another_precision_from_anywhere() -> None:
    recipe = yaml.safe_load(FULL.recipe.read_text(encoding="utf-8"))
    derived = with_precision(recipe, "int8", FULL.recipe.parent)
    export = derived.pop("export")
    assert {**derived, "export": recipe["export"]} == recipe
    assert export["engines"]["cpu"] == "int8"
    assert "int8" in export["engines"]["openvino"]
    assert export["limits"] == recipe["export"]["limits"]
    paths = [export["source"]["weights"]]
    paths += [one[key] for one in export["calibration"] for key in ("image", "labels")]
    assert all(Path(path).is_absolute() and Path(path).exists() for path in paths)


def test_the_raw_engine_computes_as_the_committed_model_is_served() -> None:
    served = served_network(FULL.repository, FULL.model)
    assert served.precision is Precision.F32
    assert served.path.is_file()
    with pytest.raises(ConfigurationError, match="nothing"):
        served_network(FULL.repository, "nothing")


def test_peers_are_named_whether_or_not_they_are_installed() -> None:
    assert choose("none").missing == choose("none").servers == ()
    everyone = choose("all")
    named = {*everyone.servers, *everyone.missing}
    assert {"bentoml", "fastapi", "litserve", "mosec", "ray_serve"} <= named
    assert everyone.script != ("traditional script" in everyone.missing)
    with pytest.raises(ConfigurationError, match="gunicorn"):
        choose("mosec,gunicorn")


def test_the_gpu_is_never_passed_over_in_silence() -> None:
    assert gpu_note((), "") == ABSENT
    assert "not used" in gpu_note(("NVIDIA T4, 15360 MiB, 580",), "")
    assert "host:8001" in gpu_note((), "host:8001")


@given(st.floats(-5, 5), st.floats(0, 1000), st.integers(0, 10))
def test_a_slope_is_found_through_outliers(per_min: float, base: float, seed: int) -> None:
    chance = random.Random(seed)
    at_s = [5.0 * number for number in range(60)]
    values = [base + per_min * at / 60 for at in at_s]
    for place in chance.sample(range(60), 8):
        values[place] += 500
    assert slope(at_s, values) == pytest.approx(per_min, abs=0.2 + 0.3 * abs(per_min))


def test_one_moment_has_no_slope() -> None:
    with pytest.raises(ConfigurationError, match="longer"):
        slope([1.0, 1.0], [1.0, 2.0])


def make_soak(
    mib_per_min: float, files_per_min: float = 0, queued_per_min: float = 0
) -> SoakReport:
    samples = tuple(
        Sample(
            at_s=5.0 * number,
            memory=(Memory("worker", mib), Memory("all", mib)),
            descriptors=int(50 + files_per_min * number / 12),
            queued=int(2 + queued_per_min * number / 12),
            in_flight=2,
            latency_s=1.5,
        )
        for number in range(240)
        for mib in [400 + mib_per_min * number / 12 + (100 - number if number < 30 else 0)]
    )
    return SoakReport(
        schema=SCHEMA,
        created_at="2026-11-23T03:00:00+00:00",
        command="python -m loadtest.soak",
        minutes=20.0,
        warm_up_s=240.0,
        load=0.7,
        studies_per_min=30.0,
        studies=600,
        slices=24,
        machine=MACHINE,
        samples=samples,
    )


@pytest.mark.parametrize(
    ("soak", "reached"),
    [
        (make_soak(0.0), [True, True, True]),
        (make_soak(-3.0), [True, True, True]),
        (make_soak(1.5), [False, True, True]),
        (make_soak(0.5, files_per_min=2), [True, False, True]),
        (make_soak(0.5, queued_per_min=3), [True, True, False]),
    ],
)
def test_growth_after_the_warm_up_is_judged(soak: SoakReport, reached: list[bool]) -> None:
    assert [one.reached for one in soak_verdicts(soak)] == reached


def test_a_soak_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    soak = make_soak(0.1)
    write_soak(soak, tmp_path / "soak.json")
    assert read_soak(tmp_path / "soak.json") == soak
    assert len((tmp_path / "soak.json").read_text().splitlines()) < 300
    (tmp_path / "soak.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"soak\.json"):
        read_soak(tmp_path / "soak.json")

"""What is asked of the model and what it answers: times, aims, fleets, reports, a real run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.hpa import read_pod_metric_autoscaler
from loadtest.keda import read_scaled_object
from loadtest.simulation.aims import Aim, parse_aims, smallest
from loadtest.simulation.answers import Estimate, Prices, Question, run_policy
from loadtest.simulation.cluster import PodSettings
from loadtest.simulation.day import simulate_day
from loadtest.simulation.hospital import (
    DEFAULT_HOSPITAL,
    Hospital,
    StudyKind,
    read_hospital,
)
from loadtest.simulation.policies import Fixed, policies_side_by_side
from loadtest.simulation.report import policy_rows, write_html, write_json
from loadtest.simulation.service import SCHEMA, ServiceTimes, read_service
from loadtest.simulation.validation import FEWEST, read_run, validate_run
from tests.simulated_days import plain_times, poisson_day

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
COMPONENTS = ROOT / "k8s" / "components"
SHIPPED = sorted((ROOT / "docs" / "performance").glob("service*.json"))
SETTINGS = PodSettings(3, 120.0)
HOSPITAL = Hospital("made up", (StudyKind("mr", 60, (20, 100), 0.1, (1.0,) * 24),))


def question(**changes: Any) -> Question:
    plain = Question(HOSPITAL, 20, 1.0, plain_times(), SETTINGS, replications=3)
    return replace(plain, **changes)


def test_seconds_alone_lie_on_the_line_through_what_was_measured() -> None:
    times = plain_times()
    for slices in (1, 8, 50, 181, 400):
        assert times.alone_s(slices) == pytest.approx(0.4 + 0.04 * slices)
    assert times.refused_s(5) == pytest.approx(0.3)


def test_gains_stay_where_nothing_more_was_measured() -> None:
    assert plain_times(gains=(1.0, 1.5)).gains(50, 4) == pytest.approx((1.0, 1.5, 1.5, 1.5))


def test_gains_between_measured_numbers_lie_on_the_line() -> None:
    (kind, *_) = plain_times().kinds
    times = replace(plain_times(), kinds=(replace(kind, per_s={1: 0.2, 3: 0.3}),))
    assert times.gains(8, 4) == pytest.approx((1.0, 1.25, 1.5, 1.5))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_service_times_are_whole(path: Path) -> None:
    times = read_service(path)
    assert times.assumed == ("assumed" in path.stem)
    assert times.assumed == ("ASSUMED" in times.source)
    assert times.alone_s(1) > 0
    gains = times.gains(96, 4)
    assert gains[0] == 1
    assert all(0.5 < gain < 4 for gain in gains)
    assert times.stat_weight >= 1


def test_service_times_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for text in ("{", "{}", json.dumps({"schema": "other"})):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=SCHEMA):
            read_service(path)


def test_an_estimate_is_students() -> None:
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert math.isinf(Estimate.of([5.0]).half)


def test_aims() -> None:
    assert parse_aims("p95<60, stat:p99<30.5") == (
        Aim("all", "p95", 60),
        Aim("stat", "p99", 30.5),
    )


@pytest.mark.parametrize("text", ["p95", "p95<", "p90<3", "urgent:p95<3", "p95>60"])
def test_aims_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="Expected"):
        parse_aims(text)


def test_the_smallest_fleet_holds_the_aim_and_one_less_does_not() -> None:
    asked = question(hospitals=300, cell_hospitals=300)
    aims = parse_aims("p95<12")
    found = smallest(asked, Fixed, aims, Prices())
    assert found is not None
    assert found.cell_most_pods > 1
    assert all(aim.held_by(found) for aim in aims)
    try:
        fewer = run_policy(asked, Fixed(found.cell_most_pods - 1), Prices())
    except ConfigurationError:
        return
    assert not all(aim.held_by(fewer) for aim in aims)


def test_what_no_number_of_pods_can_do_is_said() -> None:
    assert smallest(question(), Fixed, parse_aims("p50<0.1"), Prices()) is None


def test_cells_are_simulated_once_and_counted_often() -> None:
    one = run_policy(question(hospitals=20, cell_hospitals=20), Fixed(2), Prices())
    five = run_policy(question(hospitals=100, cell_hospitals=20), Fixed(2), Prices())
    assert five.fleet_pods == 5 * one.fleet_pods
    assert five.pod_hours.mean == pytest.approx(5 * one.pod_hours.mean)
    assert five.studies == pytest.approx(5 * one.studies)
    assert five.turnaround_s == one.turnaround_s


def test_cost_and_energy() -> None:
    found = run_policy(question(), Fixed(2), Prices(2.0, 700, 100))
    assert found.cost_per_day == pytest.approx(2.0 * found.pod_hours.mean)
    assert found.cost_per_study == pytest.approx(2.0 * found.pod_hours.mean / found.studies)
    assert found.kwh_per_day == pytest.approx(
        found.pod_hours.mean * (700 * found.busy + 100 * (1 - found.busy)) / 1000
    )
    assert 0 < found.busy < 1
    assert run_policy(question(), Fixed(2), Prices()).kwh_per_day is None


def test_a_hospital_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "hospital.json"
    path.write_text(json.dumps(asdict(DEFAULT_HOSPITAL)))
    assert read_hospital(path).kinds[0].name == DEFAULT_HOSPITAL.kinds[0].name
    path.write_text(json.dumps({"source": "x", "kinds": [{"name": "ct"}]}))
    with pytest.raises(ConfigurationError, match="hospital"):
        read_hospital(path)


def test_reports_carry_the_assumption_and_need_nothing_else(tmp_path: Path) -> None:
    specs = (
        read_scaled_object(COMPONENTS / "autoscaling" / "scaledobject.yaml"),
        read_pod_metric_autoscaler(
            COMPONENTS / "autoscaling-latency" / "horizontalpodautoscaler.yaml"
        ),
    )
    asked = question(replications=1)
    results = [run_policy(asked, one, Prices(1.0)) for one in policies_side_by_side(*specs, 2, 4)]
    assert [one.name for one in results] == ["fixed 2", "keda", "keda + floor", "latency"]
    write_json(tmp_path / "c.json", "cmd", asked, policies=[asdict(one) for one in results])
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["question"]["service_times_assumed"] is True
    assert written["policies"][0]["pod_hours"]["half"] is None
    write_html(tmp_path / "c.html", "cmd", asked, {"Policies": policy_rows(results)}, [])
    page = (tmp_path / "c.html").read_text()
    assert "assumption, not a measurement" in page
    assert "http" not in page


def run_of(times: ServiceTimes, stretched: float = 1.0) -> dict[str, Any]:
    """A load run whose turnarounds are the model's own, stretched."""
    day = poisson_day(0.2, np.random.default_rng(3).uniform(1, 5, 400).tolist(), 3, 0.3)
    arrivals = [replace(one, slices=8 + number % 90) for number, one in enumerate(day)]
    arrivals = [replace(one, work_s=times.alone_s(one.slices)) for one in arrivals]
    outcome = simulate_day(arrivals, times, SETTINGS, Fixed(1), 0.0)
    by_order = {study.order: study for study in outcome.studies}
    return {
        "schema": "hounsfield.load/1",
        "studies": [
            {
                "kind": "mr_head",
                "priority": one.priority.value,
                "bytes": 1,
                "slices": one.slices,
                "submitted_s": one.at_s,
                "acknowledged_s": one.at_s,
                "ended_s": one.at_s
                + stretched * (by_order[order].ended_s - by_order[order].arrived_s),
                "outcome": "done",
                "code": "",
                "expected": "done",
            }
            for order, one in enumerate(arrivals, start=1)
        ],
    }


def test_a_run_that_is_the_model_is_predicted_exactly() -> None:
    times = plain_times(gains=(1.0, 1.1, 1.2))
    found = validate_run(run_of(times), times, SETTINGS)
    assert found.held
    assert {one.group for one in found.comparisons} == {"stat", "routine", "all"}
    assert all(abs(one.error) < 1e-6 for one in found.comparisons)


@pytest.mark.parametrize(("stretched", "held"), [(1.2, True), (1.5, False), (0.7, False)])
def test_a_quarter_is_the_limit(stretched: float, held: bool) -> None:
    times = plain_times()
    assert validate_run(run_of(times, stretched), times, SETTINGS).held is held


def test_studies_without_an_end_are_counted_and_few_are_not_judged() -> None:
    times = plain_times()
    run = run_of(times)
    run["studies"][0] |= {"outcome": "error", "ended_s": None}
    run["studies"][1] |= {"outcome": "rejected"}
    found = validate_run(run, times, SETTINGS)
    assert found.left_out == 1
    run["studies"] = [one for one in run["studies"] if one["priority"] == Priority.ROUTINE]
    few = validate_run(run | {"studies": run["studies"][: FEWEST - 1]}, times, SETTINGS)
    assert not few.held
    assert not any(one.judged for one in few.comparisons)


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"hounsfield\.load/1"):
        read_run(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="studies that ended"):
        validate_run({"studies": []}, plain_times(), SETTINGS)


def test_the_command_line_answers_and_says_when_the_model_is_off(tmp_path: Path) -> None:
    times = read_service(SHIPPED[0])
    good, off = tmp_path / "good.json", tmp_path / "off.json"
    good.write_text(json.dumps(run_of(times)))
    off.write_text(json.dumps(run_of(times, 2.0)))
    command = [sys.executable, "-m", "loadtest.simulate", "--service", str(SHIPPED[0])]
    codes = [
        subprocess.run([*command, "--validate", str(path)], cwd=ROOT, check=False).returncode
        for path in (good, off)
    ]
    assert codes == [0, 1]
    asked = ["--hospitals", "2", "--replications", "2", "--slo", "p95<600", "--price", "1"]
    report = tmp_path / "c.json"
    subprocess.run(
        [*command, *asked, "--out", str(report), "--html", str(tmp_path / "c.html")],
        cwd=ROOT,
        check=True,
    )
    answer = json.loads(report.read_text())
    assert answer["smallest"]["fixed"]["fleet_pods"] >= 1
    assert (tmp_path / "c.html").read_text().count("data:image/png;base64") == 2

"""The catalogue is what is shown and what is documented; setting a metric costs next to nothing."""

from __future__ import annotations

import contextlib
import re
import timeit
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from client.jobs import JobState, Priority
from client.ledger.records import ServedModel, WorkCount
from client.telemetry.catalogue import EVERY, GATEWAY, WORKER, MetricSpec, metric_tables
from client.telemetry.exposition import make_registry
from client.telemetry.metrics import GatewayMetrics, WorkerMetrics
from client.triton.inference import TritonModelSettings
from tests.scrapes import scrape_registry

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALLOWED_LABELS = {
    *("certificate", "code", "engine", "kind", "method", "model", "outcome", "priority"),
    *("stage", "state", "version"),
}


def test_every_metric_is_explained() -> None:
    assert metric_tables() in (ROOT / "docs" / "metrics.md").read_text()


@pytest.mark.parametrize("spec", EVERY + GATEWAY + WORKER, ids=lambda spec: str(spec.name))
def test_names_follow_the_rules_of_prometheus(spec: MetricSpec) -> None:
    assert re.fullmatch(r"hounsfield_[a-z_]+", spec.name)
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert bool(spec.buckets) == (spec.kind == "histogram")
    assert list(spec.buckets) == sorted(set(spec.buckets))
    assert set(spec.labels) <= ALLOWED_LABELS, "a label must have few values, and name nobody"


@pytest.mark.parametrize(
    ("make", "specs"), [(GatewayMetrics, EVERY + GATEWAY), (WorkerMetrics, EVERY + WORKER)]
)
def test_the_catalogue_is_what_is_shown(
    make: Callable[[CollectorRegistry], object], specs: tuple[MetricSpec, ...]
) -> None:
    registry = make_registry()
    make(registry)
    families = scrape_registry(registry).families()
    ours = {name: kind for name, kind in families.items() if name.startswith("hounsfield_")}
    assert ours == {spec.name: spec.kind for spec in specs}


def test_the_aim_of_a_minute_can_be_read_off() -> None:
    specs = {spec.name: spec for spec in WORKER}
    assert 60 in specs["hounsfield_turnaround_seconds"].buckets
    assert specs["hounsfield_turnaround_seconds"].buckets[-1] == timedelta(hours=6).total_seconds()


def test_what_alerts_watch_is_there_before_the_first_study() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    seen = scrape_registry(registry)
    for name in ("hounsfield_turnaround_seconds_count", "hounsfield_wait_seconds_count"):
        assert sorted((labels["priority"], value) for labels, value in seen.samples(name)) == [
            ("routine", 0.0),
            ("stat", 0.0),
        ]


def test_two_objects_share_nothing() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    GatewayMetrics(first).reconciled(3, 1)
    GatewayMetrics(second)
    assert scrape_registry(first).total("hounsfield_requeued_total") == 3
    assert scrape_registry(first).total("hounsfield_dead_total") == 1
    assert scrape_registry(second).total("hounsfield_requeued_total") == 0


def test_a_call_is_counted_by_the_code_it_ends_with() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    with metrics.call("GetJob"):
        during = scrape_registry(registry)
    with contextlib.suppress(KeyError), metrics.call("GetJob") as call:
        call.code = "NOT_FOUND"
        raise KeyError
    with pytest.raises(KeyboardInterrupt), metrics.call("GetJob"):
        raise KeyboardInterrupt
    after = scrape_registry(registry)
    assert during.total("hounsfield_calls_in_flight", method="GetJob") == 1
    assert after.total("hounsfield_calls_in_flight", method="GetJob") == 0
    assert {labels["code"]: value for labels, value in after.samples("hounsfield_calls_total")} == {
        "OK": 1,
        "NOT_FOUND": 1,
        "CANCELLED": 1,
    }
    assert after.total("hounsfield_call_seconds_count") == 3


def test_ages_are_of_the_oldest_and_zero_when_there_is_none() -> None:
    def count(state: JobState, number: int, age_s: float) -> WorkCount:
        return WorkCount(state, Priority.ROUTINE, number, NOW - timedelta(seconds=age_s))

    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    counts = [
        count(JobState.RECEIVED, 1, 3),
        count(JobState.QUEUED, 4, 50),
        count(JobState.RUNNING, 2, 700),
    ]
    metrics.show_unfinished(counts, NOW)
    seen = scrape_registry(registry)
    assert seen.total("hounsfield_jobs", state="queued", priority="routine") == 4
    assert seen.total("hounsfield_oldest_waiting_seconds", priority="routine") == 50
    assert seen.total("hounsfield_oldest_unfinished_seconds", priority="routine") == 700
    assert seen.total("hounsfield_oldest_unfinished_seconds", priority="stat") == 0
    metrics.show_unfinished([], NOW)
    seen = scrape_registry(registry)
    assert seen.total("hounsfield_jobs") == 0
    assert seen.total("hounsfield_oldest_unfinished_seconds") == 0


def test_what_a_served_model_counts_begins_at_0() -> None:
    registry = make_registry()
    WorkerMetrics(registry).show_serving([ServedModel("brain_mr", "3", "OpenVINO", "", "")])
    seen = scrape_registry(registry)
    for name in ("hounsfield_slices_total", "hounsfield_cost_seconds_total"):
        assert {value for _, value in seen.samples(name)} == {0.0}
    ended = dict.fromkeys(
        labels["priority"] for labels, _ in seen.samples("hounsfield_jobs_ended_total")
    )
    assert set(ended) == {priority.value for priority in Priority}


def test_a_model_that_is_no_longer_in_service_is_no_longer_told() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    for version in ("1", "1", "2"):
        metrics.show_serving([ServedModel("brain_mr", version, "OpenVINO", "", "")])
    told = list(scrape_registry(registry).samples("hounsfield_model_info"))
    assert told == [({"model": "brain_mr", "version": "2", "engine": "OpenVINO"}, 1.0)]
    metrics.show_serving(())
    assert not list(scrape_registry(registry).samples("hounsfield_model_info"))


def test_a_slice_pays_less_than_five_microseconds() -> None:
    """A request of slices is what is told on the way of a slice; the rest is told by study."""
    tell = WorkerMetrics(CollectorRegistry()).requests("brain_mr")
    slices = TritonModelSettings("").slices_per_request
    best_s = min(timeit.repeat(lambda: tell(slices), number=2000, repeat=5)) / 2000
    assert best_s / slices < 5e-6

"""Sets the metrics of the catalogue: one object for the gateway, one for the worker.

what happened ─▶ GatewayMetrics │ WorkerMetrics ─▶ registry ─▶ exposition.py

An object without a registry counts for nobody, so that no caller asks whether there are metrics.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from client.jobs import TERMINAL_STATES, WAITING_STATES, Job, JobState, Priority
from client.telemetry.catalogue import EVERY, GATEWAY, WORKER, MetricSpec
from client.telemetry.told import AttemptReport, ServedVersion, WorkCount
from client.version import SOFTWARE_VERSION

__all__ = ("Call", "GatewayMetrics", "WorkerMetrics")

_OK = "OK"
_CANCELLED = "CANCELLED"


class _Made:
    """The metrics of some specs on one registry, by name."""

    def __init__(self, registry: CollectorRegistry | None, specs: tuple[MetricSpec, ...]) -> None:
        self._registry = registry or CollectorRegistry()
        self._specs = {spec.name: spec for spec in (*EVERY, *specs)}
        self.gauge("hounsfield_build_info").labels(SOFTWARE_VERSION).set(1)

    def counter(self, name: str) -> Counter:
        spec = self._specs[name]
        return Counter(spec.name, spec.help, spec.labels, registry=self._registry)

    def gauge(self, name: str) -> Gauge:
        spec = self._specs[name]
        return Gauge(spec.name, spec.help, spec.labels, registry=self._registry)

    def histogram(self, name: str) -> Histogram:
        spec = self._specs[name]
        return Histogram(
            spec.name, spec.help, spec.labels, registry=self._registry, buckets=spec.buckets
        )


@dataclass
class Call:
    """A call under way; ``code`` is the name of the gRPC status it ends with."""

    code: str = _OK


class GatewayMetrics:
    """What a gateway tells.

    Args:
        registry: Where the metrics are shown; None: nowhere.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        made = _Made(registry, GATEWAY)
        self._calls = made.counter("hounsfield_calls_total")
        self._call_s = made.histogram("hounsfield_call_seconds")
        self._in_flight = made.gauge("hounsfield_calls_in_flight")
        self._received = made.counter("hounsfield_received_bytes_total")
        self._sent = made.counter("hounsfield_sent_bytes_total")
        self._jobs = made.gauge("hounsfield_jobs")
        self._waiting_s = made.gauge("hounsfield_oldest_waiting_seconds")
        self._unfinished_s = made.gauge("hounsfield_oldest_unfinished_seconds")
        self._entries = made.gauge("hounsfield_queue_entries")
        self._up = {
            part: made.gauge(f"hounsfield_{part}_up") for part in ("ledger", "queue", "store")
        }
        self._expiry = made.gauge("hounsfield_certificate_expiry_timestamp_seconds")
        self._swept_at = made.gauge("hounsfield_last_sweep_timestamp_seconds")
        self._requeued = made.counter("hounsfield_requeued_total")
        self._dead = made.counter("hounsfield_dead_total")

    @contextlib.contextmanager
    def call(self, method: str) -> Iterator[Call]:
        """Count and time a call of a method; the caller sets its code if it is not OK."""
        call, began = Call(), time.perf_counter()
        in_flight = self._in_flight.labels(method)
        in_flight.inc()
        try:
            yield call
        except BaseException:
            call.code = _CANCELLED if call.code == _OK else call.code
            raise
        finally:
            in_flight.dec()
            self._calls.labels(method, call.code).inc()
            self._call_s.labels(method).observe(time.perf_counter() - began)

    def received(self, message: bytes) -> None:
        """Count a message of a study."""
        self._received.inc(len(message))

    def sent(self, message: bytes) -> None:
        """Count a message of a result."""
        self._sent.inc(len(message))

    def show_finished(self, counts: Iterable[WorkCount]) -> None:
        """Tell how many jobs ended in each way."""
        self._show_jobs(TERMINAL_STATES, counts)

    def show_unfinished(self, counts: Sequence[WorkCount], now: datetime) -> None:
        """Tell how many jobs have not ended, and how old the oldest are."""
        self._show_jobs(set(JobState) - TERMINAL_STATES, counts)
        for priority in Priority:
            mine = [count for count in counts if count.priority is priority]
            waiting = [count for count in mine if count.state in WAITING_STATES]
            self._waiting_s.labels(priority.value).set(_age_s(waiting, now))
            self._unfinished_s.labels(priority.value).set(_age_s(mine, now))

    def _show_jobs(self, states: Iterable[JobState], counts: Iterable[WorkCount]) -> None:
        seen = {(count.state, count.priority): count.number for count in counts}
        for state in states:
            for priority in Priority:
                self._jobs.labels(state.value, priority.value).set(seen.get((state, priority), 0))

    def show_queue(self, sizes: Mapping[Priority, int]) -> None:
        """Tell how many entries the queue has."""
        for priority, size in sizes.items():
            self._entries.labels(priority.value).set(size)

    def show_part(self, part: str, *, up: bool) -> None:
        """Tell whether ``ledger``, ``queue`` or ``store`` answers."""
        self._up[part].set(up)

    def show_certificate(self, certificate: str, ends_at: datetime) -> None:
        """Tell when a certificate ends."""
        self._expiry.labels(certificate).set(ends_at.timestamp())

    def reconciled(self, requeued: int, dead: int) -> None:
        """Count what a look for lost work changed, and tell when it was."""
        self._requeued.inc(requeued)
        self._dead.inc(dead)
        self._swept_at.set_to_current_time()


class WorkerMetrics:
    """What a worker tells.

    Args:
        registry: Where the metrics are shown; None: nowhere.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        made = _Made(registry, WORKER)
        self._ended = made.counter("hounsfield_jobs_ended_total")
        self._wait_s = made.histogram("hounsfield_wait_seconds")
        self._turnaround_s = made.histogram("hounsfield_turnaround_seconds")
        self._stage_s = made.histogram("hounsfield_stage_seconds")
        self._stage_bytes = made.counter("hounsfield_stage_bytes_total")
        self._in_work = made.gauge("hounsfield_studies_in_work")
        self._slices = made.counter("hounsfield_slices_total")
        self._request_slices = made.histogram("hounsfield_request_slices")
        self._in_flight = made.gauge("hounsfield_triton_slices_in_flight")
        self._target = made.gauge("hounsfield_triton_slices_target")
        self._queue_s = made.gauge("hounsfield_triton_queue_seconds")
        self._model_info = made.gauge("hounsfield_model_info")
        self._cost_s = made.counter("hounsfield_cost_seconds_total")
        self._foreground = made.histogram("hounsfield_foreground_fraction")
        self._last_outcome = made.gauge("hounsfield_last_outcome_timestamp_seconds")
        self._serving: Sequence[ServedVersion] = ()
        for priority in Priority:  # from 0 on: a rate does not see a series' first value
            for metric in (self._in_work, self._wait_s, self._turnaround_s):
                metric.labels(priority.value)

    def claimed(self, job: Job) -> None:
        """Count a study as in work; of a first attempt, tell how long the job waited."""
        self._in_work.labels(job.priority.value).inc()
        if job.attempt == 1:
            self._wait_s.labels(job.priority.value).observe(_between_s(job))

    def put_down(self, job: Job) -> None:
        """Count a study as no longer in work."""
        self._in_work.labels(job.priority.value).dec()

    def ended(self, job: Job, outcome: str, code: str, report: AttemptReport) -> None:
        """Count an attempt that ended, with its stages.

        Args:
            job: As it was claimed.
            outcome: done, rejected, failed, lost, retried or dead.
            code: The refusal's, "" where there is none.
            report: What the attempt did.
        """
        self._ended.labels(outcome, code, job.priority.value, report.model).inc()
        self._last_outcome.set_to_current_time()
        for stage, seconds in report.timings_s.items():
            self._stage_s.labels(stage).observe(seconds)
        for stage, moved in report.moved_bytes.items():
            self._stage_bytes.labels(stage).inc(moved)
        for one in report.series:
            self._slices.labels(one.model, one.version).inc(one.slices)
            self._foreground.labels(one.model).observe(one.foreground)

    def entered(self, job: Job) -> None:
        """Tell how long a job took, once the ledger has its end; ``job`` as the ledger has it."""
        if job.finished:
            self._turnaround_s.labels(job.priority.value).observe(_between_s(job))

    def requests(self, model: str) -> Callable[[float], None]:
        """Return what takes the number of slices of each request to a model."""
        return self._request_slices.labels(model).observe

    def follow_slots(self, taken: Callable[[], int], target: Callable[[], int]) -> None:
        """Show what these say whenever somebody looks."""
        self._in_flight.set_function(taken)
        self._target.set_function(target)

    def show_triton_queue(self, model: str, seconds: float) -> None:
        """Tell how long a model's requests waited in Triton lately."""
        self._queue_s.labels(model).set(seconds)

    def show_serving(self, models: Sequence[ServedVersion]) -> None:
        """Tell which models are in service."""
        if models != self._serving:
            self._serving = models
            self._model_info.clear()
            for one in models:
                self._model_info.labels(one.name, one.version, one.engine).set(1)
                self._begin(one)

    def _begin(self, model: ServedVersion) -> None:
        """Show a model's counts from 0 on; pods come and go, and a first value is no increase."""
        self._slices.labels(model.name, model.version)
        self._foreground.labels(model.name)
        for kind in ("cpu", "engine"):
            self._cost_s.labels(kind, model.name)
        for priority in Priority:
            self._ended.labels("done", "", priority.value, model.name)

    def cost(self, kind: str, model: str, seconds: float) -> None:
        """Count what a study cost: ``cpu`` or ``engine`` seconds."""
        self._cost_s.labels(kind, model).inc(seconds)


def _age_s(counts: Iterable[WorkCount], now: datetime) -> float:
    oldest = min((count.oldest_at for count in counts), default=now)
    return max(0.0, (now - oldest).total_seconds())


def _between_s(job: Job) -> float:
    """Seconds from a job's receipt to its last change; clocks of two machines may disagree."""
    return max(0.0, (job.updated_at - job.created_at).total_seconds())

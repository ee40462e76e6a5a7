"""What a real stack tells while studies pass through it: metrics, health, JSON logs."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.addresses import next_port
from client.jobs import Job, JobState, Priority
from client.secretfiles import SECRETS
from client.stack import control
from client.telemetry.catalogue import EVERY, GATEWAY, WORKER
from client.version import SOFTWARE_VERSION
from tests.local_stack import LocalStack, running_stack, two_ports
from tests.proof.canary_studies import CanaryStudy, canary_studies
from tests.proof.traces import Searcher
from tests.scrapes import Scrape, scrape

pytestmark = pytest.mark.integration

STUDIES = 7
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LATE_S = 15
"""What the gateway looks up itself is told within so many seconds."""


@dataclass(frozen=True)
class Passed:
    """Studies that went through a stack, and what it told afterwards."""

    stack: LocalStack
    studies: list[CanaryStudy]
    jobs: list[Job]
    gateway: Scrape
    worker: Scrape

    def done(self) -> list[Job]:
        return [job for job in self.jobs if job.state is JobState.DONE]


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory, random_repository: Path) -> Iterator[Passed]:
    studies = list(canary_studies(STUDIES, random.Random(secrets.randbits(64))))
    changes: dict[str, Any] = {
        "metrics_listen": two_ports(),
        "health_listen": two_ports(),
        "log_format": "json",
        "model_repository": str(random_repository),
    }
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "HOUNSFIELD_RECONCILE_S").write_text("1.5\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(SECRETS, str(folder))
        with running_stack(tmp_path_factory.mktemp("t"), **changes) as stack:
            yield asyncio.run(_pass(stack, studies))


def test_the_stack_has_its_secrets_from_files(passed: Passed) -> None:
    assert passed.stack.settings.reconcile_s == 1.5
    for part in ("gateway", "worker"):
        environment = psutil.Process(passed.stack.pid(part)).environ()
        assert environment["HOUNSFIELD_RECONCILE_S"] == "1.5"
        assert SECRETS not in environment


def test_status_says_where_to_look(passed: Passed) -> None:
    told = {part.name: part.address for part in control.status(passed.stack.settings)}
    metrics, health = passed.stack.settings.metrics_listen, passed.stack.settings.health_listen
    assert told["gateway"].endswith(f", metrics {metrics}, health {health}")
    assert told["worker"] == f"metrics {next_port(metrics)}, health {next_port(health)}"


async def _pass(stack: LocalStack, studies: list[CanaryStudy]) -> Passed:
    priorities = [Priority.STAT, *[Priority.ROUTINE] * (len(studies) - 1)]
    async with stack.client() as client:
        sent = [
            await client.submit(study.files, priority=priority)
            for study, priority in zip(studies, priorities, strict=True)
        ]
        for job in [await client.wait(job.id) for job in sent]:
            if job.state is JobState.DONE:
                await client.fetch(job)
    async with stack.ledger() as ledger:
        jobs = [await ledger.get(job.id) for job in sent]
    gateway = await asyncio.to_thread(_until_nothing_waits, stack.settings.metrics_listen)
    worker = await asyncio.to_thread(scrape, next_port(stack.settings.metrics_listen))
    return Passed(stack, studies, jobs, gateway, worker)


def _until_nothing_waits(address: str) -> Scrape:
    """What the gateway tells once it has looked at ledger and queue after the last study."""
    names = ("hounsfield_oldest_unfinished_seconds", "hounsfield_queue_entries")
    deadline = time.monotonic() + LATE_S
    while any((seen := scrape(address)).total(name) for name in names):
        assert time.monotonic() < deadline, "the gateway does not look at its ledger and queue"
        time.sleep(0.2)
    return seen


def test_every_metric_of_the_catalogue_is_shown_with_its_labels(passed: Passed) -> None:
    for seen, specs in ((passed.gateway, EVERY + GATEWAY), (passed.worker, EVERY + WORKER)):
        families = seen.families()
        ours = {name: kind for name, kind in families.items() if name.startswith("hounsfield_")}
        assert ours == {spec.name: spec.kind for spec in specs}
        assert {"process_resident_memory_bytes", "process_cpu_seconds_total"} <= set(families)
        for spec in specs:
            samples = f"{spec.name}_count" if spec.kind == "histogram" else spec.name
            for labels, _ in seen.samples(samples):
                assert set(labels) == set(spec.labels), spec.name
        assert seen.total("hounsfield_build_info", version=SOFTWARE_VERSION) == 1


def test_the_gateway_counts_calls_and_bytes(passed: Passed) -> None:
    seen, done = passed.gateway, passed.done()
    assert seen.total("hounsfield_calls_total", method="SubmitStudy", code="OK") == STUDIES
    assert seen.total("hounsfield_calls_total", method="FetchResult", code="OK") == len(done) > 0
    for method in ("SubmitStudy", "FetchResult", "WatchJob"):
        calls = seen.total("hounsfield_calls_total", method=method)
        assert seen.total("hounsfield_call_seconds_count", method=method) == calls
    assert seen.total("hounsfield_calls_in_flight") == 0
    stored = sum(job.object_bytes for job in passed.jobs)
    assert stored < seen.total("hounsfield_received_bytes_total") < 1.02 * stored + STUDIES * 4096
    results = sum(job.result_bytes for job in done)
    assert results < seen.total("hounsfield_sent_bytes_total") < 1.02 * results + STUDIES * 4096


def test_the_gateway_tells_of_what_stands_behind_it(passed: Passed) -> None:
    seen = passed.gateway
    for part in ("ledger", "queue", "store"):
        assert seen.total(f"hounsfield_{part}_up") == 1
    for state in ("received", "queued", "running"):
        assert seen.total("hounsfield_jobs", state=state) == 0
    assert seen.total("hounsfield_oldest_waiting_seconds") == 0
    now = time.time()
    assert 0 <= now - seen.total("hounsfield_last_sweep_timestamp_seconds") < 60
    ends = dict.fromkeys(("gateway", "authority"), 0.0)
    for labels, value in seen.samples("hounsfield_certificate_expiry_timestamp_seconds"):
        ends[labels["certificate"]] = (value - now) / 86400
    assert {name: round(days) for name, days in ends.items()} == {"gateway": 397, "authority": 3650}


def test_the_worker_counts_each_study_once(passed: Passed) -> None:
    seen = passed.worker
    ended = Counter((str(job.state), job.code, job.priority.value) for job in passed.jobs)
    told = {
        (labels["outcome"], labels["code"], labels["priority"]): value
        for labels, value in seen.samples("hounsfield_jobs_ended_total")
        if labels["outcome"] != "retried"
    }
    assert told == ended
    assert set(ended) > {("done", "", "routine")}
    for name in ("hounsfield_wait_seconds", "hounsfield_turnaround_seconds"):
        assert seen.total(f"{name}_count") == STUDIES
        assert seen.total(f"{name}_count", priority="stat") == 1
    waited = seen.total("hounsfield_wait_seconds_sum")
    took = seen.total("hounsfield_turnaround_seconds_sum")
    stages = seen.total("hounsfield_stage_seconds_sum")
    assert 0 < waited < took
    assert stages <= took - waited + 0.1
    in_ledger = sum((job.updated_at - job.created_at).total_seconds() for job in passed.jobs)
    assert took == pytest.approx(in_ledger, abs=0.01)
    assert seen.total("hounsfield_turnaround_seconds_bucket", le="60.0") == STUDIES
    assert seen.total("hounsfield_studies_in_work") == 0
    assert 0 <= time.time() - seen.total("hounsfield_last_outcome_timestamp_seconds") < 60


def test_the_worker_counts_stages_slices_and_requests(passed: Passed) -> None:
    seen, done = passed.worker, len(passed.done())
    attempts = seen.total("hounsfield_jobs_ended_total")
    assert seen.total("hounsfield_stage_seconds_count", stage="fetch") == attempts
    for stage in ("write", "store"):
        assert seen.total("hounsfield_stage_seconds_count", stage=stage) == done
    results = sum(job.result_bytes for job in passed.jobs)
    assert seen.total("hounsfield_stage_bytes_total", stage="store") == results
    plain = sum(len(content) for study in passed.studies for content in study.files)
    fetched = seen.total("hounsfield_stage_bytes_total", stage="fetch")
    assert plain < fetched <= sum(job.object_bytes for job in passed.jobs)
    slices = sum(len(study.files) for study in passed.studies if not study.expected)
    assert seen.total("hounsfield_slices_total", model="brain_mr", version="1") == slices
    assert seen.total("hounsfield_request_slices_sum", model="brain_mr") >= slices
    assert seen.total("hounsfield_stage_bytes_total", stage="segment") > 0
    assert seen.total("hounsfield_foreground_fraction_count", model="brain_mr") == done
    assert 0 < seen.total("hounsfield_foreground_fraction_sum") <= done
    assert seen.total("hounsfield_triton_slices_in_flight") == 0
    assert seen.total("hounsfield_triton_slices_target") >= 1
    for kind in ("cpu", "engine"):
        assert seen.total("hounsfield_cost_seconds_total", kind=kind, model="brain_mr") > 0
    (model,) = seen.samples("hounsfield_model_info")
    assert model[0]["model"] == "brain_mr"
    assert model[0]["version"] == "1"
    assert model[0]["engine"]


def test_both_processes_say_that_they_live_and_are_ready(passed: Passed) -> None:
    gateway = passed.stack.settings.health_listen
    for address in (gateway, next_port(gateway)):
        for service in ("", "ready"):
            assert _health(address, service) == SERVING


def test_a_queue_that_hangs_is_told_by_both(passed: Passed) -> None:
    metrics, health = passed.stack.settings.metrics_listen, passed.stack.settings.health_listen
    passed.stack.kill("queue", signal.SIGSTOP)
    try:
        _until(lambda: scrape(metrics).total("hounsfield_queue_up") == 0)
        _until(lambda: _health(next_port(health), "ready") == NOT_SERVING)
        assert _health(next_port(health), "") == SERVING
        assert scrape(metrics).total("hounsfield_ledger_up") == 1
    finally:
        passed.stack.kill("queue", signal.SIGCONT)
    _until(lambda: scrape(metrics).total("hounsfield_queue_up") == 1)
    _until(lambda: _health(next_port(health), "ready") == SERVING)


def _until(held: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3 * LATE_S
    while not held():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _health(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


def test_logs_are_json_with_the_job_as_a_field(passed: Passed) -> None:
    logs = passed.stack.home / "logs"
    records = [json.loads(line) for line in (logs / "worker.log").read_text().splitlines()]
    ended = {record["job"]: record for record in records if "outcome" in record}
    assert set(ended) == {job.id for job in passed.jobs}
    for job in passed.jobs:
        record = ended[job.id]
        assert (record["outcome"], record["code"]) == (job.state, job.code)
        assert record["attempt"] == job.attempt
        assert record["stages_s"]["fetch"] > 0
        assert record["level"] == "INFO"
        assert record["logger"] == "client.worker.loop"
    for line in (logs / "gateway.log").read_text().splitlines():
        assert {"time", "level", "logger", "event"} <= set(json.loads(line))


def test_nothing_that_is_told_names_a_patient_or_a_tenant(passed: Passed) -> None:
    marks = [secret for study in passed.studies for secret in study.marks.secrets()]
    searcher = Searcher(marks)
    logs = passed.stack.home / "logs"
    told = {path.name: path.read_bytes() for path in logs.iterdir()}
    told |= {"gateway": passed.gateway.text.encode(), "worker": passed.worker.text.encode()}
    for place, content in told.items():
        assert searcher.in_bytes(content, place) == set(), place
    canary = json.dumps({"event": passed.studies[0].marks.names[0]}).encode()
    assert searcher.in_bytes(canary, "control")
    for job in passed.jobs:
        for metrics in (passed.gateway.text, passed.worker.text):
            assert job.id not in metrics
            assert f'"{job.tenant}"' not in metrics
            assert job.upload_id not in metrics

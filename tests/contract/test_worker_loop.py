"""The worker's loop settles every outcome once, on a real ledger; the pipeline misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from client.errors import Erased, LeaseLost, RefusalCode, Rejected, Transient
from client.jobqueue.memory import MemoryQueue
from client.jobs import Job, JobState, Priority
from client.ledger.ledger import Ledger
from client.ledger.records import AttemptCost, JobResult, NewJob, ServedModel
from client.ledger.service import fingerprint
from client.objectstore.objects import ObjectStore, StoredObject, result_key
from client.objectstore.stores import open_store
from client.telemetry.metrics import WorkerMetrics
from client.worker.loop import WorkerLoop, WorkerSettings
from client.worker.pacing import STAT_IN_A_ROW
from client.worker.progress import Progress, SegmentedSeries
from tests.scrapes import scrape_registry

pytestmark = pytest.mark.contract

Behaviour = Callable[[Job, Progress], Awaitable[JobResult]]


class Site:
    """A ledger, a queue, a store, and workers with a pipeline of the test's making."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.queue = MemoryQueue()
        self.store: ObjectStore = open_store("memory:///")
        self.started: list[str] = []
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)

    async def submit(self, priority: Priority = Priority.ROUTINE) -> str:
        job_id = str(uuid.uuid4())
        await self.ledger.submit(
            NewJob(
                id=job_id,
                tenant="hospital",
                upload_id=str(uuid.uuid4()),
                priority=priority,
                model="",
                content_sha256="00" * 32,
                stored=StoredObject(f"studies/{job_id}", 1, "00" * 32),
                header=b"header",
            )
        )
        await self.queue.put(job_id, priority)
        return job_id

    async def process(self, job: Job, progress: Progress) -> JobResult:
        self.started.append(job.id)
        with progress.stage_of("store"):
            stored = await self.store.put(result_key(job.id, job.attempt), one_chunk())
        return JobResult(stored, b"result header")

    @contextlib.asynccontextmanager
    async def worker(
        self,
        behaviour: Behaviour,
        places: int = 2,
        lease_s: float = 5.0,
        check: Callable[[], None] = lambda: None,
        serving: Callable[[], Sequence[ServedModel]] = lambda: (),
    ) -> AsyncIterator[asyncio.Event]:
        class Pipeline:
            async def process(self, job: Job, progress: Progress) -> JobResult:
                return await behaviour(job, progress)

            async def check(self) -> None:
                check()

            async def serving(self) -> Sequence[ServedModel]:
                return serving()

        stop = asyncio.Event()
        settings = WorkerSettings(f"w-{uuid.uuid4()}", places, lease_s, drain_s=0.2)
        parts = (self.queue, self.ledger, self.store, Pipeline())
        loop = WorkerLoop(settings, *parts, metrics=self.metrics)
        task = asyncio.create_task(loop.run(stop))
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)

    async def ended(self, *job_ids: str, timeout_s: float = 20.0) -> list[Job]:
        async with asyncio.timeout(timeout_s):
            while True:
                jobs = [await self.ledger.get(job_id) for job_id in job_ids]
                if all(job.finished for job in jobs):
                    return jobs
                await asyncio.sleep(0.02)


async def one_chunk() -> AsyncIterator[bytes]:
    yield b"ciphertext"


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Ledger(
        f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite", bytes(32), max_attempts=2
    ) as ledger:
        yield Site(ledger)


async def test_a_good_study_is_done_and_its_entry_is_gone(site: Site) -> None:
    job_id = await site.submit()
    async with site.worker(site.process):
        (job,) = await site.ended(job_id)
    assert (job.state, job.attempt, job.result_key) == (JobState.DONE, 1, result_key(job_id, 1))
    assert await site.queue.job_ids() == frozenset()


async def test_a_refusal_is_final_and_keeps_its_code(site: Site) -> None:
    async def refuse(job: Job, progress: Progress) -> JobResult:
        raise Rejected(RefusalCode.GANTRY_TILT, "expected upright, got tilted")

    job_id = await site.submit()
    async with site.worker(refuse):
        (job,) = await site.ended(job_id)
    assert (job.state, job.code, job.attempt) == (JobState.REJECTED, "GANTRY_TILT", 1)
    assert await site.queue.job_ids() == frozenset()


async def test_an_erased_patients_study_fails_for_good(site: Site) -> None:
    async def find_no_key(job: Job, progress: Progress) -> JobResult:
        raise Erased("the key was destroyed")

    job_id = await site.submit()
    async with site.worker(find_no_key):
        (job,) = await site.ended(job_id)
    assert (job.state, job.code, job.attempt) == (JobState.FAILED, "ERASED", 1)


async def test_every_end_is_told_and_a_try_that_failed_is_not(site: Site) -> None:
    dead, refused, done = [await site.submit() for _ in range(3)]

    async def behave(job: Job, progress: Progress) -> JobResult:
        if job.id == refused:
            raise Rejected(RefusalCode.GANTRY_TILT, "expected upright, got tilted")
        if job.id == dead:
            raise Transient("Triton is away")
        return await site.process(job, progress)

    told: list[str] = []

    async def listen() -> None:
        async for job_id in site.queue.ends():
            assert (await site.ledger.get(job_id)).finished
            told.append(job_id)

    listening = asyncio.create_task(listen())
    async with site.worker(behave):
        await tried_again(site, dead)
        await site.ended(dead, refused, done)
    listening.cancel()
    assert sorted(told) == sorted([refused, done, dead])


async def test_a_queue_that_is_away_keeps_no_outcome_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(job_id: str) -> None:
        raise Transient("The queue is away.")

    monkeypatch.setattr(site.queue, "tell_end", away)
    job_id = await site.submit()
    async with site.worker(site.process):
        (job,) = await site.ended(job_id)
    assert (job.state, job.attempt) == (JobState.DONE, 1)


async def tried_again(site: Site, job_id: str) -> None:
    """Queue a job whose first try failed, once its pause is over, as the reconciler does."""
    async with asyncio.timeout(10):
        while (await site.ledger.get(job_id)).attempt < 1 or await site.queue.job_ids():
            await asyncio.sleep(0.02)
    await asyncio.sleep(1.0)  # the longest pause before the second try
    await site.queue.put(job_id, Priority.ROUTINE)


@pytest.mark.parametrize("error", [Transient("Triton is away"), ValueError("Doe^Jane")])
async def test_what_may_heal_is_tried_again_and_then_given_up(
    site: Site, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(job: Job, progress: Progress) -> JobResult:
        raise error

    job_id = await site.submit()
    async with site.worker(fail):
        await tried_again(site, job_id)
        (job,) = await site.ended(job_id)
    assert (job.state, job.code, job.attempt) == (JobState.DEAD, "RETRIES_EXHAUSTED", 2)
    history = " ".join(event.detail for event in await site.ledger.events(job_id))
    assert "Doe" not in history + job.reason + caplog.text
    assert f"job={job_id} attempt=2 failed" in caplog.text


async def test_each_end_of_an_attempt_is_counted_by_outcome_code_and_model(site: Site) -> None:
    dead = await site.submit()
    ends: dict[str, Exception] = {dead: Transient("Triton is away")}
    ends |= {await site.submit(): Rejected(RefusalCode.GANTRY_TILT, "expected upright")}
    ends |= {await site.submit(): Erased("the key was destroyed")}
    done = await site.submit(Priority.STAT)

    async def end(job: Job, progress: Progress) -> JobResult:
        with progress.stage_of("fetch"):
            progress.moved(100)
        if error := ends.get(job.id):
            raise error
        progress.series.append(SegmentedSeries("brain_mr", "3", 24, 0.25))
        return await site.process(job, progress)

    async with site.worker(end):
        async with asyncio.timeout(10):
            while await site.queue.job_ids():
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)  # the longest pause before the second try
        await site.queue.put(dead, Priority.ROUTINE)  # as the reconciler does
        await site.ended(*ends, done)
    seen = scrape_registry(site.registry)
    told = [
        (labels["outcome"], labels["code"], labels["priority"], labels["model"], value)
        for labels, value in seen.samples("hounsfield_jobs_ended_total")
    ]
    assert sorted(told) == [
        ("dead", "RETRIES_EXHAUSTED", "routine", "", 1.0),
        ("done", "", "stat", "brain_mr", 1.0),
        ("failed", "ERASED", "routine", "", 1.0),
        ("rejected", "GANTRY_TILT", "routine", "", 1.0),
        ("retried", "", "routine", "", 1.0),
    ]
    assert seen.total("hounsfield_turnaround_seconds_count") == 4  # every job once
    assert seen.total("hounsfield_wait_seconds_count") == 4
    assert seen.total("hounsfield_stage_seconds_count", stage="fetch") == 5  # every attempt
    assert seen.total("hounsfield_stage_bytes_total", stage="fetch") == 500
    assert seen.total("hounsfield_slices_total", model="brain_mr", version="3") == 24
    assert seen.total("hounsfield_foreground_fraction_sum", model="brain_mr") == 0.25
    assert seen.total("hounsfield_studies_in_work") == 0


async def test_work_that_is_given_back_has_not_ended(site: Site) -> None:
    async def endless(job: Job, progress: Progress) -> JobResult:
        await asyncio.sleep(60)
        raise LeaseLost("never")

    job_id = await site.submit()
    async with site.worker(endless):
        async with asyncio.timeout(10):
            while (await site.ledger.get(job_id)).state is not JobState.RUNNING:
                await asyncio.sleep(0.02)
        assert scrape_registry(site.registry).total("hounsfield_studies_in_work") == 1
    seen = scrape_registry(site.registry)
    assert seen.total("hounsfield_studies_in_work") == 0
    assert list(seen.samples("hounsfield_jobs_ended_total")) == []


async def test_every_attempt_enters_what_it_took(site: Site) -> None:
    async def fail_once(job: Job, progress: Progress) -> JobResult:
        progress.spending.cpu.seconds = float(job.attempt)
        if job.attempt == 1:
            raise Transient("Triton is away")
        return await site.process(job, progress)

    job_id = await site.submit()
    async with site.worker(fail_once):
        await tried_again(site, job_id)
        (job,) = await site.ended(job_id)
    day = timedelta(days=1)
    (spent,) = [one async for one in site.ledger.spending(job.created_at, job.created_at + day)]
    assert [(one.attempt, one.state, one.cost.cpu_us) for one in spent.attempts] == [
        (1, JobState.QUEUED, 1_000_000),
        (2, JobState.DONE, 2_000_000),
    ]


async def test_a_late_result_is_dropped_and_the_successors_stays(site: Site) -> None:
    took_over = asyncio.Event()

    async def too_late(job: Job, progress: Progress) -> JobResult:
        result = await site.process(job, progress)
        await took_over.wait()
        return result

    job_id = await site.submit()
    async with site.worker(too_late, lease_s=1.0):
        async with asyncio.timeout(10):
            while job_id not in site.started:
                await asyncio.sleep(0.01)
        await site.ledger.cancel("hospital", job_id)
        took_over.set()
        async with asyncio.timeout(10):
            while await site.queue.job_ids():
                await asyncio.sleep(0.01)
    assert (await site.ledger.get(job_id)).state is JobState.CANCELLED
    ended = scrape_registry(site.registry)
    assert ended.total("hounsfield_jobs_ended_total", outcome="lost") == 1
    assert ended.total("hounsfield_turnaround_seconds_count") == 0
    assert [entry async for entry in site.store.list("results")] == []


async def test_stat_overtakes_routine_even_when_every_place_is_taken(site: Site) -> None:
    gate = asyncio.Event()

    async def wait(job: Job, progress: Progress) -> JobResult:
        if job.priority is Priority.ROUTINE:
            await gate.wait()
        return await site.process(job, progress)

    routine = [await site.submit() for _ in range(4)]
    async with site.worker(wait, places=2):
        await asyncio.sleep(0.2)
        stat = await site.submit(Priority.STAT)
        await site.ended(stat)
        assert site.started == [stat]
        gate.set()
        jobs = await site.ended(*routine)
    assert {job.state for job in jobs} == {JobState.DONE}


async def test_a_stop_gives_work_back_without_counting_the_try(site: Site) -> None:
    job_id = await site.submit()

    async def endless(job: Job, progress: Progress) -> JobResult:
        await asyncio.sleep(60)
        raise LeaseLost("never")

    async with site.worker(endless):
        async with asyncio.timeout(10):
            while (await site.ledger.get(job_id)).state is not JobState.RUNNING:
                await asyncio.sleep(0.02)
    assert (await site.ledger.get(job_id)).state is JobState.QUEUED
    await site.queue.put(job_id, Priority.ROUTINE)
    async with site.worker(site.process):
        (job,) = await site.ended(job_id)
    assert (job.state, job.attempt) == (JobState.DONE, 2)


class Unreliable(Ledger):
    """A ledger that is away, or whose answer is lost, a few times."""

    def __init__(self, url: str) -> None:
        super().__init__(url, bytes(32), max_attempts=2)
        self.away = 0
        self.lost_answers = 0

    def _stumble(self) -> None:
        if self.away:
            self.away -= 1
            raise Transient("The ledger is away (as the test wants it)")

    async def claim(self, job_id: str, owner: str, lease_s: float) -> Job:
        self._stumble()
        return await super().claim(job_id, owner, lease_s)

    async def finish(self, job: Job, result: JobResult, costs: Sequence[AttemptCost] = ()) -> Job:
        self._stumble()
        done = await super().finish(job, result, costs)
        if self.lost_answers:
            self.lost_answers -= 1
            raise Transient("The answer was lost (as the test wants it)")
        return done


@pytest_asyncio.fixture
async def shaky(tmp_path: Path) -> AsyncIterator[tuple[Site, Unreliable]]:
    async with Unreliable(f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite") as ledger:
        yield Site(ledger), ledger


async def test_an_outcome_waits_for_a_ledger_that_is_away(shaky: tuple[Site, Unreliable]) -> None:
    site, ledger = shaky

    async def process(job: Job, progress: Progress) -> JobResult:
        ledger.away = 2
        return await site.process(job, progress)

    job_id = await site.submit()
    async with site.worker(process):
        (job,) = await site.ended(job_id)
    assert (job.state, job.attempt) == (JobState.DONE, 1)
    assert site.started == [job_id]


async def test_a_result_whose_entry_was_answered_by_silence_is_kept(
    shaky: tuple[Site, Unreliable],
) -> None:
    site, ledger = shaky
    ledger.lost_answers = 1
    job_id = await site.submit()
    async with site.worker(site.process):
        (job,) = await site.ended(job_id)
        async with asyncio.timeout(10):
            while await site.queue.job_ids():
                await asyncio.sleep(0.02)
    assert job.state is JobState.DONE
    assert [entry.key async for entry in site.store.list("results")] == [job.result_key]


async def test_an_entry_outlives_a_ledger_that_is_away(shaky: tuple[Site, Unreliable]) -> None:
    site, ledger = shaky
    ledger.away = 1
    job_id = await site.submit()
    async with site.worker(site.process, lease_s=1.0):
        (job,) = await site.ended(job_id)
    assert (job.state, job.attempt) == (JobState.DONE, 1)


async def test_routine_is_not_starved(site: Site) -> None:
    async def process(job: Job, progress: Progress) -> JobResult:
        result = await site.process(job, progress)
        await asyncio.sleep(0.02)  # neither place is much faster than the other
        return result

    routine = await site.submit()
    stat = [await site.submit(Priority.STAT) for _ in range(40)]
    async with site.worker(process, places=1):
        await site.ended(routine, *stat)
    # The place for STAT alone goes on meanwhile, about as fast as the other.
    assert STAT_IN_A_ROW <= site.started.index(routine) < len(stat)


async def test_an_outage_does_not_use_up_tries(site: Site) -> None:
    """What fails is tried again; what waits is not taken until everything is there."""
    checks = 0
    away = True

    async def process(job: Job, progress: Progress) -> JobResult:
        if away:
            raise Transient("Triton is away (as the test wants it)")
        return await site.process(job, progress)

    def check() -> None:
        nonlocal checks, away
        checks += 1
        away = checks < 3
        if away:
            raise Transient("Triton is still away (as the test wants it)")

    jobs = [await site.submit() for _ in range(12)]
    async with site.worker(process, places=1, check=check):
        others = await site.ended(*jobs[1:])
    assert {job.state for job in others} == {JobState.DONE}
    # One study for each of the worker's places was in work when it went away.
    assert sum(job.attempt > 1 for job in others) <= 2
    assert checks == 3


async def test_without_trouble_nothing_is_checked(site: Site) -> None:
    def check() -> None:
        raise AssertionError("not asked for")

    job_id = await site.submit()
    async with site.worker(site.process, check=check):
        (job,) = await site.ended(job_id)
    assert job.state is JobState.DONE


SERVED = ServedModel("brain_mr", "1", "an engine", "aa", "bb")


async def test_a_job_knows_which_models_it_was_made_with(site: Site) -> None:
    job_id = await site.submit()
    async with site.worker(site.process, serving=lambda: [SERVED]):
        (job,) = await site.ended(job_id)
        assert job.made_with == fingerprint([SERVED])
        assert await site.ledger.models_in_service() == {job.made_with}
    assert await site.ledger.models_in_service() == set()


async def test_a_model_that_changes_during_a_job_leaves_it_without(site: Site) -> None:
    serving = [SERVED]

    async def process(job: Job, progress: Progress) -> JobResult:
        serving[:] = [replace(SERVED, version="2")]
        return await site.process(job, progress)

    job_id = await site.submit()
    async with site.worker(process, serving=lambda: list(serving)):
        (job,) = await site.ended(job_id)
        assert (job.state, job.made_with) == (JobState.DONE, "")


async def test_a_model_server_that_is_away_serves_nothing(site: Site) -> None:
    def away() -> Sequence[ServedModel]:
        raise Transient("Triton is away (as the test wants it)")

    job_id = await site.submit()
    async with site.worker(site.process, serving=away):
        (job,) = await site.ended(job_id)
    assert (job.state, job.made_with) == (JobState.DONE, "")

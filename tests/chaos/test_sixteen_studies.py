"""Sixteen studies at once: STAT first, and each done once though worker and Triton are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from client.dicom.readback import source_series_uid
from client.ingest.sender import IngestClient
from client.jobs import Job, JobState, Priority
from client.objectstore.stores import open_store
from tests.dicom_factory import ORIENTATIONS, Recipe, classic_files, numbered_volume
from tests.local_stack import LocalStack, running_stack

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(280)]

STUDIES = 16
STAT = 4
SLICES = 10


def study(number: int) -> list[bytes]:
    """A small head MR, different for each number."""
    recipe = Recipe(
        volume=(numbered_volume(SLICES, 64, 72) % 700 + number).astype("int16"),
        orientation=list(ORIENTATIONS.values())[number % len(ORIENTATIONS)],
        distance_mm=4.0,
        series=number + 1,
        attributes={"BodyPartExamined": "HEAD"},
    )
    return [content for _, content in classic_files(recipe)]


async def submit_all(client: IngestClient) -> list[Job]:
    """All at the same time; the last ones are STAT."""
    routine = STUDIES - STAT
    first = await asyncio.gather(*(client.submit(study(n)) for n in range(routine)))
    urgent = (client.submit(study(n), priority=Priority.STAT) for n in range(routine, STUDIES))
    return [*first, *await asyncio.gather(*urgent)]


async def until(
    client: IngestClient, condition: Callable[[tuple[Job, ...]], bool], timeout_s: float = 150.0
) -> tuple[Job, ...]:
    async with asyncio.timeout(timeout_s):
        while not condition(jobs := await client.list_jobs(limit=100)):
            await asyncio.sleep(0.2)
    return jobs


def done(jobs: tuple[Job, ...]) -> int:
    return sum(job.state is JobState.DONE for job in jobs)


def everything_ended(jobs: tuple[Job, ...]) -> bool:
    return len(jobs) == STUDIES and all(job.finished for job in jobs)


async def check_each_done_once(stack: LocalStack, client: IngestClient, jobs: list[Job]) -> None:
    """Every job has one finish in the ledger, one current result, and the result is its own."""
    async with stack.ledger() as ledger:
        for number, submitted in enumerate(jobs):
            job = await client.get(submitted.id)
            assert job.state is JobState.DONE, (job.code, job.reason)
            trail = await ledger.events(job.id)
            events = [event.action for event in trail if event.state]
            assert events.count("job.finished") == 1
            assert events[-1] == "job.finished"
            files = await client.fetch(submitted)
            uid = source_series_uid(files["segmentation-001.dcm"])
            assert uid == f"1.2.826.0.1.77.{number + 1}"


async def test_stat_goes_first(tmp_path: Path, random_repository: Path) -> None:
    with running_stack(tmp_path, model_repository=str(random_repository)) as stack:
        async with stack.client() as client:
            worker = stack.pid("worker")
            os.kill(worker, signal.SIGSTOP)
            jobs = await submit_all(client)
            os.kill(worker, signal.SIGCONT)
            await until(client, everything_ended)
            await check_each_done_once(stack, client, jobs)
        async with stack.ledger() as ledger:
            claims = []
            for job in jobs:
                claims += [
                    (event.at, job.priority)
                    for event in await ledger.events(job.id)
                    if event.action == "job.claimed"
                ]
        order = [priority for _, priority in sorted(claims, key=lambda claim: claim[0])]
        # What the worker had already asked for when it was frozen may come before.
        places = stack.settings.studies_in_flight
        assert Priority.STAT not in order[places + STAT :], order


async def test_kill_9_of_worker_and_triton_loses_and_repeats_nothing(
    tmp_path: Path, random_repository: Path
) -> None:
    with running_stack(
        tmp_path, model_repository=str(random_repository), lease_s=3.0, reconcile_s=1.0
    ) as stack:
        async with stack.client() as client:
            jobs = await submit_all(client)
            await until(client, lambda now: done(now) >= 2)
            stack.kill("worker", signal.SIGKILL)
            await until(client, lambda now: done(now) >= 5)
            stack.kill("triton", signal.SIGKILL)
            await until(client, everything_ended)
            await check_each_done_once(stack, client, jobs)
        store = open_store(stack.settings.store_url)
        studies = [entry async for entry in store.list("studies")]
        assert len(studies) == STUDIES


async def test_a_wiped_queue_loses_nothing(tmp_path: Path, random_repository: Path) -> None:
    with running_stack(
        tmp_path, model_repository=str(random_repository), lease_s=3.0, reconcile_s=1.0
    ) as stack:
        async with stack.client() as client:
            os.kill(stack.pid("worker"), signal.SIGSTOP)
            jobs = await submit_all(client)
            stack.kill("queue", signal.SIGKILL)
            for path in (stack.home / "queue").rglob("*.aof"):
                path.write_bytes(b"")
            os.kill(stack.pid("worker"), signal.SIGCONT)
            await until(client, everything_ended)
            await check_each_done_once(stack, client, jobs)

"""Cancelling a call of the ledger at any moment leaks nothing and cuts nothing in two."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from client.audittrail import AuditEntry
from client.jobs import Actor, JobState
from client.ledger.ledger import Ledger
from tests.ledgers import AUDIT_KEY, LEASE_S, Clock, new_job, submitted

pytestmark = pytest.mark.contract

DOCTOR = Actor("dr.x", "clinician")
ROUNDS = 60


def calls(ledger: Ledger, job_id: str) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    return [
        lambda: ledger.get(job_id),
        lambda: ledger.submit(new_job()),
        lambda: ledger.claim(job_id, "w", LEASE_S),
        lambda: ledger.list_jobs("radiology"),
        lambda: ledger.record("radiology", DOCTOR, AuditEntry("call.GetJob")),
        ledger.verify_chains,
    ]


async def cancelled_after(work: Coroutine[Any, Any, Any], pause_s: float, again: bool) -> None:
    task = asyncio.create_task(work)
    await asyncio.sleep(pause_s)
    task.cancel()
    if again:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_no_connection_is_left_behind(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    draw = random.Random(7)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for round_ in range(ROUNDS // 10):
            async with Ledger(url, AUDIT_KEY, clock=clock) as ledger:
                job = await submitted(ledger)
                # A fresh engine each time: the moment of connecting is the dangerous one.
                await asyncio.gather(
                    *(
                        cancelled_after(call(), draw.uniform(0, 0.03), bool(round_ % 2))
                        for call in calls(ledger, job.id) * 2
                    )
                )
                assert (await ledger.get(job.id)).id == job.id
                assert all(report.intact for report in await ledger.verify_chains())
        await cancelled_after(Ledger(url, AUDIT_KEY).__aenter__(), 0.005, True)
        del ledger
        gc.collect()
        await asyncio.sleep(0)
    assert [str(w.message) for w in told] == []
    assert unraisable == []


async def test_a_cancelled_change_is_whole_or_absent(ledger: Ledger) -> None:
    draw = random.Random(11)
    for _ in range(ROUNDS // 2):
        job = await submitted(ledger)
        await cancelled_after(ledger.claim(job.id, "w", LEASE_S), draw.uniform(0, 0.01), False)
        now = await ledger.get(job.id)
        actions = [event.action for event in await ledger.events(job.id)]
        if now.state is JobState.RUNNING:
            assert actions == ["job.received", "job.claimed"]
        else:
            assert (now.state, actions) == (JobState.RECEIVED, ["job.received"])


async def test_a_cancelled_heartbeat_does_not_lock_others_out(url: str, clock: Clock) -> None:
    """A worker cancels its heartbeat at the end of each study; a study then waited for ever."""
    draw = random.Random(3)
    async with (
        Ledger(url, AUDIT_KEY, clock=clock) as mine,
        Ledger(url, AUDIT_KEY, clock=clock) as others,
    ):
        job = await mine.claim((await submitted(mine)).id, "w", LEASE_S)
        for _ in range(ROUNDS):
            beat = mine.heartbeat(job, "infer", 0.1, LEASE_S)
            await cancelled_after(beat, draw.uniform(0, 0.012), False)
            async with asyncio.timeout(5):
                await others.heartbeat(job, "infer", 0.2, LEASE_S)


async def test_what_was_cancelled_has_ended_when_the_cancellation_is_told(ledger: Ledger) -> None:
    job = await submitted(ledger)
    task = asyncio.create_task(ledger.claim(job.id, "w", LEASE_S))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger._table._database._running == set()


async def test_a_timeout_around_a_call_is_told_as_one(ledger: Ledger) -> None:
    job = await submitted(ledger)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await ledger.claim(job.id, "w", LEASE_S)

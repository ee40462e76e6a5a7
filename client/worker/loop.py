"""Takes jobs from the queue while there is room, and settles each one in the ledger.

    queue ──take──▶ claim (ledger) ──▶ StudyPipeline ──▶ result stored ──▶ finish (ledger) ──▶ ack

The ledger is the truth and the queue a hint: an entry is acknowledged only after the ledger knows
the outcome, and every write is fenced by the attempt number, so that a worker which was away too
long cannot overwrite its successor's result. STAT studies come first and have a place of their own;
in the other places a routine study gets its turn after eight STAT studies in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from client.discretion import place_of
from client.errors import (
    ClientError,
    Erased,
    LeaseLost,
    NotFound,
    RefusalCode,
    Rejected,
    Transient,
)
from client.faultpoints import Step, reach
from client.jobqueue.base import JobQueue, QueueEntry
from client.jobs import Job, Priority
from client.ledger.ledger import Ledger
from client.ledger.records import AttemptCost, JobResult, ServedModel
from client.objectstore.objects import ObjectStore
from client.telemetry.metrics import WorkerMetrics
from client.worker.pacing import Turns, retry_delay_s
from client.worker.progress import Outcome, Progress

__all__ = ("Pipeline", "WorkerLoop", "WorkerSettings")

_LOG = logging.getLogger(__name__)
_TAKE_WAIT_S = 1.0
_AWAY_PAUSE_S = 1.0
_BEAT_S = 2.0
_CHECK_TIMEOUT_S = 10.0
_TELL_EVERY_S = 1.5
_TELL_TIMEOUT_S = 1.0
_CHANCE = random.SystemRandom()


class Pipeline(Protocol):
    """What the loop needs of ``StudyPipeline``."""

    async def process(self, job: Job, progress: Progress) -> JobResult:
        """See ``StudyPipeline.process``."""
        ...

    async def check(self) -> None:
        """See ``StudyPipeline.check``."""
        ...

    async def serving(self) -> Sequence[ServedModel]:
        """See ``StudyPipeline.serving``."""
        ...


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker behaves.

    Attributes:
        owner: Name in the ledger and the queue, unique to the process.
        studies_in_flight: Studies at a time; one more place is kept for STAT studies.
        lease_s: Seconds without a heartbeat after which others may take a job over.
        drain_s: Seconds that studies in work may take after a stop before they are given back.
    """

    owner: str
    studies_in_flight: int
    lease_s: float
    drain_s: float = 10.0


class WorkerLoop:
    """One worker.

    Args:
        settings: How it behaves.
        queue: Where hints of work come from.
        ledger: Who owns what.
        store: Only to delete results that came too late.
        pipeline: What turns a study into a result.
        metrics: Where waits, outcomes and stages are told.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        queue: JobQueue,
        ledger: Ledger,
        store: ObjectStore,
        pipeline: Pipeline,
        *,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._ledger = ledger
        self._store = store
        self._pipeline = pipeline
        self._metrics = metrics or WorkerMetrics()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = Turns()
        self._next_reclaim = 0.0
        self._doubtful = False  # whether a study failed because a part of the system was away

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then finish or give back what is in work."""
        telling = asyncio.create_task(self._tell_often())
        try:
            await asyncio.gather(
                self._fill(self._next_entry, self._settings.studies_in_flight, stop),
                self._fill(self._next_urgent, 1, stop),
            )
            await self._drain()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            with contextlib.suppress(ClientError):
                await self._ledger.serve(self._settings.owner, ())

    async def _tell_often(self) -> None:
        """Let the ledger notice a new model while nothing is in work."""
        while True:
            await self._tell()
            await asyncio.sleep(_TELL_EVERY_S)

    async def _tell(self) -> None:
        """Tell the ledger which models are in service now; none while that can't be known."""
        models: Sequence[ServedModel] = ()
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(_TELL_TIMEOUT_S):
                models = await self._pipeline.serving()
        self._metrics.show_serving(models)
        try:
            await self._ledger.serve(self._settings.owner, models)
        except Transient as error:
            _LOG.warning("the models in service cannot be told: %s", error)

    async def _fill(
        self, take: Callable[[], Awaitable[QueueEntry | None]], places: int, stop: asyncio.Event
    ) -> None:
        """Keep so many places busy with what ``take`` finds."""
        room = asyncio.Semaphore(places)
        while not stop.is_set():
            await room.acquire()
            entry = None if stop.is_set() else await self._taken(take)
            if entry is None:
                room.release()
                continue
            task = asyncio.create_task(self._work(entry))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            task.add_done_callback(lambda _: room.release())

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a job could not be settled: %s", place_of(error))

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _next_urgent(self) -> QueueEntry | None:
        return await self._queue.take(_TAKE_WAIT_S, (Priority.STAT,))

    async def _next_entry(self) -> QueueEntry | None:
        if left := await self._abandoned():
            return left
        entry = await self._queue.take(_TAKE_WAIT_S, self._turns.order)
        if entry is not None:
            self._turns.begun(entry.priority)
        return entry

    async def _taken(self, take: Callable[[], Awaitable[QueueEntry | None]]) -> QueueEntry | None:
        """Take an entry, once everything that a study needs is there.

        Else an outage would use up the tries of one study after the other.
        """
        try:
            if self._doubtful:
                await self._check_pipeline()
            return await take()
        except Transient as error:
            _LOG.warning("no work is taken: %s", error)
            await asyncio.sleep(_AWAY_PAUSE_S)
            return None

    async def _check_pipeline(self) -> None:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await self._pipeline.check()
        except TimeoutError as error:
            raise Transient("A part of the system does not answer.") from error
        self._doubtful = False

    async def _abandoned(self) -> QueueEntry | None:
        """Now and then take over what a worker that died had in hand."""
        now = asyncio.get_running_loop().time()
        if now < self._next_reclaim:
            return None
        entry = await self._queue.reclaim(self._settings.lease_s)
        if entry is None:
            self._next_reclaim = now + self._settings.lease_s / 6
        return entry

    async def _work(self, entry: QueueEntry) -> None:
        reach(Step.ENTRY_TAKEN)
        job = await self._claimed(entry)
        if job is None:
            return
        reach(Step.CLAIMED)
        self._metrics.claimed(job)
        _LOG.info("job=%s attempt=%d claimed", job.id, job.attempt)
        progress = Progress()
        processing = asyncio.create_task(self._pipeline.process(job, progress))
        beating = asyncio.create_task(self._beat(job, entry, progress))
        try:
            await asyncio.wait({processing, beating}, return_when=asyncio.FIRST_COMPLETED)
            beating.cancel()
            processing.cancel()
            await self._settle(job, processing, progress)
            await self._queue.ack(entry)
            reach(Step.ACKED)
        except asyncio.CancelledError:
            processing.cancel()
            await asyncio.gather(processing, return_exceptions=True)
            with contextlib.suppress(ClientError):
                await asyncio.shield(self._ledger.release(job, progress.spending.costs()))
                await asyncio.shield(self._queue.ack(entry))
            raise
        finally:
            self._metrics.put_down(job)
            for cost in progress.spending.costs():
                self._metrics.cost("cpu", cost.model, cost.cpu_us / 1e6)
                self._metrics.cost("engine", cost.model, cost.engine_us / 1e6)
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _claimed(self, entry: QueueEntry) -> Job | None:
        """Return the entry's job once it is ours; None when there is nothing to do for us."""
        await self._tell()
        try:
            return await self._ledger.claim(
                entry.job_id, self._settings.owner, self._settings.lease_s
            )
        except (LeaseLost, NotFound):
            await self._queue.ack(entry)
        except Transient as error:
            # The entry stays taken until it can be reclaimed; our place, until the pause is over.
            _LOG.warning("job=%s cannot be claimed: %s", entry.job_id, error)
            await asyncio.sleep(_AWAY_PAUSE_S)
        return None

    async def _beat(self, job: Job, entry: QueueEntry, progress: Progress) -> None:
        """Keep the job ours; ends only when it no longer is."""
        pause_s = min(_BEAT_S, self._settings.lease_s / 3)
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._ledger.heartbeat(
                    job, progress.stage, progress.fraction, self._settings.lease_s
                )
                await self._queue.touch(entry)
            except LeaseLost:
                _LOG.warning("job=%s attempt=%d lost", job.id, job.attempt)
                return
            except Transient as error:
                _LOG.warning("job=%s heartbeat missed: %s", job.id, error)

    async def _settle(
        self, job: Job, processing: asyncio.Task[JobResult], progress: Progress
    ) -> None:
        """Enter the outcome into the ledger; a job that is no longer ours is dropped."""
        result: JobResult | None = None
        costs = progress.spending.costs
        try:
            result = stored = await processing
            await self._tell()
            await self._entered(lambda: self._ledger.finish(job, stored, costs()))
            reach(Step.RESULT_COMMITTED)
            outcome = Outcome("done")
        except Rejected as error:
            code, reason = error.code, error.reason
            outcome = Outcome("rejected", code)
            with contextlib.suppress(LeaseLost):
                await self._entered(lambda: self._ledger.reject(job, code, reason, costs=costs()))
        except Erased as error:
            reason, outcome = str(error), Outcome("failed", RefusalCode.ERASED)
            with contextlib.suppress(LeaseLost):
                await self._entered(
                    lambda: self._ledger.fail(job, RefusalCode.ERASED, reason, costs())
                )
        except LeaseLost:
            outcome = await self._drop(job, result)
        except asyncio.CancelledError:
            if not processing.cancelled():
                raise  # we are being stopped; the write may have been done, so nothing is deleted
            outcome = Outcome("lost")
        except Transient as error:
            self._doubtful = True
            outcome = await self._retry(job, str(error), costs())
        except Exception as error:
            outcome = await self._retry(job, f"Internal error: {place_of(error)}.", costs())
        self._metrics.ended(job, outcome.name, outcome.code, progress)
        self._say(job, outcome, progress)

    @staticmethod
    def _say(job: Job, outcome: Outcome, progress: Progress) -> None:
        told = {"outcome": outcome.name, "code": outcome.code, "model": progress.model}
        spent = " ".join(f"{stage}_s={seconds}" for stage, seconds in progress.timings_s.items())
        _LOG.info(
            "job=%s attempt=%d %s %s",
            *(job.id, job.attempt, outcome, spent),
            extra={"fields": {**told, "stages_s": progress.timings_s}},
        )

    async def _entered(self, write: Callable[[], Awaitable[Job]]) -> Job:
        """Write to the ledger, again and again while it is away and the lease may last."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._settings.lease_s
        while True:
            try:
                after = await write()
            except Transient as error:
                if loop.time() + _AWAY_PAUSE_S > give_up:
                    raise
                _LOG.warning("an outcome waits to be entered: %s", error)
            else:
                self._metrics.entered(after)
                if after.finished:
                    await self._tell_end(after)
                return after
            await asyncio.sleep(_AWAY_PAUSE_S)

    async def _tell_end(self, job: Job) -> None:
        """Who waits for the job hears it now; otherwise a moment later from the ledger."""
        try:
            await self._queue.tell_end(job.id)
        except ClientError as error:
            _LOG.warning("job=%s its end cannot be told: %s", job.id, error)

    async def _drop(self, job: Job, result: JobResult | None) -> Outcome:
        """Delete a result that came too late."""
        if result is None:
            return Outcome("lost")
        if (await self._ledger.get(job.id)).result_key == result.stored.key:
            return Outcome("done")  # entered before, and only the ledger's answer was lost
        await self._store.delete(result.stored.key)
        return Outcome("lost")

    async def _retry(self, job: Job, reason: str, costs: Sequence[AttemptCost]) -> Outcome:
        _LOG.warning("job=%s attempt=%d failed: %s", job.id, job.attempt, reason)
        delay_s = retry_delay_s(job.attempt, _CHANCE.random())
        with contextlib.suppress(LeaseLost):
            after = await self._entered(lambda: self._ledger.retry(job, reason, delay_s, costs))
            return Outcome("dead", after.code) if after.finished else Outcome("retried")
        return Outcome("lost")

"""Senders that never give up: each hands in small studies, one by one, and fetches the results.

small_study(n) ──submit until acknowledged──▶ wait until done ──▶ fetch ──▶ is it n's own?
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from client.dicom.readback import source_series_uid
from client.errors import ClientError, Transient
from client.ingest.sender import IngestClient
from client.jobs import Job, JobState, Priority
from tests.dicom_factory import ORIENTATIONS, Recipe, classic_files, numbered_volume
from tests.faults.journal import Journal

__all__ = ("Load", "Shape", "check_result", "patient_id", "sending", "series_uid", "small_study")

T = TypeVar("T")
Shape = tuple[int, int, int]
_SHAPE: Shape = (3, 24, 28)
_STAT_EACH = 5
_PAUSE_S = 0.2
_LOOK_S = 5.0


def small_study(number: int, shape: Shape = _SHAPE) -> list[bytes]:
    """Return a head MR of 20 cm, different for each number; without a shape, the smallest."""
    volume = numbered_volume(*shape) % 700 + number
    recipe = Recipe(
        volume=volume.astype("int16"),
        orientation=list(ORIENTATIONS.values())[number % len(ORIENTATIONS)],
        spacing_mm=(200.0 / shape[1], 200.0 / shape[1]),
        distance_mm=4.0,
        series=number + 1,
        attributes={"BodyPartExamined": "HEAD", "PatientID": patient_id(number)},
    )
    return [content for _, content in classic_files(recipe)]


def patient_id(number: int) -> str:
    """Return whose study it is; each is another patient's."""
    return f"CHAOS{number}"


def series_uid(number: int) -> str:
    """Return the Series Instance UID of ``small_study(number)``."""
    return f"1.2.826.0.1.77.{number + 1}"


def check_result(files: dict[str, bytes], number: int) -> None:
    """Fail unless a result was made from that study."""
    uid = source_series_uid(files["segmentation-001.dcm"])
    assert uid == series_uid(number), f"expected the result of {series_uid(number)}, got {uid}"


class Load:
    """Several senders at work.

    Args:
        connect: Makes one sender's connection.
        journal: Where everything is noted.
        senders: Studies under way at one time.
        shape: Slices, rows and columns of each study; more makes uploads longer.
        first: Number of the first study.
    """

    def __init__(
        self,
        connect: Callable[[], IngestClient],
        journal: Journal,
        senders: int = 8,
        shape: Shape = _SHAPE,
        first: int = 0,
    ) -> None:
        self._connect = connect
        self.journal = journal
        self._senders = senders
        self._shape = shape
        self._numbers = itertools.count(first)
        self._stopping = asyncio.Event()
        self.acknowledged = 0
        """Studies whose acknowledgement came."""
        self.done = 0
        """Studies whose result came."""

    async def run(self) -> None:
        """Send until ``stop``; what is acknowledged then is left to the judge."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._senders):
                group.create_task(self._send_many())

    def stop(self) -> None:
        """Begin no further study."""
        self._stopping.set()

    async def until_acknowledged(self, more: int, timeout_s: float = 120.0) -> None:
        """Return when so many more studies were acknowledged."""
        goal = self.acknowledged + more
        async with asyncio.timeout(timeout_s):
            while self.acknowledged < goal:
                await asyncio.sleep(0.05)

    async def hand_in(self) -> tuple[int, str]:
        """Send one study besides, and leave it alone; return its number and upload id."""
        number, upload_id = next(self._numbers), str(uuid.uuid4())
        async with self._connect() as client:
            await self._submit(client, number, upload_id)
        return number, upload_id

    async def _send_many(self) -> None:
        async with self._connect() as client:
            while not self._stopping.is_set():
                await self._send_one(client, next(self._numbers))

    async def _send_one(self, client: IngestClient, number: int) -> None:
        upload_id = str(uuid.uuid4())
        try:
            job = await self._submit(client, number, upload_id)
            await self._collect(client, job, number)
        except ClientError as error:
            self.journal.note("refused", upload_id, answer=f"{type(error).__name__}: {error}")

    async def _submit(self, client: IngestClient, number: int, upload_id: str) -> Job:
        files = small_study(number, self._shape)
        priority = Priority.ROUTINE if number % _STAT_EACH else Priority.STAT
        self.journal.note("begun", upload_id, number=number)
        job = await self._insist(
            lambda: client.submit(files, priority=priority, upload_id=upload_id)
        )
        self.journal.note("acknowledged", upload_id, job_id=job.id)
        self.acknowledged += 1
        return job

    async def _collect(self, client: IngestClient, job: Job, number: int) -> None:
        job_id = job.id
        while not job.finished:
            if self._stopping.is_set():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    job = await self._insist(lambda: client.wait(job_id))
        if job.state is JobState.DONE:
            check_result(await self._insist(lambda: client.fetch(job)), number)
            self.journal.note("fetched", job.upload_id)
            self.done += 1

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Transient:
                await asyncio.sleep(_PAUSE_S)


@contextlib.asynccontextmanager
async def sending(load: Load) -> AsyncIterator[Load]:
    """Keep the senders at work; at the end every study that was begun is acknowledged."""
    running = asyncio.create_task(load.run())
    try:
        yield load
    except BaseException:
        running.cancel()
        raise
    finally:
        load.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await running

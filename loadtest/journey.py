"""The whole way: DICOM files on disk to the decrypted result in memory, through the local stack.

files ─▶ encrypt ─gRPC▶ gateway ▶ store ▶ queue ▶ worker ▶ Triton ▶ store ─gRPC▶ decrypt ─▶ result
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from client.crypto.keydirectory import KeyDirectory
from client.errors import Transient
from client.ingest.sender import IngestClient, SenderSettings
from client.jobs import Job, JobState, Priority
from client.settings import Settings
from loadtest.loads import WHOLE
from loadtest.material import Material
from loadtest.processes import stack_processes
from loadtest.ways import Work

__all__ = ("WholeWay",)


class WholeWay:
    """Sends the same study again and again; an async context manager that owns its connection.

    Args:
        settings: Of the running stack.
        material: The study.
    """

    name = WHOLE

    def __init__(self, settings: Settings, material: Material) -> None:
        keys = KeyDirectory(Path(settings.keys))
        self._settings = settings
        self._material = material
        self._client = IngestClient(
            SenderSettings(
                settings.gateway,
                settings.tenant,
                keys.sender_tls(settings.tenant),
                keys.result_keys(settings.tenant),
                keys.pseudonym_key(settings.tenant),
            )
        )
        self.segmentation = b""
        """The DICOM SEG of the last study."""

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    def processes(self) -> Mapping[str, int]:
        """This process as the sender, and the whole stack."""
        return {"client": os.getpid(), **stack_processes(self._settings)}

    async def run(self, in_flight: int) -> Work:
        """See ``Way.run``.

        Raises:
            Transient: A study did not end well.
        """
        stages = await asyncio.gather(*(self._one_study() for _ in range(in_flight)))
        return Work(
            slices=in_flight * self._material.slices,
            latencies_s=tuple(sum(each.values()) for each in stages),
            stages_s=_means(stages),
        )

    async def time_one(self, priority: Priority) -> float:
        """Seconds of one study, from the first byte read to the result decrypted.

        Raises:
            Transient: The study did not end well.
        """
        return sum((await self._one_study(priority)).values())

    async def _one_study(self, priority: Priority = Priority.ROUTINE) -> dict[str, float]:
        """Wall seconds by stage; together they are the whole time."""
        began = time.perf_counter()
        job = await self.submit(priority)
        sent = time.perf_counter()
        job = await self.finished(job)
        ended = time.perf_counter()
        files = await self._client.fetch(job)
        opened = time.perf_counter()
        self.segmentation = next(files[name] for name in sorted(files) if name.endswith(".dcm"))
        worker: dict[str, float] = json.loads(files["measurements.json"])["stages_s"]
        return {
            "encrypt, send": sent - began,
            **{f"worker: {stage}": seconds for stage, seconds in worker.items()},
            "queue, store, tell": ended - sent - sum(worker.values()),
            "get, decrypt": opened - ended,
        }

    async def submit(self, priority: Priority = Priority.ROUTINE) -> Job:
        """Hands the study in once more, as new work, not for the answer of the last time."""
        return await self._client.submit(
            self._material.files, priority=priority, process_again=True
        )

    async def finished(self, job: Job) -> Job:
        """Waits for a study.

        Raises:
            Transient: It did not end well.
        """
        job = await self._client.wait(job.id)
        if job.state is not JobState.DONE:
            raise Transient(f"Expected a result, but the study ended {job.state}: {job.reason}")
        return job


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in each for name in one)
    return {name: fmean(one.get(name, 0.0) for one in each) for name in names}

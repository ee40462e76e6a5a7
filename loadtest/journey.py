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
from client.jobs import JobState
from client.settings import Settings
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

    name = "whole way"

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

    async def _one_study(self) -> dict[str, float]:
        """Wall seconds by stage; together they are the whole time."""
        began = time.perf_counter()
        # The same study again must be work again, not the answer of the last time.
        job = await self._client.submit(self._material.files, process_again=True)
        sent = time.perf_counter()
        job = await self._client.wait(job.id)
        if job.state is not JobState.DONE:
            raise Transient(f"Expected a result, but the study ended {job.state}: {job.reason}")
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


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(one[name] for one in each) for name in each[0]}

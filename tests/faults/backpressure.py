"""What the gateway does when far more is offered than it can pass on: a store that stands still.

senders ──16 studies of 128 MiB──▶ gateway ──▶ S3 server (frozen)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from client.cli.sending import sender_settings
from client.errors import Busy, ClientError, Transient
from client.ingest.sender import IngestClient
from tests.faults.spoiling import Memory, watched_memory
from tests.faults.stand import Stand, stand
from tests.faults.surroundings import surroundings

__all__ = ("Pressure", "press")

_STUDY_BYTES = 128 << 20
_WARM_UP_BYTES = 12 << 20
_FROZEN_S = 20.0
_GIVE_UP_S = 240.0


@dataclass
class Pressure:
    """What was seen.

    Attributes:
        studies: Studies that were offered at the same time.
        offered_bytes: All of them.
        acknowledged: Studies that got in once the store went on.
        hint_s: Longest pause that a sender was told to make.
        restarts: Of the gateway.
        memory: Of the gateway; ``first_bytes`` before the studies came.
        seconds: Until all were in.
    """

    studies: int
    offered_bytes: int
    memory: Memory
    acknowledged: int = 0
    hint_s: float = 0.0
    restarts: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


async def press(folder: Path, studies: int) -> Pressure:
    """Offer so many large studies at once while the store stands still, then let it go on."""
    began = time.monotonic()
    content = folder / "study.bin"
    content.write_bytes(os.urandom(1 << 20) * (_STUDY_BYTES >> 20))
    with surroundings(folder, database=False, store=True) as around:
        assert around.store is not None
        async with stand(folder, around) as running:
            await _warm_up(running)
            async with watched_memory(running) as memory:
                await asyncio.sleep(1.0)
                pressure = Pressure(studies, studies * content.stat().st_size, memory)
                gateway = running.service_pid("gateway")
                with around.store.silenced():
                    offers = [
                        asyncio.create_task(_offer(running, content, number, pressure))
                        for number in range(studies)
                    ]
                    await asyncio.sleep(_FROZEN_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GIVE_UP_S):
                        await asyncio.gather(*offers)
                pressure.restarts = int(gateway != running.service_pid("gateway"))
    content.unlink()
    pressure.seconds = round(time.monotonic() - began, 1)
    return pressure


async def _warm_up(running: Stand) -> None:
    """One study of several parts, so that what the gateway loads once is not counted."""
    async with running.client() as client:
        await client.submit([os.urandom(_WARM_UP_BYTES)])


async def _offer(running: Stand, content: Path, number: int, pressure: Pressure) -> None:
    """Hand in one study, and note what a sender is told that comes at a full gateway."""
    upload_id = str(uuid.uuid4())
    async with _hasty_client(running) as client:
        while True:
            try:
                await client.submit([content, os.urandom(1 << 10)], upload_id=upload_id)
            except Busy as error:
                pressure.hint_s = max(pressure.hint_s, error.retry_after_s)
                await asyncio.sleep(error.retry_after_s)
            except Transient:
                await asyncio.sleep(1.0)
            except ClientError as error:
                raise AssertionError(f"study {number} was refused: {error}") from error
            else:
                pressure.acknowledged += 1
                return


def _hasty_client(running: Stand) -> IngestClient:
    """A sender that tells of each answer instead of trying again by itself."""
    return IngestClient(replace(sender_settings(running.settings), attempts=1))

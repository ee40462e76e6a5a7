"""Chooses how slices travel to a server: by shared memory where that works, else in messages.

first request ─▶ region opened by the server, masks found in it ─▶ shared memory from then on
                         └─ no ─▶ the same request as a message, and another try after a while
"""

from __future__ import annotations

import asyncio
import logging

import grpc
import numpy as np
from numpy.typing import NDArray

from client.triton.server import worker_headers
from client.triton.transport import Inputs, Messages, SharedMemory, TooLarge, Unsuited
from preprocess.spec import ModelSpec

__all__ = ("Carrier",)

_LOG = logging.getLogger(__name__)
RETRY_S = 60.0
"""Until shared memory is tried again: the server may have been replaced, or the machine's freed."""


class Carrier:
    """Carries requests for one model over one connection.

    Nothing is sent by shared memory and taken for granted: every answer is proven to lie there, and
    a request that cannot go this way goes as a message instead.

    Args:
        channel: To the server.
        spec: The model.
        worker_key: Opens the server's shared memory; empty: it is not tried.
    """

    def __init__(self, channel: grpc.aio.Channel, spec: ModelSpec, worker_key: str) -> None:
        self._name = spec.name
        self._messages = Messages(channel, spec)
        self._memory = (
            SharedMemory(channel, spec, tuple(worker_headers(worker_key).items()))
            if worker_key
            else None
        )
        self._again_at = 0.0
        self._way = ""

    @property
    def way(self) -> str:
        """How the last request travelled: ``shared memory``, ``messages`` or "" before any."""
        return self._way

    async def infer(self, inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        """See ``Transport.infer``; never ``Unsuited``."""
        now = asyncio.get_running_loop().time()
        why = "no key"
        if self._memory is not None and now >= self._again_at:
            try:
                await self._memory.infer(inputs, masks, timeout_s)
            except TooLarge:
                await self._messages.infer(inputs, masks, timeout_s)
                return
            except Unsuited as error:
                why = str(error)
            else:
                self._travelled("shared memory", "the server sees it")
                return
        await self._messages.infer(inputs, masks, timeout_s)
        if self._memory is None or now >= self._again_at:
            self._travelled("messages", why)
            self._again_at = now + RETRY_S

    async def close(self) -> None:
        """Gives back what the server has open."""
        if self._memory is not None:
            await self._memory.close()

    def _travelled(self, way: str, why: str) -> None:
        if way != self._way:
            _LOG.info("model=%s slices travel by %s: %s", self._name, way, why)
            self._way = way

"""What one attempt at a study takes, and the rows of the ledger that tell of it.

CpuUse, EngineUse of each model, bytes from and to the store ──▶ AttemptCost, one for each model
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from client.ledger.records import AttemptCost
from client.triton.inference import ModelIdentity
from client.triton.occupancy import EngineUse
from client.worker.cputime import CpuUse

__all__ = ("Spending",)


class Spending:
    """What one attempt has taken so far; what failed has cost as well.

    Attributes:
        cpu: The worker's cores.
        fetched_bytes: Read from the object store.
        stored_bytes: Written to it.
    """

    def __init__(self) -> None:
        self.cpu = CpuUse()
        self.fetched_bytes = 0
        self.stored_bytes = 0
        self._engines: dict[str, tuple[ModelIdentity, EngineUse]] = {}

    async def fetched(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Hand chunks on and count them, also those before a failure."""
        async for chunk in chunks:
            self.fetched_bytes += len(chunk)
            yield chunk

    def engine(self, identity: ModelIdentity) -> EngineUse:
        """Return what the slices of a model are added to; its last version counts for all."""
        use = self._engines[identity.name][1] if identity.name in self._engines else EngineUse()
        self._engines[identity.name] = identity, use
        return use

    def costs(self) -> tuple[AttemptCost, ...]:
        """Return the rows: one for each model, or one without a model.

        What belongs to the attempt as a whole is shared among its models by their slices.
        """
        cpu_us = round(self.cpu.seconds * 1e6)
        if not self._engines:
            return (
                AttemptCost("", "", "", "", 0, 0, cpu_us, self.fetched_bytes, self.stored_bytes),
            )
        used = [self._engines[name] for name in sorted(self._engines)]
        slices = [use.slices for _, use in used]
        whole = (cpu_us, self.fetched_bytes, self.stored_bytes)
        parts = zip(*(_divided(amount, slices) for amount in whole), strict=True)
        return tuple(
            _row(identity, use, *part) for (identity, use), part in zip(used, parts, strict=True)
        )


def _row(
    identity: ModelIdentity, use: EngineUse, cpu_us: int, fetched: int, stored: int
) -> AttemptCost:
    return AttemptCost(
        model=identity.name,
        version=identity.version,
        engine=identity.engine,
        device=identity.device,
        slices=use.slices,
        engine_us=round(use.seconds * 1e6),
        cpu_us=cpu_us,
        fetched_bytes=fetched,
        stored_bytes=stored,
    )


def _divided(amount: int, weights: list[int]) -> list[int]:
    """Divide a whole number by weights; the first gets what does not divide."""
    total = sum(weights)
    if not total:
        return [amount, *(0 for _ in weights[1:])]
    parts = [amount * weight // total for weight in weights]
    parts[0] += amount - sum(parts)
    return parts

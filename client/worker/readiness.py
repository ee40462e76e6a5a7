"""Whether a worker may be counted on: everything that a study needs is there, models included.

models in service == newest in the repository ▸ ledger ▸ queue ▸ now and then vault and store
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from client.errors import ConfigurationError, Transient
from client.jobqueue.base import JobQueue
from client.ledger.records import ServedModel

__all__ = ("Readiness",)

_DEEP_S = 60.0


class _Pipeline(Protocol):
    async def check(self) -> None: ...

    async def serving(self) -> Sequence[ServedModel]: ...


class Readiness:
    """Looks at everything a study needs, cheaply each time and thoroughly once a minute.

    Args:
        pipeline: Asked for the models in service, and for vault and store.
        ping_ledger: Asks the ledger for a sign of life.
        queue: Asked for its length.
        repository: The model repository, whose newest networks must be in service.
        deep_s: Between two looks at vault and store; the store is written to.
    """

    def __init__(
        self,
        pipeline: _Pipeline,
        ping_ledger: Callable[[], Awaitable[None]],
        queue: JobQueue,
        repository: Path,
        *,
        deep_s: float = _DEEP_S,
    ) -> None:
        self._pipeline = pipeline
        self._ping_ledger = ping_ledger
        self._queue = queue
        self._repository = repository
        self._deep_s = deep_s
        self._next_deep = 0.0

    async def check(self) -> None:
        """Return when the worker is ready.

        Raises:
            Transient: A part is away, or the models in service are not those in the repository.
            ConfigurationError: A part refuses us, or a model is not served as described.
        """
        await self._check_models(await self._pipeline.serving())
        await self._ping_ledger()
        await self._queue.size()
        now = asyncio.get_running_loop().time()
        if now >= self._next_deep:
            await self._pipeline.check()
            self._next_deep = now + self._deep_s  # only once it went well: else again next time

    async def _check_models(self, serving: Iterable[ServedModel]) -> None:
        for model in serving:
            newest = await asyncio.to_thread(_newest_version, self._repository, model.name)
            if model.version != newest:
                raise Transient(
                    f"Expected version {newest} of {model.name} in service, as in the repository; "
                    f"got {model.version}."
                )


def _newest_version(repository: Path, model: str) -> str:
    folder = repository / f"{model}_net"
    try:
        versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    except OSError as error:
        raise ConfigurationError(f"Cannot read {folder}: {error.strerror}.") from error
    if not versions:
        raise ConfigurationError(f"{folder} has no version of the network.")
    return str(max(versions))

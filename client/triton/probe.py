"""A synthetic inference: the only answer that proves that a model works.

Triton's ready endpoint and repository index go on saying READY after a Python model has died.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.errors import Transient
from client.triton.inference import TritonModel, TritonModelSettings
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan, plan_series
from preprocess.spec import ModelSpec

__all__ = ("Probe", "probe", "synthetic_series")

SIDE = 64


def synthetic_series(spec: ModelSpec) -> tuple[SeriesPlan, NDArray[np.int16]]:
    """One small slice of a bright disc on a dark ground, and its plan."""
    y, x = np.ogrid[:SIDE, :SIDE]
    distance = np.hypot(y - SIDE / 2, x - SIDE / 2)
    stored = np.where(distance < SIDE / 3, 800, 50).astype(np.int16)[None]
    grid = SliceGeometry(SIDE, SIDE, 2.0, 2.0, (1, 0, 0, 0, 1, 0))
    return plan_series(spec, stored, grid), stored


class Probe:
    """Sends a model the synthetic slice; an async context manager that keeps its connection.

    Args:
        url: host:port of Triton's gRPC service.
        spec: The model.
        timeout_s: How long one inference may take.
    """

    def __init__(self, url: str, spec: ModelSpec, timeout_s: float) -> None:
        settings = TritonModelSettings(url, request_timeout_s=timeout_s, retry_for_s=0)
        self._model = TritonModel(spec, settings)
        self._spec = spec
        self._series = synthetic_series(spec)

    async def __aenter__(self) -> Self:
        await self._model.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._model.__aexit__(kind, error, trace)

    async def send(self) -> None:
        """Sends it once.

        Raises:
            Transient: The server is away, or the model did not answer properly.
            ConfigurationError: The server does not serve this model as described.
        """
        mask = await self._model.segment(*self._series)
        if int(mask.max()) > len(self._spec.segments):
            raise Transient(
                f"{self._spec.name} answered with class {mask.max()}, which it does not have."
            )


async def probe(url: str, spec: ModelSpec, timeout_s: float = 10.0) -> None:
    """Sends the synthetic slice once; see ``Probe``."""
    async with Probe(url, spec, timeout_s) as once:
        await once.send()

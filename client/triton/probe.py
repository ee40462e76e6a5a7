"""A synthetic inference: the only answer that proves that a model works.

Triton's ready endpoint and repository index go on saying READY after a Python model has died.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.errors import Transient
from client.triton.inference import TritonModel, TritonModelSettings
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan, plan_series
from preprocess.spec import ModelSpec

__all__ = ("probe", "synthetic_series")

SIDE = 64


def synthetic_series(spec: ModelSpec) -> tuple[SeriesPlan, NDArray[np.int16]]:
    """One small slice of a bright disc on a dark ground, and its plan."""
    y, x = np.ogrid[:SIDE, :SIDE]
    distance = np.hypot(y - SIDE / 2, x - SIDE / 2)
    stored = np.where(distance < SIDE / 3, 800, 50).astype(np.int16)[None]
    grid = SliceGeometry(SIDE, SIDE, 2.0, 2.0, (1, 0, 0, 0, 1, 0))
    return plan_series(spec, stored, grid), stored


async def probe(url: str, spec: ModelSpec, timeout_s: float = 10.0) -> None:
    """Sends the synthetic slice once.

    Raises:
        Transient: The server is away, or the model did not answer properly.
        ConfigurationError: The server does not serve this model as described.
    """
    plan, slices = synthetic_series(spec)
    settings = TritonModelSettings(url, request_timeout_s=timeout_s, retry_for_s=0)
    async with TritonModel(spec, settings) as model:
        mask = await model.segment(plan, slices)
    if int(mask.max()) > len(spec.segments):
        raise Transient(f"{spec.name} answered with class {mask.max()}, which it does not have.")

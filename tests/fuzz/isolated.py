"""Reads mutated files as the worker does: bundled, in an isolated child with limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from random import Random

import numpy as np

from client.errors import Rejected
from client.ingest.bundle import study_bundle
from client.limits import BundleLimits, ReadLimits
from client.worker.isolation import Isolation, preload
from client.worker.reading import read_bundle_study
from tests.fuzz.mutations import mutate_file
from tests.fuzz.seeds import dicom_seeds
from tests.fuzz.tally import ACCEPTED

__all__ = ("mutated_files", "read_isolated")

_MODALITIES = frozenset({"CT", "MR"})
NO_ROOM = np.empty(0, np.uint8)
_TIMEOUT_S = 60.0
_MEMORY_BYTES = 4 << 30
"""Address space: shared libraries take 2 GiB of it."""


def mutated_files(count: int, seed: int) -> list[bytes]:
    """So many broken files, the same for the same seed."""
    rng, seeds = Random(seed), dicom_seeds()
    return [mutate_file(rng.choice(seeds), rng) for _ in range(count)]


def read_isolated(files: Iterable[bytes]) -> Counter[str]:
    """Read each file as a study; how often each code, or ``ACCEPTED``, was the answer."""

    preload(["__main__", "client.worker.reading"])

    async def read_all() -> Counter[str]:
        isolation = Isolation(_TIMEOUT_S, _MEMORY_BYTES)
        return Counter([await _answer(isolation, content) for content in files])

    return asyncio.run(read_all())


async def _answer(isolation: Isolation, content: bytes) -> str:
    bundle = np.frombuffer(bytearray(b"".join(study_bundle([content]).chunks())), np.uint8)
    try:
        study, _ = await isolation.run(
            (), read_bundle_study, bundle, NO_ROOM, BundleLimits(), ReadLimits(), _MODALITIES
        )
    except Rejected as refusal:
        return refusal.code
    return study.refusals[0].code if study.refusals else ACCEPTED

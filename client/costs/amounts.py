"""What was used, in whole numbers, so that no sum ever rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import NamedTuple

__all__ = ("Amounts", "Engine")


class Engine(NamedTuple):
    """What ran networks: ``gpu`` or ``cpu``, and its name as the models' configuration has it."""

    device: str
    name: str


@dataclass(frozen=True, slots=True)
class Amounts:
    """Everything that has a price, and what the reader of a report must know beside it.

    Attributes:
        studies: Studies that came in.
        attempts: Attempts that ended and said what they took.
        unaccounted: Attempts that ended without a word, as when a worker was killed.
        slices: That networks answered.
        engine_us: Microseconds of each engine.
        cpu_us: Microseconds of workers' cores.
        received_bytes: From senders.
        sent_bytes: To senders.
        fetched_bytes: From the object store to workers.
        kept_byte_us: Bytes in the object store, times the microseconds that they lay there.
    """

    studies: int = 0
    attempts: int = 0
    unaccounted: int = 0
    slices: int = 0
    engine_us: Mapping[Engine, int] = field(default_factory=lambda: MappingProxyType({}))
    cpu_us: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    fetched_bytes: int = 0
    kept_byte_us: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        whole = {
            one.name: getattr(self, one.name) + getattr(other, one.name)
            for one in fields(self)
            if one.name != "engine_us"
        }
        engines = dict(self.engine_us)
        for engine, used_us in other.engine_us.items():
            engines[engine] = engines.get(engine, 0) + used_us
        return Amounts(engine_us=MappingProxyType(engines), **whole)

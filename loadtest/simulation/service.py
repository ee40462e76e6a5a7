"""How long a study occupies a pod, from a file of measured service times.

hounsfield.service/1 ─▶ seconds alone by slices ─▶ speed of n studies that share a pod

A pod is a server that its studies share: with n in work each goes on at ``gain(n) ÷ n`` of its
speed alone, where ``gain`` is the measured throughput with n in flight over that with one. STAT
studies get a larger share; how much larger is measured too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from client.errors import ConfigurationError

__all__ = ("SCHEMA", "KindTimes", "ServiceTimes", "read_service")

SCHEMA = "hounsfield.service/1"


@dataclass(frozen=True, eq=False)
class KindTimes:
    """One kind of study.

    Attributes:
        kind: Its name.
        slices: Of one study.
        bytes: Of one study, as sent.
        alone_s: Acknowledged ▶ ended with nothing else in work, median.
        refused: Whether such studies end as refused; their time does not grow with slices.
        per_s: Studies per second by studies in flight.
        stages_s: Wall seconds of the worker's stages, alone.
        cpu_s: CPU seconds of one study by process.
    """

    kind: str
    slices: int
    bytes: int
    alone_s: float
    refused: bool
    per_s: Mapping[int, float]
    stages_s: Mapping[str, float]
    cpu_s: Mapping[str, float]


@dataclass(frozen=True)
class ServiceTimes:
    """A file of service times.

    Attributes:
        source: Where the figures come from, in words.
        assumed: Whether they were assumed, not measured.
        kinds: At least one that is not refused.
        stat_weight: Share of a STAT study over that of a routine study in the same pod.
        places: ``studies_in_flight`` when it was measured.
    """

    source: str
    assumed: bool
    kinds: tuple[KindTimes, ...]
    stat_weight: float
    places: int

    @cached_property
    def _served(self) -> tuple[KindTimes, ...]:
        return tuple(sorted((k for k in self.kinds if not k.refused), key=lambda k: k.slices))

    @cached_property
    def _refused(self) -> tuple[KindTimes, ...]:
        return tuple(sorted((k for k in self.kinds if k.refused), key=lambda k: k.bytes))

    def alone_s(self, slices: int) -> float:
        """Seconds of a study alone, by its slices: linear between and beyond measured sizes."""
        times = [(kind.slices, kind.alone_s) for kind in self._served]
        return _along(times, slices)

    def refused_s(self, length: int) -> float:
        """Seconds of a study that is refused, by its bytes.

        Raises:
            ConfigurationError: No refused study was measured.
        """
        if not self._refused:
            raise ConfigurationError("Expected a refused kind of study in the service times.")
        return _along([(kind.bytes, kind.alone_s) for kind in self._refused], length)

    def gains(self, slices: int, most: int) -> tuple[float, ...]:
        """Throughput with 1 … ``most`` studies in work over that with one, by slices.

        Between measured numbers it is interpolated, beyond them it stays as it was.
        """
        return _gains(self._served, slices, most)


@lru_cache(maxsize=4096)
def _gains(kinds: tuple[KindTimes, ...], slices: int, most: int) -> tuple[float, ...]:
    gains = []
    for in_flight in range(1, most + 1):
        points = []
        for kind in kinds:
            measured = sorted(kind.per_s.items())
            rate = _along(measured, min(in_flight, measured[-1][0]))
            points.append((kind.slices, rate / kind.per_s[1]))
        inside = min(max(slices, points[0][0]), points[-1][0])
        gains.append(_along(points, inside))
    return tuple(gains)


def _along(points: Sequence[tuple[float, float]], at: float) -> float:
    """The broken line through the points; its first and last piece go on."""
    if len(points) == 1:
        return points[0][1]
    upper = next((n for n in range(1, len(points)) if at <= points[n][0]), len(points) - 1)
    (x0, y0), (x1, y1) = points[upper - 1], points[upper]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def read_service(path: Path) -> ServiceTimes:
    """Read a file of service times.

    Raises:
        ConfigurationError: It is missing or of another form.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Expected service times ({SCHEMA}) in {path}.") from error
    if found.get("schema") != SCHEMA:
        raise ConfigurationError(f"Expected {SCHEMA} in {path}, found {found.get('schema')}.")
    kinds = tuple(_kind(one) for one in found["kinds"])
    if all(kind.refused for kind in kinds):
        raise ConfigurationError(f"Expected a kind of study that is not refused in {path}.")
    return ServiceTimes(
        found["source"], bool(found["assumed"]), kinds, found["stat_weight"], found["places"]
    )


def _kind(one: Mapping[str, Any]) -> KindTimes:
    per_s = {int(n): float(rate) for n, rate in one["per_s"].items()}
    return KindTimes(
        one["kind"],
        one["slices"],
        one["bytes"],
        one["alone_s"],
        one["refused"],
        per_s,
        one["stages_s"],
        one["cpu_s"],
    )

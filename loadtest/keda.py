"""How many workers KEDA asks for: its triggers, 0 ↔ 1 by itself, 1 ↔ N through an HPA.

    queue ─XLEN / XPENDING / XINFO─▶ value ─▶ active? ── every 30 s ──▶ 0 ↔ 1   (KEDA)
                                       └─▶ ceil(value ÷ target) ─ 15 s ─▶ 1 ↔ N  (HPA)

After KEDA v2.20: ``pkg/scalers/redis_streams_scaler.go`` (which command the metadata chooses),
``pkg/scalers/cron_scaler.go``, ``pkg/scaling/executor/scale_scaledobjects.go`` (0 ↔ 1, cool-down,
fallback) and ``apis/keda/v1alpha1/scaledobject_types.go`` (defaults). The lag that a server does
not know is -1 in go-redis: not active.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from client.errors import ConfigurationError
from loadtest.crontime import WeeklyCron
from loadtest.hpa import DEFAULT_DOWN, DEFAULT_UP, HorizontalAutoscaler, Metric, Rules, rules_of

__all__ = (
    "UNKNOWN_LAG",
    "CronTrigger",
    "Fallback",
    "KedaAutoscaler",
    "Measure",
    "ScaledObject",
    "StreamTrigger",
    "read_scaled_object",
    "scaled_object_of",
)

UNKNOWN_LAG = -1.0
"""go-redis' reading of a null ``lag`` in XINFO GROUPS."""
_DEFAULT_ENTRIES = 5
_DEFAULT_MAX = 100


class Measure(StrEnum):
    """What a redis-streams trigger reads."""

    LENGTH = "XLEN"
    PENDING = "XPENDING"
    LAG = "XINFO GROUPS lag"


@dataclass(frozen=True)
class StreamTrigger:
    """A ``redis-streams`` trigger.

    Attributes:
        stream: Key of the stream.
        group: Consumer group; "" where none is named.
        measure: What is read.
        target: Entries for each pod.
        activation: It is active above this value.
    """

    stream: str
    group: str = ""
    measure: Measure = Measure.LENGTH
    target: int = _DEFAULT_ENTRIES
    activation: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> StreamTrigger:
        """Choose as the scaler does: no group ▶ length; group and lagCount ▶ lag; else pending."""
        group = metadata.get("consumerGroup", "")
        if not group:
            measure, key = Measure.LENGTH, "streamLength"
        elif "lagCount" in metadata:
            measure, key = Measure.LAG, "lagCount"
        else:
            measure, key = Measure.PENDING, "pendingEntriesCount"
        return cls(
            metadata["stream"],
            group,
            measure,
            int(metadata.get(key, _DEFAULT_ENTRIES)),
            int(metadata.get("activationLagCount", 0)),
        )

    def active(self, value: float | None) -> bool:
        """Whether this value wakes the deployment; an unread one does not."""
        return value is not None and value > self.activation

    def metric(self, value: float | None) -> Metric:
        """As the HPA sees it."""
        return Metric(value, self.target)


@dataclass(frozen=True)
class CronTrigger:
    """A ``cron`` trigger: so many replicas between two moments of the week."""

    start: WeeklyCron
    end: WeeklyCron
    replicas: int
    timezone: str = "UTC"

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> CronTrigger:
        """Read a trigger's metadata.

        Raises:
            ConfigurationError: A moment that is not one of the week.
        """
        return cls(
            WeeklyCron(metadata["start"]),
            WeeklyCron(metadata["end"]),
            int(metadata["desiredReplicas"]),
            metadata["timezone"],
        )

    def value_at(self, week_s: float) -> float:
        """Seconds since Monday 0:00, local ▶ replicas wanted; the scaler says 1 outside."""
        return float(self.replicas) if self.is_on(week_s) else 1.0

    def is_on(self, week_s: float) -> bool:
        """Whether the last start is later than the last end."""
        return self.start.since_s(week_s) < self.end.since_s(week_s)


@dataclass(frozen=True)
class Fallback:
    """Replicas when a trigger cannot be read ``failures`` times in a row."""

    replicas: int
    failures: int


@dataclass(frozen=True)
class ScaledObject:
    """The part of a ScaledObject that decides how many replicas there are.

    Attributes:
        streams: Its redis-streams triggers.
        crons: Its cron triggers.
        least: ``minReplicaCount``.
        most: ``maxReplicaCount``.
        polling_s: Between two looks while there are no pods, and at activity.
        cooldown_s: Without activity before the last pods go.
        fallback: None where nothing is said.
        up: The HPA's rules for more.
        down: The HPA's rules for fewer.
    """

    streams: tuple[StreamTrigger, ...]
    crons: tuple[CronTrigger, ...] = ()
    least: int = 0
    most: int = _DEFAULT_MAX
    polling_s: float = 30.0
    cooldown_s: float = 300.0
    fallback: Fallback | None = None
    up: Rules = field(default=DEFAULT_UP)
    down: Rules = field(default=DEFAULT_DOWN)


class KedaAutoscaler:
    """One ScaledObject at work: ``poll`` on KEDA's clock, ``sync`` on the HPA's.

    Args:
        spec: What is deployed.
    """

    def __init__(self, spec: ScaledObject) -> None:
        self.spec = spec
        self._hpa = HorizontalAutoscaler(max(1, spec.least), spec.most, spec.up, spec.down)
        self._last_active_s: float | None = None
        self._failures: dict[int, int] = {}

    def poll(
        self, now_s: float, replicas: int, values: Sequence[float | None], week_s: float = 0.0
    ) -> int:
        """Replicas after one look of KEDA's own.

        Args:
            now_s: The clock.
            replicas: Now.
            values: Of the stream triggers in their order; None: could not be read.
            week_s: Seconds since Monday 0:00 in the cron triggers' time zone.
        """
        spec = self.spec
        active = any(
            trigger.active(value) for trigger, value in zip(spec.streams, values, strict=True)
        ) or any(cron.is_on(week_s) for cron in spec.crons)
        if active:
            self._last_active_s = now_s
            return replicas or max(1, spec.least)
        if None in values:
            return spec.fallback.replicas if spec.fallback and spec.fallback.replicas else replicas
        if spec.least == 0:
            return 0 if self._cooled_down(now_s) else replicas
        return max(replicas, spec.least)

    def sync(
        self, now_s: float, replicas: int, values: Sequence[float | None], week_s: float = 0.0
    ) -> int:
        """Replicas after one look of the HPA; arguments as for ``poll``."""
        metrics = [
            self._with_fallback(number, trigger.metric(value), replicas)
            for number, (trigger, value) in enumerate(zip(self.spec.streams, values, strict=True))
        ]
        metrics += [Metric(cron.value_at(week_s), 1) for cron in self.spec.crons]
        return self._hpa.step(now_s, replicas, metrics)

    def _cooled_down(self, now_s: float) -> bool:
        last_s = self._last_active_s
        return last_s is None or last_s + self.spec.cooldown_s < now_s

    def _with_fallback(self, number: int, metric: Metric, replicas: int) -> Metric:
        """A trigger unread too often tells the HPA what the fallback wants."""
        if metric.value is not None or replicas == 0:
            self._failures[number] = 0
            return metric
        self._failures[number] = self._failures.get(number, 0) + 1
        fallback = self.spec.fallback
        if fallback is None or self._failures[number] <= fallback.failures:
            return metric
        return Metric(metric.target * fallback.replicas, metric.target)


def read_scaled_object(path: Path) -> ScaledObject:
    """Read the first ScaledObject of a manifest.

    Raises:
        ConfigurationError: There is none, or it says something that is not modelled here.
    """
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if document and document.get("kind") == "ScaledObject":
            return scaled_object_of(document["spec"])
    raise ConfigurationError(f"Expected a ScaledObject in {path}, found none.")


def scaled_object_of(spec: Mapping[str, Any]) -> ScaledObject:
    """Translate a ScaledObject's ``spec``.

    Raises:
        ConfigurationError: It says something that is not modelled here.
    """
    if "idleReplicaCount" in spec:
        raise ConfigurationError("Expected a ScaledObject without idleReplicaCount.")
    kinds = {trigger["type"] for trigger in spec["triggers"]}
    if unknown := kinds - {"redis-streams", "cron"}:
        raise ConfigurationError(f"Expected redis-streams and cron triggers, found {unknown}.")
    of_type: dict[str, list[dict[str, str]]] = {kind: [] for kind in ("redis-streams", "cron")}
    for trigger in spec["triggers"]:
        of_type[trigger["type"]].append(trigger["metadata"])
    advanced = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    behaviour = advanced.get("behavior", {})
    fallback = spec.get("fallback")
    return ScaledObject(
        streams=tuple(StreamTrigger.of(one) for one in of_type["redis-streams"]),
        crons=tuple(CronTrigger.of(one) for one in of_type["cron"]),
        least=int(spec.get("minReplicaCount", 0)),
        most=int(spec.get("maxReplicaCount", _DEFAULT_MAX)),
        polling_s=float(spec.get("pollingInterval", ScaledObject.polling_s)),
        cooldown_s=float(spec.get("cooldownPeriod", ScaledObject.cooldown_s)),
        fallback=fallback
        and Fallback(int(fallback["replicas"]), int(fallback["failureThreshold"])),
        up=rules_of(behaviour.get("scaleUp", {}), DEFAULT_UP),
        down=rules_of(behaviour.get("scaleDown", {}), DEFAULT_DOWN),
    )

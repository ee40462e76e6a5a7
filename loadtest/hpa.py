"""What Kubernetes' horizontal pod autoscaler asks for, as pure steps on a clock of ours.

    metrics ─▶ ceil(sum ÷ target), the largest ─▶ stabilised ─▶ rate limited ─▶ replicas

After Kubernetes 1.30, ``pkg/controller/podautoscaler``: ``replica_calculator.go`` (ratio,
tolerance, ceiling), ``horizontal.go`` (largest metric, stabilisation window, scaling policies).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from client.errors import ConfigurationError

__all__ = (
    "DEFAULT_DOWN",
    "DEFAULT_UP",
    "SYNC_S",
    "TOLERANCE",
    "HorizontalAutoscaler",
    "Metric",
    "PodMetricAutoscaler",
    "Policy",
    "Rules",
    "read_pod_metric_autoscaler",
    "replicas_for",
    "rules_of",
)

SYNC_S = 15.0
"""kube-controller-manager's ``--horizontal-pod-autoscaler-sync-period``."""
TOLERANCE = 0.1
"""Its ``--horizontal-pod-autoscaler-tolerance``."""


@dataclass(frozen=True)
class Metric:
    """One external metric at one moment.

    Attributes:
        value: Sum over its series; None where it could not be read.
        target: Of one pod, or of the mean where ``of_one_pod`` is false.
        of_one_pod: ``AverageValue`` (KEDA's default) as against ``Value``.
    """

    value: float | None
    target: float
    of_one_pod: bool = True


@dataclass(frozen=True)
class Policy:
    """How much may change in a period: ``value`` pods, or per cent of those at its start."""

    value: int
    period_s: float
    percent: bool = False


@dataclass(frozen=True)
class Rules:
    """One direction of an HPA's ``behavior``.

    Attributes:
        policies: At least one.
        window_s: Stabilisation window.
        most: Whether the policy that allows most counts (``Max``), as against least (``Min``).
    """

    policies: tuple[Policy, ...]
    window_s: float
    most: bool = True


DEFAULT_UP = Rules((Policy(4, 15), Policy(100, 15, percent=True)), 0)
DEFAULT_DOWN = Rules((Policy(100, 15, percent=True),), 300)
"""``pkg/apis/autoscaling/v2/defaults.go``."""


def replicas_for(metric: Metric, replicas: int, tolerance: float = TOLERANCE) -> int:
    """Replicas that one metric asks for; as many as now within the tolerance.

    Args:
        metric: With a value.
        replicas: Now, at least 1.
        tolerance: Relative change of the ratio that is not worth acting on.
    """
    value = metric.value or 0.0
    pods = replicas if metric.of_one_pod else 1
    ratio = value / (metric.target * pods)
    if abs(1.0 - ratio) <= tolerance:
        return replicas
    return math.ceil(value / metric.target * (1 if metric.of_one_pod else replicas))


class HorizontalAutoscaler:
    """One HPA object; remembers what the window and the policies look back at.

    Args:
        least: ``minReplicas``, at least 1.
        most: ``maxReplicas``.
        up: Rules for more.
        down: Rules for fewer.
        tolerance: See ``TOLERANCE``.
    """

    def __init__(
        self,
        least: int,
        most: int,
        up: Rules = DEFAULT_UP,
        down: Rules = DEFAULT_DOWN,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._least, self._most = least, most
        self._up, self._down = up, down
        self._tolerance = tolerance
        self._asked: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def step(self, now_s: float, replicas: int, metrics: Sequence[Metric]) -> int:
        """Replicas after one sync; none stays none, because an HPA is off there.

        Args:
            now_s: The clock; never goes back.
            replicas: Of the deployment now.
            metrics: Of every trigger.
        """
        if replicas == 0:
            return 0
        asked = self._largest(replicas, metrics)
        if asked is None:
            return replicas
        wanted = self._limited(now_s, replicas, self._stabilised(now_s, replicas, asked))
        if wanted != replicas:
            self._changes.append((now_s, wanted - replicas))
        return wanted

    def _largest(self, replicas: int, metrics: Iterable[Metric]) -> int | None:
        """None where nothing may be done: an unread metric forbids fewer pods, not more."""
        known = [one for one in metrics if one.value is not None]
        asked = max((replicas_for(one, replicas, self._tolerance) for one in known), default=None)
        complete = len(known) == len(list(metrics))
        if asked is None or (asked < replicas and not complete):
            return None
        return asked

    def _stabilised(self, now_s: float, replicas: int, asked: int) -> int:
        longest_s = max(self._up.window_s, self._down.window_s)
        while self._asked and self._asked[0][0] <= now_s - longest_s:
            self._asked.popleft()
        up = [n for at_s, n in self._asked if at_s > now_s - self._up.window_s]
        down = [n for at_s, n in self._asked if at_s > now_s - self._down.window_s]
        self._asked.append((now_s, asked))
        return min(max(replicas, min([asked, *up])), max([asked, *down]))

    def _limited(self, now_s: float, replicas: int, wanted: int) -> int:
        if wanted > replicas:
            wanted = min(wanted, max(replicas, self._bound(now_s, replicas, self._up, 1)))
        elif wanted < replicas:
            wanted = max(wanted, min(replicas, self._bound(now_s, replicas, self._down, -1)))
        return min(max(wanted, self._least), self._most)

    def _bound(self, now_s: float, replicas: int, rules: Rules, sign: int) -> int:
        """Replicas beyond which the policies do not let this sync go."""
        bounds = []
        for policy in rules.policies:
            start = replicas - self._changed(now_s - policy.period_s)
            if policy.percent:
                exact = start * (1 + sign * policy.value / 100)
                bounds.append(math.ceil(exact) if sign > 0 else int(exact))
            else:
                bounds.append(start + sign * policy.value)
        furthest = max(bounds) if sign > 0 else min(bounds)
        nearest = min(bounds) if sign > 0 else max(bounds)
        return furthest if rules.most else nearest

    def _changed(self, since_s: float) -> int:
        """Net change since then; a change exactly a period ago is over."""
        return sum(change for at_s, change in self._changes if at_s > since_s)


@dataclass(frozen=True)
class PodMetricAutoscaler:
    """An HPA object on one metric of its pods.

    Attributes:
        least: ``minReplicas``.
        most: ``maxReplicas``.
        target: ``averageValue``, in the metric's unit.
        up: Rules for more.
        down: Rules for fewer.
    """

    least: int
    most: int
    target: float
    up: Rules
    down: Rules


def read_pod_metric_autoscaler(path: Path) -> PodMetricAutoscaler:
    """Read the first HorizontalPodAutoscaler of a manifest.

    Raises:
        ConfigurationError: There is none, or it does not have one metric of type Pods.
    """
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if document and document.get("kind") == "HorizontalPodAutoscaler":
            spec = document["spec"]
            metrics = spec["metrics"]
            if [one["type"] for one in metrics] != ["Pods"]:
                raise ConfigurationError(f"Expected one metric of type Pods in {path}.")
            behaviour = spec.get("behavior", {})
            return PodMetricAutoscaler(
                int(spec.get("minReplicas", 1)),
                int(spec["maxReplicas"]),
                _quantity(str(metrics[0]["pods"]["target"]["averageValue"])),
                rules_of(behaviour.get("scaleUp", {}), DEFAULT_UP),
                rules_of(behaviour.get("scaleDown", {}), DEFAULT_DOWN),
            )
    raise ConfigurationError(f"Expected a HorizontalPodAutoscaler in {path}, found none.")


def rules_of(given: Mapping[str, Any], default: Rules) -> Rules:
    """One direction of ``behavior``; what is left out is Kubernetes' default, field by field.

    Raises:
        ConfigurationError: The direction is disabled.
    """
    select = given.get("selectPolicy", "Max")
    if select not in ("Max", "Min"):
        raise ConfigurationError(f"Expected selectPolicy Max or Min, found {select}.")
    policies = tuple(
        Policy(int(one["value"]), float(one["periodSeconds"]), one["type"] == "Percent")
        for one in given.get("policies", ())
    )
    window_s = float(given.get("stabilizationWindowSeconds", default.window_s))
    return Rules(policies or default.policies, window_s, select == "Max")


def _quantity(text: str) -> float:
    """A Kubernetes quantity in units or thousandths."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)

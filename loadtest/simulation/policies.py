"""Ways of deciding how many pods there are, side by side.

fixed      so many, always
keda       the queue's length: 0 ↔ 1 by KEDA, 1 ↔ N by its HPA (loadtest.keda)
floor      the same, with a floor of pods in working hours (a cron trigger)
latency    an HPA on Triton's mean queue time; at least one pod
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol

import simpy

from client.jobqueue.keys import STREAMS
from client.triton.backlog import MOST_WAIT_S
from loadtest.crontime import WeeklyCron
from loadtest.hpa import SYNC_S, HorizontalAutoscaler, Metric, PodMetricAutoscaler
from loadtest.keda import CronTrigger, KedaAutoscaler, ScaledObject
from loadtest.simulation.cluster import Cluster
from loadtest.simulation.pod import PodState

__all__ = ("Fixed", "Keda", "Latency", "Policy", "policies_side_by_side", "with_floor")

WEEKDAY_START, WEEKDAY_END = "0 6 * * 1-5", "0 20 * * 1-5"
_MEAN_OF_S = 60.0


class Policy(Protocol):
    """Decides how many pods there are."""

    @property
    def name(self) -> str:
        """For the tables."""
        ...

    @property
    def most(self) -> int:
        """Pods it may ask for."""
        ...

    def begin(self, cluster: Cluster) -> None:
        """Ask for the first pods and start deciding."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Always so many, ready from the beginning."""

    most: int

    @property
    def name(self) -> str:
        """For the tables."""
        return f"fixed {self.most}"

    def begin(self, cluster: Cluster) -> None:
        """All at once."""
        cluster.scale(self.most, start_s=0.0)


@dataclass(frozen=True)
class Keda:
    """KEDA as the manifest has it; the simulated day is a Monday.

    Attributes:
        spec: The ScaledObject.
        name: For the tables.
    """

    spec: ScaledObject
    name: str = "keda"

    @property
    def most(self) -> int:
        """Pods it may ask for."""
        return self.spec.most

    def begin(self, cluster: Cluster) -> None:
        """Two loops, on KEDA's clock and on the HPA's."""
        autoscaler = KedaAutoscaler(self.spec)

        def values() -> list[float | None]:
            by_stream = {STREAMS[one]: many for one, many in cluster.entries().items()}
            return [float(by_stream[trigger.stream]) for trigger in self.spec.streams]

        def poll() -> None:
            now = cluster.env.now
            cluster.scale(autoscaler.poll(now, cluster.replicas, values(), now))

        def sync() -> None:
            now = cluster.env.now
            cluster.scale(autoscaler.sync(now, cluster.replicas, values(), now))

        cluster.env.process(_every(cluster.env, self.spec.polling_s, poll))
        cluster.env.process(_every(cluster.env, SYNC_S, sync))


@dataclass(frozen=True)
class Latency:
    """An HPA on the mean time that requests waited in Triton in the last minute.

    A worker lets at most ``MOST_WAIT_S`` wait there, so the value is taken to be that in a pod
    with two studies or more and nothing in one with fewer.

    Attributes:
        spec: The HPA.
    """

    spec: PodMetricAutoscaler
    name: str = "latency"

    @property
    def most(self) -> int:
        """Pods it may ask for."""
        return self.spec.most

    def begin(self, cluster: Cluster) -> None:
        """One pod, and a loop on the HPA's clock."""
        spec = self.spec
        cluster.scale(spec.least, start_s=0.0)
        hpa = HorizontalAutoscaler(spec.least, spec.most, spec.up, spec.down)
        looks: deque[float] = deque(maxlen=round(_MEAN_OF_S / SYNC_S))

        def sync() -> None:
            ready = [pod for pod in cluster.pods if pod.state is PodState.READY]
            if ready:
                looks.append(MOST_WAIT_S * sum(len(pod.work) > 1 for pod in ready) / len(ready))
            value = fmean(looks) if looks else None
            metric = Metric(value, spec.target, of_one_pod=False)
            cluster.scale(hpa.step(cluster.env.now, cluster.replicas, [metric]))

        cluster.env.process(_every(cluster.env, SYNC_S, sync))


def with_floor(spec: ScaledObject, pods: int) -> ScaledObject:
    """The same with so many pods in working hours.

    Args:
        spec: The ScaledObject.
        pods: From 6:00 to 20:00, Monday to Friday.
    """
    floor = CronTrigger(WeeklyCron(WEEKDAY_START), WeeklyCron(WEEKDAY_END), pods)
    return replace(spec, crons=(floor,))


def policies_side_by_side(
    keda: ScaledObject, latency: PodMetricAutoscaler, fixed: int, most: int
) -> tuple[Policy, ...]:
    """What a capacity question compares.

    Args:
        keda: The ScaledObject; its own schedule is the floor where it has one.
        latency: The HPA on Triton's queue.
        fixed: Pods of the fixed fleet.
        most: Pods that the others may ask for, instead of what their manifests say.
    """
    limited = replace(keda, most=most)
    floor = limited if keda.crons else with_floor(limited, 1)
    return (
        Fixed(fixed),
        Keda(replace(limited, crons=())),
        Keda(floor, "keda + floor"),
        Latency(replace(latency, most=most)),
    )


def _every(env: simpy.Environment, period_s: float, act: Callable[[], None]) -> Any:
    while True:
        act()
        yield env.timeout(period_s)

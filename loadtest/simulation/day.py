"""One simulated day under one policy, and what came of it.

arrivals + policy ─▶ events until every study has ended ─▶ turnarounds, pod hours, use
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.simulation.cluster import Cluster, PodSettings
from loadtest.simulation.hospital import DAY_S, Arrival
from loadtest.simulation.pod import Study
from loadtest.simulation.policies import Policy
from loadtest.simulation.service import ServiceTimes

__all__ = ("DayOutcome", "simulate_day")

_LOOK_S = 60.0
_MOST_TIMES, _LEAST_SPAN_S = 8, 3600.0


@dataclass(frozen=True, eq=False)
class DayOutcome:
    """What one day came to.

    Attributes:
        studies: In the order of their end.
        hours_s: From the beginning until all had ended and ``least_s`` was over.
        pod_s: Seconds of all pods, from being asked for to gone.
        busy_s: Seconds of them with a study in work.
        most_pods: Highest number at a time.
        samples: Each minute: seconds, entries of the queue, pods asked for.
    """

    studies: Sequence[Study]
    hours_s: float
    pod_s: float
    busy_s: float
    most_pods: int
    samples: Sequence[tuple[float, int, int]]

    def turnarounds_s(self, priority: Priority | None = None) -> NDArray[np.float64]:
        """Acknowledged ▶ ended of one class, None: of all."""
        return np.array(
            [
                study.ended_s - study.arrived_s
                for study in self.studies
                if priority is None or study.priority is priority
            ]
        )


def simulate_day(
    arrivals: Sequence[Arrival],
    times: ServiceTimes,
    settings: PodSettings,
    policy: Policy,
    least_s: float = DAY_S,
) -> DayOutcome:
    """Runs until ``least_s`` is over and every study has ended.

    Args:
        arrivals: Sorted by time.
        times: Service times.
        settings: Of each pod.
        policy: Decides how many pods there are.
        least_s: Pods are paid for at least so long.

    Raises:
        ConfigurationError: The policy never catches up: after eight times as long studies still
            wait.
    """
    env = simpy.Environment()
    cluster = Cluster(env, times, settings)
    env.process(cluster.arrive(arrivals))
    policy.begin(cluster)
    span_s = max(least_s, arrivals[-1].at_s if arrivals else 0.0, _LEAST_SPAN_S)
    samples: list[tuple[float, int, int]] = []
    while env.now < least_s or len(cluster.ended) < len(arrivals):
        if env.now > _MOST_TIMES * span_s:
            raise ConfigurationError(
                f"Expected {policy.name} to catch up, but {len(arrivals) - len(cluster.ended)} "
                f"of {len(arrivals)} studies still wait; give it more pods."
            )
        samples.append((env.now, sum(cluster.entries().values()), cluster.replicas))
        env.run(until=env.now + _LOOK_S)
    end_s = max(least_s, cluster.ended[-1].ended_s if cluster.ended else 0.0)
    pods = [*cluster.pods, *cluster.gone]
    return DayOutcome(
        studies=cluster.ended,
        hours_s=end_s,
        pod_s=sum((pod.gone_s if pod.gone_s >= 0 else end_s) - pod.born_s for pod in pods),
        busy_s=sum(pod.busy_s for pod in pods),
        most_pods=max(pods for _, _, pods in samples),
        samples=samples,
    )

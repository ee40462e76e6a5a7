"""The queue and the pods that take from it, as in the real service.

arrivals ─▶ stat │ routine ─▶ the pod that has waited longest ─▶ ended

As in ``client.worker.loop``: each pod looks once for any study and once for STAT studies only;
STAT comes first and every ninth turn is routine's. As in Redis: of the readers that wait for a
stream, the one that has waited longest is served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import simpy

from client.jobs import Priority
from loadtest.simulation.hospital import Arrival
from loadtest.simulation.pod import Pod, PodState, Study
from loadtest.simulation.service import ServiceTimes

__all__ = ("Cluster", "PodSettings")


@dataclass(frozen=True)
class PodSettings:
    """What a pod is like.

    Attributes:
        places: ``studies_in_flight``.
        start_s: From being asked for to the first study: node, image, engine load.
    """

    places: int = 3
    start_s: float = 180.0


class Cluster:
    """One queue with its pods.

    Args:
        env: The clock.
        times: Service times.
        settings: Of each pod.
    """

    def __init__(self, env: simpy.Environment, times: ServiceTimes, settings: PodSettings) -> None:
        self.env = env
        self.pods: list[Pod] = []
        self.gone: list[Pod] = []
        self.ended: list[Study] = []
        self._times = times
        self._settings = settings
        self._waiting: Mapping[Priority, deque[Study]] = {one: deque() for one in Priority}
        self._readers: Mapping[bool, deque[tuple[int, Pod]]] = {True: deque(), False: deque()}
        self._reads = 0
        self._arrived = 0

    @property
    def replicas(self) -> int:
        """Pods that are asked for: starting or ready."""
        return sum(pod.state in (PodState.STARTING, PodState.READY) for pod in self.pods)

    def entries(self) -> dict[Priority, int]:
        """Length of each stream: waiting and in work, as XLEN says."""
        lengths = {one: len(waiting) for one, waiting in self._waiting.items()}
        for pod in self.pods:
            for study in pod.work:
                lengths[study.priority] += 1
        return lengths

    def arrive(self, arrivals: Iterable[Arrival]) -> Any:
        """A process: every study at its time."""
        for one in arrivals:
            yield self.env.timeout(max(0.0, one.at_s - self.env.now))
            work_s = self._times.alone_s(one.slices) if one.work_s is None else one.work_s
            gains = self._times.gains(one.slices, self._settings.places + 1)
            self._arrived += 1
            self._put(Study(one.kind, one.priority, work_s, gains, self.env.now, self._arrived))

    def scale(self, replicas: int, start_s: float | None = None) -> None:
        """Ask for so many pods; those that are not ready go first, then the newest.

        Args:
            replicas: Wanted.
            start_s: Of new ones; None: as the settings say.
        """
        alive = [pod for pod in self.pods if pod.state in (PodState.STARTING, PodState.READY)]
        for _ in range(replicas - len(alive)):
            self._start(self._settings.start_s if start_s is None else start_s)
        surplus = sorted(alive, key=lambda pod: (pod.state is PodState.READY, -pod.born_s))
        for pod in surplus[: max(0, len(alive) - replicas)]:
            pod.drain()
            self._bury(pod)

    def _start(self, start_s: float) -> None:
        pod = Pod(self.env, self._settings.places, self._times.stat_weight, self._end, self.env.now)
        self.pods.append(pod)
        self.env.timeout(start_s, pod).callbacks.append(self._ready)

    def _ready(self, due: Any) -> None:
        pod: Pod = due.value
        if pod.state is PodState.STARTING:
            pod.state = PodState.READY
            self._look(pod)

    def _put(self, study: Study) -> None:
        self._waiting[study.priority].append(study)
        if (reader := self._longest_reader(study.priority)) is not None:
            pod, urgent_only = reader
            pod.reading.discard(urgent_only)
            self._look(pod)

    def _longest_reader(self, priority: Priority) -> tuple[Pod, bool] | None:
        """The pod that has waited longest for such a study, and with which place."""
        heads = []
        for urgent_only in (True, False) if priority is Priority.STAT else (False,):
            readers = self._readers[urgent_only]
            while readers and readers[0][1].state is not PodState.READY:
                readers.popleft()
            if readers:
                heads.append((readers[0][0], urgent_only))
        if not heads:
            return None
        urgent_only = min(heads)[1]
        return self._readers[urgent_only].popleft()[1], urgent_only

    def _look(self, pod: Pod) -> None:
        """Fill the places of a pod that do not wait for a study already; then let them wait."""
        if pod.state is not PodState.READY:
            return
        for urgent_only in (True, False):
            while urgent_only not in pod.reading and pod.room(urgent_only):
                study = self._next(pod, urgent_only)
                if study is None:
                    pod.reading.add(urgent_only)
                    self._reads += 1
                    self._readers[urgent_only].append((self._reads, pod))
                else:
                    pod.take(study, urgent_only)

    def _next(self, pod: Pod, urgent_only: bool) -> Study | None:
        """Whose turn it is; None where nobody waits."""
        order = (Priority.STAT,) if urgent_only else pod.turns.order
        for priority in order:
            if self._waiting[priority]:
                if not urgent_only:
                    pod.turns.begun(priority)
                return self._waiting[priority].popleft()
        return None

    def _end(self, pod: Pod, study: Study) -> None:
        self.ended.append(study)
        self._look(pod)
        self._bury(pod)

    def _bury(self, pod: Pod) -> None:
        if pod.state is PodState.DRAINING and not pod.work:
            pod.drain()
        if pod.state is PodState.GONE and pod in self.pods:
            self.pods.remove(pod)
            self.gone.append(pod)

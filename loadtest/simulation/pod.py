"""One inference pod: its studies share it, STAT studies with a larger share.

starting ─▶ ready: takes studies ─▶ draining: finishes what it has ─▶ gone
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import simpy

from client.jobs import Priority
from client.worker.pacing import Turns

__all__ = ("Pod", "PodState", "Study")

_DONE_S = 1e-9


class PodState(Enum):
    """Where a pod is in its life."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Study:
    """A study in the model.

    Attributes:
        kind: Its kind.
        priority: Its class.
        work_s: What it takes alone.
        gains: Throughput by studies in work over that with one.
        arrived_s: Acknowledged.
        order: Number of its arrival.
        taken_s: By a pod; -1 before.
        ended_s: -1 before.
        left_s: Of its work.
        speed: At which it goes on now.
        urgent_place: Whether it has the place for STAT studies.
    """

    kind: str
    priority: Priority
    work_s: float
    gains: tuple[float, ...]
    arrived_s: float
    order: int
    taken_s: float = -1.0
    ended_s: float = -1.0
    left_s: float = 0.0
    speed: float = 0.0
    urgent_place: bool = False


@dataclass(eq=False)
class Pod:
    """A worker beside its Triton.

    Attributes:
        env: The clock.
        places: For any study; one more takes STAT studies only.
        stat_weight: Share of a STAT study over that of a routine one.
        ended: Called with every study that has ended.
        born_s: When it was asked for; it costs from then on.
        state: Where it is in its life.
        gone_s: When it left; -1 before.
        busy_s: How long it had any study.
        turns: Whose turn it is at its places.
        work: Studies in it.
        reading: Which kinds of place wait for a study: True is the one for STAT studies.
    """

    env: simpy.Environment
    places: int
    stat_weight: float
    ended: Callable[[Pod, Study], None]
    born_s: float
    state: PodState = PodState.STARTING
    gone_s: float = -1.0
    busy_s: float = 0.0
    turns: Turns = field(default_factory=Turns)
    work: list[Study] = field(default_factory=list)
    reading: set[bool] = field(default_factory=set)
    _planned: int = 0
    _seen_s: float = 0.0

    def room(self, urgent_only: bool) -> bool:
        """Whether a place is free: the one for STAT studies, or one of the others."""
        taken = sum(study.urgent_place is urgent_only for study in self.work)
        return taken < (1 if urgent_only else self.places)

    def take(self, study: Study, urgent_place: bool) -> None:
        """Begin with a study."""
        self._advance()
        study.taken_s, study.left_s, study.urgent_place = self.env.now, study.work_s, urgent_place
        self.work.append(study)
        self._plan()

    def drain(self) -> None:
        """Take nothing more; go when everything is finished."""
        self.state = PodState.DRAINING
        self._leave_if_empty()

    def _advance(self) -> None:
        """Account for the time since the last change."""
        elapsed_s = self.env.now - self._seen_s
        self._seen_s = self.env.now
        if self.work:
            self.busy_s += elapsed_s
            for study in self.work:
                study.left_s -= elapsed_s * study.speed

    def _plan(self) -> None:
        """Share the pod anew and wait for the next study to end."""
        self._planned += 1
        if not self.work:
            return
        many = len(self.work)
        weights = [
            self.stat_weight if study.priority is Priority.STAT else 1.0 for study in self.work
        ]
        total = sum(weights)
        next_s = float("inf")
        for study, weight in zip(self.work, weights, strict=True):
            study.speed = study.gains[min(many, len(study.gains)) - 1] * weight / total
            next_s = min(next_s, study.left_s / study.speed)
        due = self.env.timeout(max(0.0, next_s), self._planned)
        due.callbacks.append(self._next_ended)

    def _next_ended(self, due: Any) -> None:
        if due.value != self._planned:
            return  # shared anew since
        self._advance()
        least_s = min(study.left_s for study in self.work)
        over = [study for study in self.work if study.left_s <= max(least_s, _DONE_S)]
        self.work = [study for study in self.work if study not in over]
        self._plan()
        for study in over:
            study.ended_s = self.env.now
            self.ended(self, study)
        self._leave_if_empty()

    def _leave_if_empty(self) -> None:
        if self.state is PodState.DRAINING and not self.work:
            self.state, self.gone_s = PodState.GONE, self.env.now

"""What the metrics are told of: by shape, so that ledger and worker know nothing of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from client.jobs import JobState, Priority

__all__ = ("AttemptReport", "ServedVersion", "ToldSeries", "WorkCount")


class WorkCount(Protocol):
    """How many jobs are in one state, see ``Enquiries.work``."""

    @property
    def state(self) -> JobState:
        """Theirs."""
        ...

    @property
    def priority(self) -> Priority:
        """Theirs."""
        ...

    @property
    def number(self) -> int:
        """How many."""
        ...

    @property
    def oldest_at(self) -> datetime:
        """When the oldest of them was received."""
        ...


class ServedVersion(Protocol):
    """A model in service, see ``ServedModel``."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def version(self) -> str:
        """Of its network."""
        ...

    @property
    def engine(self) -> str:
        """What runs the network."""
        ...


class ToldSeries(Protocol):
    """A segmented series, see ``SegmentedSeries``."""

    @property
    def model(self) -> str:
        """Its model."""
        ...

    @property
    def version(self) -> str:
        """Of the model's network."""
        ...

    @property
    def slices(self) -> int:
        """How many it has."""
        ...

    @property
    def foreground(self) -> float:
        """Part of its voxels in any structure, 0 to 1."""
        ...


class AttemptReport(Protocol):
    """What one attempt did until it ended, see ``Progress``."""

    @property
    def timings_s(self) -> Mapping[str, float]:
        """Seconds by stage."""
        ...

    @property
    def moved_bytes(self) -> Mapping[str, int]:
        """Bytes by stage."""
        ...

    @property
    def series(self) -> Sequence[ToldSeries]:
        """Those that were segmented."""
        ...

    @property
    def model(self) -> str:
        """Of the first segmented series, "" before."""
        ...

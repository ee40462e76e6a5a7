"""What every way of segmenting a series offers to the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ("SliceWay", "StudyWay", "Way", "Work")


@dataclass(frozen=True)
class Work:
    """What one run of a way did.

    Attributes:
        slices: Slices done.
        latencies_s: Time of each slice, or of each study on the whole way.
        stages_s: Whole way: mean wall seconds of each stage of a study.
    """

    slices: int
    latencies_s: tuple[float, ...]
    stages_s: Mapping[str, float] = field(default_factory=dict)


class Way(Protocol):
    """One way from images to masks."""

    @property
    def name(self) -> str:
        """As in ``Load.way``."""
        ...

    def processes(self) -> Mapping[str, int]:
        """Process ids of everything that takes part, by name; stays the same while it runs."""
        ...

    async def run(self, in_flight: int) -> Work:
        """Segments the material once.

        Args:
            in_flight: How many slices, or studies, are under way at a time.
        """
        ...


@runtime_checkable
class SliceWay(Way, Protocol):
    """One that answers slice by slice, on the network's canvas."""

    masks: NDArray[np.uint8]
    """uint8 [slices, rows, columns] of the runs so far."""


@runtime_checkable
class StudyWay(Way, Protocol):
    """One that answers study by study."""

    segmentation: bytes
    """The DICOM SEG of the last study."""

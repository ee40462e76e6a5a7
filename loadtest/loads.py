"""What is measured in every round, and in which order.

ways x precisions x in flight ─▶ raw ▸ ensemble ▸ peer ▸ raw ▸ peer … ─▶ one turn each
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = (
    "ENSEMBLE",
    "GPU",
    "PRECISIONS",
    "RAW",
    "SCRIPT",
    "WHOLE",
    "Load",
    "gpu_loads",
    "has_peers",
    "is_peer",
    "order",
    "quick_loads",
)

RAW, ENSEMBLE, WHOLE, SCRIPT = "raw engine", "ensemble", "whole way", "traditional script"
GPU = "ensemble on a GPU"
PRECISIONS = ("f32", "bf16", "int8")
SLICES_IN_FLIGHT = (1, 4, 16)
STUDIES_IN_FLIGHT = (1, 2, 4)
BETWEEN_RAWS = 3
"""So many other turns at most between two of the raw engine, so that a neighbour is never far."""


@dataclass(frozen=True)
class Load:
    """One thing that is measured in every round.

    Attributes:
        way: ``RAW``, ``ENSEMBLE``, ``WHOLE``, ``SCRIPT`` or a peer's name.
        precision: What the engine computes in, of ``PRECISIONS``.
        in_flight: How many units are under way at a time.
        unit: ``slice`` or ``study``.
        raw_in_flight: Load of the raw engine that this one is compared with; 0 means none.
    """

    way: str
    precision: str
    in_flight: int
    unit: str
    raw_in_flight: int

    @property
    def title(self) -> str:
        """What is in flight, for people."""
        plural = {"slice": "slices", "study": "studies"}[self.unit]
        return f"{self.in_flight} {self.unit if self.in_flight == 1 else plural}"

    @property
    def raw(self) -> Load:
        """The load of the raw engine that this one is compared with."""
        return Load(RAW, self.precision, self.raw_in_flight, "slice", self.raw_in_flight)


def is_peer(way: str) -> bool:
    """Whether a way is an alternative that a user would pick."""
    return way not in (RAW, ENSEMBLE, WHOLE, SCRIPT, GPU)


def has_peers(precision: str) -> bool:
    """Whether alternatives serve a precision: INT8 is not what their users would have at hand."""
    return precision != "int8"


def order(
    precisions: Sequence[str], peers: Sequence[str] = (), *, script: bool = False
) -> tuple[Load, ...]:
    """Every load in the order of one round; the raw engine's come several times.

    The worker keeps several slices of a study in flight, and the script has nothing else to wait
    for, so studies are compared with the raw engine at its best.

    Args:
        precisions: Of ``PRECISIONS``.
        peers: Names of the alternatives; they have no INT8 of their own.
        script: Whether the traditional script takes part, in float32 as it comes.
    """
    turns: list[Load] = []
    for precision in precisions:
        others = (ENSEMBLE, *peers) if has_peers(precision) else (ENSEMBLE,)
        for count in SLICES_IN_FLIGHT:
            turns += _beside_raw([Load(way, precision, count, "slice", count) for way in others])
        best = SLICES_IN_FLIGHT[-1]
        studies = [Load(WHOLE, precision, count, "study", best) for count in STUDIES_IN_FLIGHT]
        if script and precision == "f32":
            studies.append(Load(SCRIPT, precision, 1, "study", best))
        turns += _beside_raw(studies)
    return tuple(turns)


def quick_loads() -> tuple[Load, ...]:
    """Raw engine, ensemble and whole way in float32, alone and under load."""
    alone = [Load(ENSEMBLE, "f32", 1, "slice", 1)]
    many = [
        Load(ENSEMBLE, "f32", 16, "slice", 16),
        Load(WHOLE, "f32", 1, "study", 16),
        Load(WHOLE, "f32", 2, "study", 16),
    ]
    return (*_beside_raw(alone), *_beside_raw(many))


def gpu_loads() -> tuple[Load, ...]:
    """The ensemble on a GPU, which has no raw engine beside it."""
    return tuple(Load(GPU, "gpu", count, "slice", 0) for count in (*SLICES_IN_FLIGHT, 64))


def _beside_raw(loads: Sequence[Load]) -> Iterable[Load]:
    """Loads of one comparison, a turn of the raw engine before the first and every few others."""
    for number, load in enumerate(loads):
        if number % BETWEEN_RAWS == 0:
            yield load.raw
        yield load

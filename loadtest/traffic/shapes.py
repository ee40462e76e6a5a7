"""The shapes of a load: what a hospital's day, a step, a spike, a soak or a flood sends when.

Load (shape, rates, seed) ──schedule_of──▶ arrivals in time

Every shape is an open load: studies come when they are due, whether or not earlier ones are
finished, so a slow system is never asked less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.hospitalday import PEAK_FACTOR, Moment, moments_of_day
from loadtest.traffic.arrivals import Arrival, drawn, poisson_mix

__all__ = ("SHAPES", "STEP_SLICES", "Load", "schedule_of")

HEAD_MR = ("mr_head",)
SPIKE_FACTOR = 6.0
STAT_SLICES = 32
STEP_SLICES = 64


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        shape: Of ``SHAPES``.
        seed: The same one gives the same schedule and the same studies.
        speed: How many times faster than its clock a hospital's day passes.
        from_h: Hour when the hospital's day begins.
        to_h: Hour when it ends.
        hospitals: How many send (hospital-day).
        peak: Factor of a busy day (hospital-day).
        rate_per_h: Studies per hour (spike, soak, stat-under-flood: the routine ones).
        seconds: Length of spike, soak and flood; of each step.
        rates_per_h: One step for each (step).
        slices: Of every head MR; 0 mixes sizes, except for steps, which then have 64.
        stat_per_h: STAT studies per hour (stat-under-flood).
    """

    shape: str = "hospital-day"
    seed: int = 1
    speed: float = 10.0
    from_h: float = 7.0
    to_h: float = 12.0
    hospitals: float = 8.0
    peak: float = PEAK_FACTOR
    rate_per_h: float = 600.0
    seconds: float = 120.0
    rates_per_h: tuple[float, ...] = (600.0, 900.0, 1200.0, 1500.0)
    slices: int = 0
    stat_per_h: float = 240.0


def schedule_of(load: Load) -> tuple[Arrival, ...]:
    """Draw the whole schedule.

    Raises:
        ConfigurationError: There is no such shape, or nothing would be sent.
    """
    if load.shape not in SHAPES:
        raise ConfigurationError(f"Expected a shape of {', '.join(SHAPES)}, got {load.shape!r}.")
    arrivals = SHAPES[load.shape](load, np.random.default_rng(load.seed))
    if not arrivals:
        raise ConfigurationError(
            "Nothing is due in this load: expected a longer time or a higher rate."
        )
    in_time = sorted(arrivals, key=lambda one: one.at_s)
    return tuple(replace(one, number=number) for number, one in enumerate(in_time))


def _hospital_day(load: Load, rng: np.random.Generator) -> list[Arrival]:
    moments = moments_of_day(rng, load.from_h, load.to_h, load.hospitals, load.peak)
    at_speed = [
        Moment((one.at_h - load.from_h) * 3600 / load.speed, one.kind, one.priority)
        for one in moments
    ]
    return drawn(rng, at_speed, load.slices)


def _steps(load: Load, rng: np.random.Generator) -> list[Arrival]:
    """Head MR of one size, as its rate is to be found; each step as long as the others."""
    arrivals: list[Arrival] = []
    for step, rate in enumerate(load.rates_per_h):
        start_s = step * load.seconds
        moments = poisson_mix(rng, rate, start_s, start_s + load.seconds, HEAD_MR)
        routine = [replace(one, priority=Priority.ROUTINE) for one in moments]
        arrivals += drawn(rng, routine, load.slices or STEP_SLICES, step)
    return arrivals


def _spike(load: Load, rng: np.random.Generator) -> list[Arrival]:
    """The rate, and in the third fifth of the time six times as much."""
    fifth = load.seconds / 5
    moments = poisson_mix(rng, load.rate_per_h, 0.0, load.seconds)
    more = (SPIKE_FACTOR - 1) * load.rate_per_h
    moments += poisson_mix(rng, more, 2 * fifth, 3 * fifth)
    return drawn(rng, moments, load.slices)


def _soak(load: Load, rng: np.random.Generator) -> list[Arrival]:
    return drawn(rng, poisson_mix(rng, load.rate_per_h, 0.0, load.seconds), load.slices)


def _stat_under_flood(load: Load, rng: np.random.Generator) -> list[Arrival]:
    """Routine head MR at a rate of the caller's choice, above what is held, and some STAT ones."""
    flood = poisson_mix(rng, load.rate_per_h, 0.0, load.seconds, HEAD_MR)
    routine = [replace(one, priority=Priority.ROUTINE) for one in flood]
    urgent = poisson_mix(rng, load.stat_per_h, 0.0, load.seconds, HEAD_MR)
    stat = [replace(one, priority=Priority.STAT) for one in urgent]
    return drawn(rng, routine, load.slices) + drawn(rng, stat, STAT_SLICES)


SHAPES: Mapping[str, Callable[[Load, np.random.Generator], list[Arrival]]] = MappingProxyType(
    {
        "hospital-day": _hospital_day,
        "step": _steps,
        "spike": _spike,
        "soak": _soak,
        "stat-under-flood": _stat_under_flood,
    }
)
"""What each shape sends, by its name."""

"""What a hospital sends in a day: a Poisson process whose rate follows the hour.

kinds × hourly curve × hospitals × peak ─▶ arrivals of one day, sorted

Superposed Poisson processes are one Poisson process, so any number of hospitals is one draw per
kind and hour. All hospitals are in one time zone: the worst case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.hospitalday import KINDS

__all__ = ("DAY_S", "DEFAULT_HOSPITAL", "Arrival", "Hospital", "StudyKind", "arrivals_of_day",
           "read_hospital")  # fmt: skip

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@dataclass(frozen=True)
class StudyKind:
    """One kind of study of a hospital.

    Attributes:
        name: Such as ``ct``.
        per_day: Studies on an average day.
        slices: Smallest and largest number of slices; even between them.
        stat_share: Part of them that is STAT.
        hours: 24 weights of the hours of the day.
    """

    name: str
    per_day: float
    slices: tuple[int, int]
    stat_share: float
    hours: tuple[float, ...]


@dataclass(frozen=True)
class Hospital:
    """A hospital, and where its figures come from."""

    source: str
    kinds: tuple[StudyKind, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One study that was acknowledged.

    Attributes:
        at_s: When.
        kind: Its kind.
        slices: It has.
        priority: Its class.
        work_s: What it would take alone; None: by its slices.
    """

    at_s: float
    kind: str
    slices: int
    priority: Priority
    work_s: float | None = None


_SLICES = {"ct": (80, 400), "mr_head": (24, 200), "xray": (1, 3)}
DEFAULT_HOSPITAL = Hospital(
    source=(
        "ASSUMED: studies a day, hourly curves and STAT shares of loadtest/hospitalday.py (shares "
        "of CT, MR and X-ray as in England's Diagnostic Imaging Dataset, April 2012), and slices "
        "of a study."
    ),
    kinds=tuple(
        StudyKind(kind.name, kind.per_day, _SLICES[kind.name], kind.stat, kind.by_hour)
        for kind in KINDS.values()
    ),
)
"""What the load test sends as well, with the slices of a real hospital's studies."""


def arrivals_of_day(
    hospital: Hospital, hospitals: int, peak: float, generator: np.random.Generator
) -> list[Arrival]:
    """Draws one day, midnight to midnight.

    Args:
        hospital: What each is like.
        hospitals: How many.
        peak: How many times as busy as an average day.
        generator: Of random numbers.
    """
    arrivals: list[Arrival] = []
    for kind in hospital.kinds:
        hours = np.asarray(kind.hours, dtype=float)
        counts = generator.poisson(hours / hours.sum() * kind.per_day * hospitals * peak)
        total = int(counts.sum())
        starts = np.repeat(np.arange(24) * HOUR_S, counts)
        at_s = starts + generator.uniform(0, HOUR_S, total)
        slices = generator.integers(kind.slices[0], kind.slices[1] + 1, total)
        stat = generator.uniform(size=total) < kind.stat_share
        arrivals += [
            Arrival(when, kind.name, many, Priority.STAT if urgent else Priority.ROUTINE)
            for when, many, urgent in zip(
                at_s.tolist(), slices.tolist(), stat.tolist(), strict=True
            )
        ]
    return sorted(arrivals, key=lambda one: one.at_s)


def read_hospital(path: Path) -> Hospital:
    """Reads a hospital of your own: JSON with the fields of ``Hospital`` and ``StudyKind``.

    Raises:
        ConfigurationError: It is missing or of another form.
    """
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kinds = tuple(
            StudyKind(
                one["name"],
                float(one["per_day"]),
                (int(one["slices"][0]), int(one["slices"][1])),
                float(one["stat_share"]),
                tuple(map(float, one["hours"])),
            )
            for one in found["kinds"]
        )
        hospital = Hospital(str(found["source"]), kinds)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigurationError(f"Expected a hospital in {path}: {error!r}") from error
    if not kinds or any(len(kind.hours) != 24 for kind in kinds):
        raise ConfigurationError(f"Expected kinds of study with 24 hourly weights in {path}.")
    return hospital

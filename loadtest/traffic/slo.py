"""What a load must show, read from a YAML file, and whether it did.

slo.yaml + studies + accounts ──judge──▶ checks, all of which must hold
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import yaml

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.traffic.accounts import Accounts
from loadtest.traffic.journal import Study
from preprocess.errors import SpecError
from preprocess.parsing import build

__all__ = (
    "Check",
    "Slo",
    "StudyClass",
    "Turnaround",
    "judge",
    "load_slo",
    "percentile",
    "studies_of",
    "turnarounds",
)


class StudyClass(StrEnum):
    """Which studies a limit is for."""

    ROUTINE = "routine"
    STAT = "stat"
    REFUSED = "refused"
    """Those that no model takes, of either priority."""


@dataclass(frozen=True)
class Turnaround:
    """A limit on one class of studies.

    Attributes:
        of: Which class.
        percentile: 0 to 100.
        seconds: What it must stay below, from when a study was due to its decrypted result.
    """

    of: StudyClass
    percentile: float
    seconds: float


@dataclass(frozen=True)
class Slo:
    """What must hold.

    Attributes:
        schema: Version of the file's form.
        turnaround: Limits by class; a class of which nothing was sent is not judged.
        error_rate: Studies that did not end as expected, as part of all; below this.
        lost: Acknowledged studies that did not end, at most.
        repeated: Jobs or results beyond one for each study, at most.
        generator_late_s: 99th percentile of the generator's own delay; a later one says nothing.
        least_studies: Fewer say nothing either.
    """

    schema: Literal["hounsfield.slo/1"]
    turnaround: tuple[Turnaround, ...]
    error_rate: float
    lost: int
    repeated: int
    generator_late_s: float
    least_studies: int


@dataclass(frozen=True)
class Check:
    """One promise and what was seen; ``aim`` and ``value`` are for people."""

    name: str
    aim: str
    value: str
    held: bool


def load_slo(path: Path) -> Slo:
    """Read a file of limits, strictly.

    Raises:
        ConfigurationError: It cannot be read, a key is unknown or missing, a value impossible.
    """
    try:
        slo = build(Slo, yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    except (OSError, yaml.YAMLError, SpecError) as error:
        raise ConfigurationError(f"Expected limits as in loadtest/slo.yaml: {error}") from error
    if not all(0 < one.percentile <= 100 and one.seconds > 0 for one in slo.turnaround):
        raise ConfigurationError(f"{path.name}: expected percentiles 0 to 100 and seconds above 0.")
    return slo


def judge(slo: Slo, accounts: Accounts) -> tuple[Check, ...]:
    """Compare a load with the limits."""
    studies = accounts.studies
    wrong = sum(not one.as_expected for one in studies) / len(studies)
    late_s = percentile([one.late_s for one in studies], 99.0)
    checks = [check for limit in slo.turnaround for check in _turnaround(limit, studies)]
    checks += [
        Check("error rate", f"< {slo.error_rate:.2%}", f"{wrong:.2%}", wrong < slo.error_rate),
        Check(
            "lost",
            f"≤ {slo.lost}",
            f"{accounts.lost} of {accounts.acknowledged} acknowledged",
            accounts.lost <= slo.lost,
        ),
        Check(
            "generator p99 delay",
            f"< {slo.generator_late_s:g} s",
            f"{late_s:.2f} s",
            late_s < slo.generator_late_s,
        ),
        Check(
            "studies",
            f"≥ {slo.least_studies}",
            f"{len(studies)}",
            len(studies) >= slo.least_studies,
        ),
    ]
    if accounts.repeated is not None:
        seen = accounts.repeated
        checks.append(Check("repeated", f"≤ {slo.repeated}", f"{seen}", seen <= slo.repeated))
    return tuple(checks)


def _turnaround(limit: Turnaround, studies: Sequence[Study]) -> list[Check]:
    chosen = studies_of(limit.of, studies)
    if not chosen:
        return []
    value = percentile(turnarounds(chosen), limit.percentile)
    name = f"{limit.of} p{limit.percentile:g} turnaround"
    seen = f"{value:.1f} s of {len(chosen)}" if math.isfinite(value) else "some never ended well"
    return [Check(name, f"< {limit.seconds:g} s", seen, value < limit.seconds)]


def studies_of(which: StudyClass, studies: Sequence[Study]) -> list[Study]:
    """The studies of a class."""
    if which is StudyClass.REFUSED:
        return [one for one in studies if one.arrival.expected == "rejected"]
    priority = Priority(which.value)
    taken = [one for one in studies if one.arrival.expected == "done"]
    return [one for one in taken if one.arrival.priority is priority]


def turnarounds(studies: Sequence[Study]) -> list[float]:
    """Seconds of each; infinite for one that did not end as expected."""
    return [
        one.turnaround_s if one.as_expected and one.turnaround_s is not None else math.inf
        for one in studies
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of the values do not exceed (nearest rank).

    Never between two values, so that it is infinite only when it must be.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

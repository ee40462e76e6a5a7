"""The outcome of a load test as JSON, and the studies per hour that its steps held.

studies, checks ──▶ hounsfield.load/1 (the simulation replays it);  steps ──▶ hounsfield.steps/1
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from loadtest.traffic.journal import Study
from loadtest.traffic.run import Run
from loadtest.traffic.shapes import STEP_SLICES, Load
from loadtest.traffic.slo import Check, percentile, turnarounds

__all__ = (
    "SCHEMA",
    "STEPS_SCHEMA",
    "Step",
    "held_per_h",
    "outcome_of",
    "steps_of",
    "steps_record",
    "write_json",
)

SCHEMA = "hounsfield.load/1"
STEPS_SCHEMA = "hounsfield.steps/1"
PILED_UP = 0.05
"""Part of a step's studies by which the unfinished ones may grow during it."""
IN_WORK = 4
"""Studies beyond that: a worker has so many in its hands at once (HOUNSFIELD_STUDIES_IN_FLIGHT and
one place for STAT), which is no queue."""


@dataclass(frozen=True)
class Step:
    """One step of a stepped load.

    Attributes:
        offered_per_h: Studies that were due per hour, as it came out.
        finished_per_h: Studies that ended during it, of whatever step.
        p95_s: 95th percentile of the turnaround of those due in it.
        held: Below the limit, and finished as fast as offered.
    """

    offered_per_h: float
    finished_per_h: float
    p95_s: float
    held: bool


def outcome_of(run: Run, checks: Sequence[Check]) -> dict[str, Any]:
    """The outcome, ready for JSON; ``submitted_s`` is when a study was due.

    Args:
        run: What came of the load.
        checks: The verdict; empty without one.
    """
    load = run.options.load
    return {
        "schema": SCHEMA,
        "started_at": run.started_at,
        "shape": load.shape,
        "speed": load.speed,
        "seed": load.seed,
        "seconds": round(run.seconds, 1),
        "machine": asdict(run.machine),
        "studies": [_study(one) for one in run.accounts.studies],
        "verdict": {
            "held": all(check.held for check in checks),
            "checks": [asdict(check) for check in checks],
        },
    }


def _study(study: Study) -> dict[str, Any]:
    arrival = study.arrival
    return {
        "kind": arrival.kind,
        "priority": arrival.priority.value,
        "bytes": study.study_bytes,
        "slices": arrival.slices,
        "submitted_s": round(arrival.at_s, 3),
        "acknowledged_s": study.acknowledged_s,
        "ended_s": study.ended_s,
        "outcome": study.outcome,
        "code": study.code,
        "expected": arrival.expected,
    }


def steps_of(load: Load, studies: Sequence[Study], limit_s: float) -> tuple[Step, ...]:
    """Judge each step of a stepped load by itself.

    Args:
        load: Whose shape is ``step``.
        studies: All of them.
        limit_s: What the 95th percentile must stay below.
    """
    return tuple(_step(number, load, studies, limit_s) for number in range(len(load.rates_per_h)))


def _step(number: int, load: Load, studies: Sequence[Study], limit_s: float) -> Step:
    start_s, end_s = number * load.seconds, (number + 1) * load.seconds
    due = [one for one in studies if one.arrival.step == number]
    ended = [one for one in studies if one.ended_s is not None and start_s <= one.ended_s < end_s]
    p95_s = percentile(turnarounds(due), 95.0) if due else 0.0
    keeps_up = len(due) - len(ended) <= PILED_UP * len(due) + IN_WORK
    per_h = 3600 / load.seconds
    return Step(
        round(len(due) * per_h, 1),
        round(len(ended) * per_h, 1),
        round(p95_s, 2),
        bool(due) and keeps_up and p95_s < limit_s,
    )


def held_per_h(steps: Sequence[Step]) -> float:
    """Studies per hour of the last step before the first that was not held; 0 if none was."""
    held = 0.0
    for step in steps:
        if not step.held:
            break
        held = step.offered_per_h
    return held


def steps_record(run: Run, steps: Sequence[Step]) -> dict[str, Any]:
    """The steps of a load, ready for JSON; a percentile that is endless is null."""
    load = run.options.load
    told = [asdict(one) for one in steps]
    return {
        "schema": STEPS_SCHEMA,
        "started_at": run.started_at,
        "slices": load.slices or STEP_SLICES,
        "seconds": load.seconds,
        "seed": load.seed,
        "machine": asdict(run.machine),
        "held_per_h": held_per_h(steps),
        "steps": [
            one | {"p95_s": one["p95_s"] if isfinite(one["p95_s"]) else None} for one in told
        ],
    }


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)

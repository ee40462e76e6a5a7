"""What a soak measured, as JSON and back, and whether anything grew.

samples over time ─▶ robust slopes after a warm-up ─▶ verdicts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from scipy import stats

from client.errors import ConfigurationError
from loadtest.report import Machine, Memory
from loadtest.verdicts import Verdict
from preprocess.parsing import build

__all__ = ("SCHEMA", "Sample", "SoakReport", "read_soak", "slope", "soak_verdicts", "write_soak")

SCHEMA: Final = "hounsfield.soak/1"
MEMORY_LIMIT_MIB_PER_MIN = 1.0
DESCRIPTORS_LIMIT_PER_MIN = 0.1
QUEUE_LIMIT_PER_MIN = 0.1
ALL = "all"


@dataclass(frozen=True)
class Sample:
    """One look at the running stack.

    Attributes:
        at_s: Seconds since the load began.
        memory: Proportional set size of each process, and of all together.
        descriptors: Open file descriptors of all processes.
        queued: Entries in the queue, waiting or taken.
        in_flight: Studies handed in and not finished.
        latency_s: Time of the study that finished last; 0 before the first.
    """

    at_s: float
    memory: tuple[Memory, ...]
    descriptors: int
    queued: int
    in_flight: int
    latency_s: float

    @property
    def mib(self) -> float:
        """All processes together."""
        return next(one.mib for one in self.memory if one.name == ALL)


@dataclass(frozen=True)
class SoakReport:
    """One soak, complete.

    Attributes:
        schema: Version of this record.
        created_at: When it began, UTC, ISO 8601.
        command: How it was asked for.
        minutes: How long the load lasted.
        warm_up_s: Samples before this are not judged.
        load: Part of the measured throughput that was offered.
        studies_per_min: What was offered.
        studies: How many were finished.
        slices: Slices of a study.
        machine: Where.
        samples: In time.
    """

    schema: Literal["hounsfield.soak/1"]
    created_at: str
    command: str
    minutes: float
    warm_up_s: float
    load: float
    studies_per_min: float
    studies: int
    slices: int
    machine: Machine
    samples: tuple[Sample, ...]

    @property
    def judged(self) -> tuple[Sample, ...]:
        """Those after the warm-up."""
        return tuple(one for one in self.samples if one.at_s >= self.warm_up_s)


def slope(at_s: Sequence[float], values: Sequence[float]) -> float:
    """Change per minute: Theil and Sen's median of the slopes of all pairs.

    Args:
        at_s: Seconds.
        values: As many.

    Raises:
        ConfigurationError: There are fewer than two moments.
    """
    if len(set(at_s)) < 2:
        raise ConfigurationError("Expected samples at two moments at least; soak longer.")
    return float(stats.theilslopes(np.asarray(values), np.asarray(at_s))[0]) * 60


def soak_verdicts(report: SoakReport) -> tuple[Verdict, ...]:
    """Whether memory, file descriptors or the queue grew."""
    judged = report.judged
    memory = {
        name: _slope_of(judged, partial(_mib, name))
        for name in dict.fromkeys(each.name for one in judged for each in one.memory)
    }
    parts = ", ".join(f"{name} {value:+.2f}" for name, value in memory.items() if name != ALL)
    descriptors = _slope_of(judged, lambda one: one.descriptors)
    queue = _slope_of(judged, lambda one: one.queued)
    latencies = [one.latency_s for one in judged if one.latency_s]
    span = f"{report.minutes:.0f} minutes, the first {report.warm_up_s:.0f} s left out"
    return (
        Verdict(
            "soak: memory slope",
            f"< {MEMORY_LIMIT_MIB_PER_MIN:g} MiB/min",
            f"{memory[ALL]:+.2f} MiB/min",
            memory[ALL] < MEMORY_LIMIT_MIB_PER_MIN,
            f"proportional set size of all processes over {span}, Theil-Sen; by process: {parts}",
        ),
        Verdict(
            "soak: file descriptors",
            "flat",
            f"{descriptors:+.2f}/min",
            abs(descriptors) < DESCRIPTORS_LIMIT_PER_MIN,
            f"of all processes, likewise; {min(one.descriptors for one in judged)} to "
            f"{max(one.descriptors for one in judged)}",
        ),
        Verdict(
            "soak: queue",
            "no growth",
            f"{queue:+.2f}/min",
            queue < QUEUE_LIMIT_PER_MIN,
            f"entries waiting or taken, likewise; at most {max(one.queued for one in judged)}; "
            f"a study took {np.median(latencies or [0.0]):.2f} s in the median",
        ),
    )


def _slope_of(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return slope([one.at_s for one in samples], [of(one) for one in samples])


def _mib(name: str, sample: Sample) -> float:
    return next((one.mib for one in sample.memory if one.name == name), 0.0)


def write_soak(report: SoakReport, path: Path) -> None:
    """Writes the report as JSON, whole or not at all."""
    verdicts = [asdict(one) for one in soak_verdicts(report)]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    # One line per sample: half an hour of them would be ten thousand lines else.
    content = asdict(report) | {"samples": [], "verdicts": verdicts}
    text = json.dumps(content, indent=1)
    lines = ",\n".join(f"  {json.dumps(asdict(one))}" for one in report.samples)
    draft.write_text(text.replace('"samples": []', f'"samples": [\n{lines}\n ]') + "\n", "utf-8")
    draft.replace(path)


def read_soak(path: Path) -> SoakReport:
    """Reads a report strictly.

    Raises:
        ConfigurationError: Not a report of this schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("verdicts")
        return build(SoakReport, content, "soak")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"{path.name}: expected a report of schema {SCHEMA}: {error}. Make one with "
            "`python -m loadtest.soak`."
        ) from error

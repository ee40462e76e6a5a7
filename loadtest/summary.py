"""Medians and ratios of a run: report ─▶ one row per load.

A ratio is taken within a round, between neighbours in time, and then the median over the rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from loadtest.report import Measurement, Report

__all__ = ("LOADS", "Load", "Row", "cpu_medians", "stage_medians", "summarise")


@dataclass(frozen=True)
class Load:
    """One thing that is measured in every round.

    Attributes:
        way: ``raw engine``, ``ensemble`` or ``whole way``.
        in_flight: How many units are under way at a time.
        unit: ``slice`` or ``study``.
        raw_in_flight: Load of the raw engine that this one is compared with.
    """

    way: str
    in_flight: int
    unit: str
    raw_in_flight: int

    @property
    def title(self) -> str:
        """What is in flight, for people."""
        plural = {"slice": "slices", "study": "studies"}[self.unit]
        return f"{self.in_flight} {self.unit if self.in_flight == 1 else plural}"


LOADS = (
    Load("raw engine", 1, "slice", 1),
    Load("ensemble", 1, "slice", 1),
    Load("whole way", 1, "study", 16),
    Load("raw engine", 16, "slice", 16),
    Load("ensemble", 16, "slice", 16),
    Load("whole way", 2, "study", 16),
)
"""In the order they run. The worker keeps several slices of a study in flight, so the whole way is
compared with the raw engine at its best."""


@dataclass(frozen=True)
class Row:
    """Medians over the rounds of one load.

    Attributes:
        way: As in ``Load``.
        in_flight: ``Load.title``.
        slices_per_s: Throughput.
        rate_ratio: Throughput over the raw engine's.
        cpu_ms_per_slice: CPU milliseconds of all processes.
        efficiency: The raw engine's CPU time of a slice over this one's.
        latency_p50_ms: Median time of one unit.
        others_share: Part of all cores that other work took meanwhile.
    """

    way: str
    in_flight: str
    slices_per_s: float
    rate_ratio: float
    cpu_ms_per_slice: float
    efficiency: float
    latency_p50_ms: float
    others_share: float


def summarise(report: Report) -> tuple[Row, ...]:
    """One row per load, in the order of ``LOADS``; three decimals."""
    return tuple(_row(report, load) for load in LOADS)


def _row(report: Report, load: Load) -> Row:
    runs = _runs(report, load)
    raws = [one.of("raw engine", load.raw_in_flight) for one in report.rounds]
    pairs = list(zip(runs, raws, strict=True))
    cores = report.machine.cores
    values = (
        median(run.slices_per_s for run in runs),
        median(run.slices_per_s / raw.slices_per_s for run, raw in pairs),
        1000 * median(run.cpu_s_per_slice for run in runs),
        median(raw.cpu_s_per_slice / run.cpu_s_per_slice for run, raw in pairs),
        1000 * median(run.latency_p50_s for run in runs),
        median(run.others_cpu_s / (run.wall_s * cores) for run in runs),
    )
    return Row(load.way, load.title, *(round(value, 3) for value in values))


def cpu_medians(report: Report, load: Load) -> dict[str, float]:
    """CPU milliseconds per slice of each process that took part."""
    runs = _runs(report, load)
    each = [{span.name: 1000 * span.seconds / run.slices for span in run.cpu_s} for run in runs]
    return {name: median(one[name] for one in each) for name in each[0]}


def stage_medians(report: Report, load: Load) -> dict[str, float]:
    """Wall seconds of each stage of a study, in their order."""
    each = [{span.name: span.seconds for span in run.stages_s} for run in _runs(report, load)]
    return {name: median(one[name] for one in each) for name in each[0]}


def _runs(report: Report, load: Load) -> list[Measurement]:
    return [one.of(load.way, load.in_flight) for one in report.rounds]

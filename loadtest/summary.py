"""Medians and ratios of a run: report ─▶ one row per load.

A ratio is taken within a round, to the raw engine's turn that is nearest in time, and then the
median over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from loadtest.loads import Load
from loadtest.report import Measurement, Report

__all__ = (
    "Row",
    "cpu_medians",
    "efficiency",
    "rate_ratio",
    "ratio",
    "runs_of",
    "stage_medians",
    "summarise",
)


@dataclass(frozen=True)
class Row:
    """Medians over the rounds of one load.

    Attributes:
        way: As in ``Load``.
        precision: As in ``Load``.
        in_flight: ``Load.title``.
        slices_per_s: Throughput.
        rate_ratio: Throughput over the raw engine's; None where it has no raw engine beside it.
        cpu_ms_per_slice: CPU milliseconds of all processes.
        efficiency: The raw engine's CPU time of a slice over this one's; None likewise.
        latency_p50_ms: Median time of one unit.
        latency_p99_ms: 99th percentile of it within a turn.
        peak_mib: Memory of all processes together.
        others_share: Part of all cores that other work took meanwhile.
    """

    way: str
    precision: str
    in_flight: str
    slices_per_s: float
    rate_ratio: float | None
    cpu_ms_per_slice: float
    efficiency: float | None
    latency_p50_ms: float
    latency_p99_ms: float
    peak_mib: float
    others_share: float


def summarise(report: Report) -> tuple[Row, ...]:
    """One row per load, in the order of the first turn of each; three decimals."""
    return tuple(_row(report, load) for load in report.distinct_loads)


def _row(report: Report, load: Load) -> Row:
    runs = runs_of(report, load)
    cores = report.machine.cores
    return Row(
        way=load.way,
        precision=load.precision,
        in_flight=load.title,
        slices_per_s=_short(median(run.slices_per_s for run in runs)),
        rate_ratio=_shorter(rate_ratio(report, load)),
        cpu_ms_per_slice=_short(1000 * median(run.cpu_s_per_slice for run in runs)),
        efficiency=_shorter(efficiency(report, load)),
        latency_p50_ms=_short(1000 * median(run.latency_p50_s for run in runs)),
        latency_p99_ms=_short(1000 * median(run.latency_p99_s for run in runs)),
        peak_mib=_short(max(run.peak_mib for run in runs)),
        others_share=_short(median(run.others_cpu_s / (run.wall_s * cores) for run in runs)),
    )


def rate_ratio(report: Report, load: Load) -> float | None:
    """Throughput over the raw engine's."""
    return ratio(report, load, lambda run, raw: run.slices_per_s / raw.slices_per_s)


def efficiency(report: Report, load: Load) -> float | None:
    """The raw engine's CPU time of a slice over this way's."""
    return ratio(report, load, lambda run, raw: raw.cpu_s_per_slice / run.cpu_s_per_slice)


def ratio(
    report: Report, load: Load, of: Callable[[Measurement, Measurement], float]
) -> float | None:
    """Median over all turns of something about a load and the raw engine's turn beside it.

    Returns:
        None where the load was not measured, or has no raw engine beside it.
    """
    found = [of(run, raw) for one in report.rounds for run, raw in one.pairs(load)]
    return median(found) if found else None


def _short(value: float) -> float:
    return round(value, 3)


def _shorter(value: float | None) -> float | None:
    return None if value is None else _short(value)


def cpu_medians(report: Report, load: Load) -> dict[str, float]:
    """CPU milliseconds per slice of each process that took part."""
    runs = runs_of(report, load)
    each = [{span.name: 1000 * span.seconds / run.slices for span in run.cpu_s} for run in runs]
    return {name: median(one[name] for one in each) for name in each[0]}


def stage_medians(report: Report, load: Load) -> dict[str, float]:
    """Wall seconds of each stage of a study, in their order."""
    each = [{span.name: span.seconds for span in run.stages_s} for run in runs_of(report, load)]
    names = dict.fromkeys(name for one in each for name in one)
    return {name: median(one.get(name, 0.0) for one in each) for name in names}


def runs_of(report: Report, load: Load) -> list[Measurement]:
    """All measurements of a load, in time."""
    return [run for one in report.rounds for run in one.measurements if run.is_of(load)]

"""The aims, and whether a run reached them: report ─▶ one verdict per aim.

What a run did not measure has no value and no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from loadtest.clienttier import COUNTED
from loadtest.loads import ENSEMBLE, SCRIPT, WHOLE, Load, is_peer
from loadtest.report import Measurement, Report, Round
from loadtest.summary import efficiency, rate_ratio, ratio

__all__ = ("Verdict", "tier_ms", "verdicts_of")

MANY, ALONE = 16, 1
MIB = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """One aim.

    Attributes:
        name: What is judged.
        aim: What is wanted, as text.
        value: What came, as text; "" where it was not measured.
        reached: Whether that is enough; None where it was not measured.
        how: How the value was computed, and what stands beside it.
    """

    name: str
    aim: str
    value: str
    reached: bool | None
    how: str


def verdicts_of(report: Report) -> tuple[Verdict, ...]:
    """Every aim of the project, in the order of its table."""
    return (
        _ensemble_efficiency(report),
        _whole_efficiency(report),
        _client_tier(report),
        _wall(report),
        _against_best_peer(report),
        _as_shipped(report),
        _alone(report),
        _against_script(report, ("int8",), 5.0, "INT8"),
        _against_script(report, ("f32", "bf16"), 2.5, "best floating point"),
        _urgent(report),
        _plumbing(report),
        _worker_memory(report),
    )


def _ensemble_efficiency(report: Report) -> Verdict:
    found = efficiency(report, Load(ENSEMBLE, "f32", MANY, "slice", MANY))
    how = "CPU time of a slice, raw engine ÷ ensemble, both with 16 slices in flight"
    return _at_least("ensemble: CPU efficiency against the raw engine, f32", 0.93, found, how)


def _whole_efficiency(report: Report) -> Verdict:
    loads = [load for load in report.distinct_loads if (load.way, load.precision) == (WHOLE, "f32")]
    busiest = max(loads, key=lambda load: load.in_flight, default=None)
    found = efficiency(report, busiest) if busiest else None
    what = busiest.title if busiest else "studies"
    how = f"CPU time of a slice, raw engine with 16 in flight ÷ all processes with {what} in flight"
    return _at_least("whole way: CPU efficiency, f32", 0.85, found, how)


def tier_ms(report: Report) -> dict[str, float]:
    """CPU milliseconds per slice of each step of the client tier: the least over the rounds."""
    each = [
        {span.name: 1000 * span.seconds / one.tier.slices for span in one.tier.steps}
        for one in report.rounds
        if one.tier is not None
    ]
    return {name: min(one[name] for one in each) for name in each[0]} if each else {}


def _client_tier(report: Report) -> Verdict:
    steps = tier_ms(report)
    counted = sum(steps[name] for name in COUNTED) if steps else None
    shown = ", ".join(f"{name} {ms:.2f}" for name, ms in steps.items())
    how = (
        f"CPU time per slice in one process, least of the rounds: {' + '.join(COUNTED)}. "
        f"All steps, ms: {shown}. Beside it, the real stack on the same study, CPU ms per slice: "
        f"{_stack_ms(report)}"
        if steps
        else ""
    )
    return _at_most("client tier: CPU per 512 x 512 slice", 1.0, counted, how, unit="ms")


def _stack_ms(report: Report) -> str:
    larges = [one.large for one in report.rounds if one.large is not None]
    if not larges:
        return "not measured"
    ms = {
        span.name: min(
            1000 * other.seconds / large.slices
            for large in larges
            for other in large.cpu_s
            if other.name == span.name
        )
        for span in larges[0].cpu_s
    }
    return ", ".join(f"{name} {value:.2f}" for name, value in ms.items())


def _floats(report: Report) -> list[str]:
    known = {load.precision for load in report.loads}
    return [precision for precision in ("f32", "bf16") if precision in known]


def _wall(report: Report) -> Verdict:
    found = {
        precision: rate_ratio(report, Load(ENSEMBLE, precision, MANY, "slice", MANY))
        for precision in _floats(report)
    }
    values = {precision: value for precision, value in found.items() if value is not None}
    how = f"slices per second, ensemble ÷ raw engine; the lowest of {_listed(values)}"
    least = min(values.values(), default=None)
    return _at_least("16 in flight: wall throughput ÷ raw engine", 0.95, least, how)


def _against_best_peer(report: Report) -> Verdict:
    shares: dict[str, float] = {}
    names: list[str] = []
    for precision in _floats(report):
        ours = rate_ratio(report, Load(ENSEMBLE, precision, MANY, "slice", MANY))
        peers = {
            load.way: value
            for load in _peer_loads(report, MANY)
            if load.precision == precision and (value := rate_ratio(report, load)) is not None
        }
        if ours is not None and peers:
            best = max(peers, key=lambda name: peers[name])
            shares[precision] = ours / peers[best]
            names.append(f"{precision}: {_listed(dict(sorted(peers.items(), key=_down)))}")
    how = (
        "the ensemble's throughput as part of the raw engine's, over the same of the best "
        f"alternative; the lowest of {_listed(shares)}. Alternatives ÷ raw: {'; '.join(names)}"
    )
    least = min(shares.values(), default=None)
    return _at_least("16 in flight: ÷ the best alternative of this run", 1.0, least, how)


def _as_shipped(report: Report) -> Verdict:
    ours = Load(ENSEMBLE, "int8", MANY, "slice", MANY)
    rivals = {
        f"{load.way} ({load.precision})": value
        for load in _peer_loads(report, MANY)
        if (value := _within(report, ours, load, _rate)) is not None
    }
    best = min(rivals, key=lambda name: rivals[name], default="")
    how = (
        f"slices per second with 16 in flight, our INT8 ensemble ÷ {best or 'the best alternative'}"
        ", each at the settings and precision that serve it best; median over the rounds"
    )
    least = rivals[best] if best else None
    return _at_least("as shipped (INT8) ÷ the best alternative", 1.5, least, how)


def _alone(report: Report) -> Verdict:
    found = {
        precision: value
        for precision in dict.fromkeys(load.precision for load in report.loads)
        if (value := _latency(report, Load(ENSEMBLE, precision, ALONE, "slice", ALONE))) is not None
    }
    floats = [value for precision, value in found.items() if precision in ("f32", "bf16")]
    peers = {
        f"{load.way} ({load.precision})": value
        for load in _peer_loads(report, ALONE)
        if (value := _latency(report, load)) is not None
    }
    how = (
        "median time of a slice that comes alone, ensemble ÷ raw engine; the highest of f32 and "
        f"bf16 among {_listed(found)}. Alternatives: {_listed(dict(sorted(peers.items())))}"
    )
    return _at_most("one in flight: p50 ÷ raw latency", 1.25, max(floats, default=None), how)


def _latency(report: Report, load: Load) -> float | None:
    return ratio(report, load, lambda run, raw: run.latency_p50_s / raw.latency_p50_s)


def _against_script(report: Report, precisions: Iterable[str], aim: float, title: str) -> Verdict:
    script = Load(SCRIPT, "f32", 1, "study", MANY)
    found = {
        precision: value
        for precision in precisions
        if (value := _within(report, script, Load(WHOLE, precision, 1, "study", MANY), _study_s))
        is not None
    }
    refused = [name for name in found if not report.workload.engine(name).admitted]
    how = (
        "time of a study, script ÷ whole way, one study at a time, median over the rounds; the "
        f"highest of {_listed(found)}"
        + "".join(f"; {name} is not admitted to service" for name in refused)
    )
    best = max(found.values(), default=None)
    return _at_least(f"against the traditional script, {title}", aim, best, how)


def _urgent(report: Report) -> Verdict:
    runs = [one.urgent for one in report.rounds if one.urgent is not None]
    idle = [seconds for run in runs for seconds in run.idle_s]
    busy = [seconds for run in runs for seconds in run.busy_s]
    value = float(np.percentile(busy, 99) / np.percentile(idle, 99)) if runs else None
    how = (
        f"{len(idle)} STAT studies of {runs[0].slices} slices on the idle system and {len(busy)} "
        f"while at least {min(run.routine_waiting for run in runs)} routine studies were "
        f"unfinished, in turns; idle p50 {median(idle):.2f} s, p99 {np.percentile(idle, 99):.2f} "
        f"s; full p50 {median(busy):.2f} s, p99 {np.percentile(busy, 99):.2f} s"
        if runs
        else ""
    )
    return _at_most("STAT p99 under a full routine queue ÷ idle", 1.5, value, how)


def _plumbing(report: Report) -> Verdict:
    larges = [one.large for one in report.rounds if one.large is not None]
    value = median(large.whole_s - large.raw_s for large in larges) if larges else None
    how = (
        f"{larges[0].slices} slices of 512 x 512 in one study, {larges[0].precision}: time of the "
        f"whole way ({median(large.whole_s for large in larges):.1f} s) minus that of the raw "
        f"engine beside it ({median(large.raw_s for large in larges):.1f} s), median over the "
        "rounds"
        if larges
        else ""
    )
    return _at_most("fixed plumbing per CT, beyond compute", 2.0, value, how, unit="s")


def _worker_memory(report: Report) -> Verdict:
    larges = [one.large for one in report.rounds if one.large is not None]
    value = (
        max(
            (large.worker_peak_mib - large.worker_idle_mib) * MIB / large.study_bytes
            for large in larges
        )
        if larges
        else None
    )
    how = (
        f"peak of the worker and its children above idle ({larges[0].worker_idle_mib:.0f} MiB) "
        f"while a study of {larges[0].study_bytes / 1e6:.0f} MB goes through, ÷ the study; the "
        "highest of the rounds, proportional set size. Whether it stays flat: the soak"
        if larges
        else ""
    )
    return _at_most("worker memory ÷ study size", 2.0, value, how)


def _peer_loads(report: Report, in_flight: int) -> Iterator[Load]:
    for load in report.distinct_loads:
        if is_peer(load.way) and load.in_flight == in_flight:
            yield load


def _within(
    report: Report, ours: Load, theirs: Load, of: Callable[[Measurement], float]
) -> float | None:
    """Median over the rounds of a ratio within each; None where one was not measured."""
    ratios = [
        mine / other
        for one in report.rounds
        if (mine := _mean(one, ours, of)) is not None
        and (other := _mean(one, theirs, of)) is not None
    ]
    return median(ratios) if ratios else None


def _mean(one: Round, load: Load, of: Callable[[Measurement], float]) -> float | None:
    found = [of(run) for run in one.measurements if run.is_of(load)]
    return median(found) if found else None


def _rate(run: Measurement) -> float:
    return run.slices_per_s


def _study_s(run: Measurement) -> float:
    return run.latency_p50_s


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items()) or "nothing"


def _down(item: tuple[str, float]) -> float:
    return -item[1]


def _at_least(name: str, aim: float, value: float | None, how: str) -> Verdict:
    reached = None if value is None else round(value, 2) >= aim
    return _judged(name, f"≥ {aim:g}", value, reached, how)


def _at_most(name: str, aim: float, value: float | None, how: str, unit: str = "") -> Verdict:
    reached = None if value is None else round(value, 2) <= aim
    verdict = _judged(name, f"≤ {aim:g}", value, reached, how)
    if not unit:
        return verdict
    shown = f"{verdict.value} {unit}" if verdict.value else ""
    return replace(verdict, aim=f"{verdict.aim} {unit}", value=shown)


def _judged(name: str, aim: str, value: float | None, reached: bool | None, how: str) -> Verdict:
    """The value is judged as it is shown: with two decimals."""
    if value is None:
        return Verdict(name, aim, "", None, "not measured in this run")
    return Verdict(name, aim, f"{value:.2f}", reached, how)

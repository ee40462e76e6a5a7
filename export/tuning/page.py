"""A search for people: a table for each precision, and what was chosen."""

from __future__ import annotations

from rich.table import Table

from export.tuned import CPU_DEFAULTS, GPU_DEFAULTS, Trial, TunedCpu, TunedGpu, Tuning
from export.tuning.searching import difference

__all__ = ("chosen", "trial_line", "tuning_tables")


def tuning_tables(tuning: Tuning) -> list[Table]:
    """Every comparison, by precision."""
    caption = (
        f"{tuning.facts['processor']}, {tuning.cores} cores; others used "
        f"{tuning.others_share:.0%} of them. Multiples of what was best before; CPU: less is better"
    )
    profiles = [("cpu", one) for one in tuning.cpu] + [("gpu", one) for one in tuning.gpu]
    tables = []
    for profile, one in profiles:
        table = Table(title=f"{tuning.model}, {profile} {one.precision}", caption=caption)
        table.add_column("changed")
        table.add_column("verdict")
        for name in ("slices/s", "x", "CPU ms", "x", "p50 x", "p99 ms", "x"):
            table.add_column(name, justify="right")
        for trial in one.trials:
            table.add_row(trial.change, trial.verdict, *_figures(trial))
        tables.append(table)
    return tables


def chosen(tuning: Tuning) -> list[str]:
    """One sentence for each precision: what was chosen, and how much that gains."""
    lines = [_sentence("cpu", one) for one in tuning.cpu]
    return lines + [_sentence("gpu", one) for one in tuning.gpu]


def trial_line(what: str, trial: Trial) -> str:
    """One comparison, as it ends."""
    figures = f" ({trial.throughput:.2f} x slices/s, {trial.cpu:.2f} x CPU)" if trial.pairs else ""
    return f"{what}: {trial.change}: {trial.verdict}{figures}"


def _figures(trial: Trial) -> list[str]:
    if not trial.pairs:
        return ["–"] * 7
    return [
        f"{trial.slices_per_s:.1f}",
        f"{trial.throughput:.2f}",
        f"{trial.cpu_ms:.1f}",
        f"{trial.cpu:.2f}",
        f"{trial.p50:.2f}",
        f"{trial.p99_ms:.1f}",
        f"{trial.p99:.2f}",
    ]


def _sentence(profile: str, one: TunedCpu | TunedGpu) -> str:
    name = f"{profile} {one.precision}"
    if one.gain is None:
        return f"{name}: the defaults stay; nothing was better by more than the noise"
    defaults = CPU_DEFAULTS if isinstance(one, TunedCpu) else GPU_DEFAULTS
    gain = one.gain
    return (
        f"{name}: {difference(defaults, one.settings)}: {gain.throughput:.2f} x slices/s, "
        f"{gain.cpu:.2f} x CPU time, {gain.p50:.2f} x p50 of the defaults"
    )

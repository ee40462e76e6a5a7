"""Pictures of a capacity question.

results ─▶ capacity-policies.png    days ─▶ capacity-day.png    a run ─▶ capacity-validation.png
fleets by number of hospitals ─▶ capacity-hospitals.png
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.simulation.answers import PolicyResult
from loadtest.simulation.day import DayOutcome
from loadtest.simulation.validation import Validation

__all__ = ("plot_day", "plot_hospitals", "plot_policies", "plot_validation")

STAT, ROUTINE, PODS = "#c0392b", "#1f6fb4", "#c9a15b"
_DPI = 120
_LOG_FROM = 20


def plot_policies(results: Sequence[PolicyResult], title: str, path: Path) -> None:
    """p95 by class with its interval, and pod hours, of every policy."""
    figure, (times, hours) = _figure(10, 1.8 + 0.55 * len(results), 2, sharey=True)
    places = np.arange(len(results))
    for offset, group, colour in ((-0.2, "stat", STAT), (0.2, "routine", ROUTINE)):
        found = [one.turnaround_s[group]["p95"] for one in results]
        halves = [0.0 if math.isinf(one.half) else one.half for one in found]
        times.barh(places + offset, [one.mean for one in found], 0.38, xerr=halves, color=colour,
                   label=group, error_kw={"elinewidth": 1, "capsize": 2})  # fmt: skip
    hours.barh(places, [one.pod_hours.mean for one in results], 0.6, color=PODS)
    for place, one in zip(places, results, strict=True):
        cost = "" if one.cost_per_study is None else f", {one.cost_per_study:.4f} a study"
        hours.text(one.pod_hours.mean, place, f" {one.pod_hours.mean:.0f} h{cost}", va="center")
    hours.margins(x=0.6)
    times.set_yticks(places, [one.name for one in results])
    times.invert_yaxis()
    means = [
        one.turnaround_s[group]["p95"].mean for one in results for group in ("stat", "routine")
    ]
    if max(means) > _LOG_FROM * min(means):
        times.set_xscale("log")
    else:
        times.margins(x=0.15)
        times.set_xlim(left=0)
    times.set_xlabel("p95 of the turnaround, s (95 % interval)")
    hours.set_xlabel("pod hours a day")
    times.legend(loc="lower right", frameon=False)
    _save(figure, title, path)


def plot_day(days: Mapping[str, DayOutcome], title: str, path: Path) -> None:
    """Entries of the queue and pods through one day, under each policy."""
    figure, panels = _figure(10, 1.2 + 1.7 * len(days), 1, len(days), sharex=True, sharey=True)
    for axes, (name, day) in zip(np.atleast_1d(panels), days.items(), strict=True):
        at_s, entries, pods = (np.array(one) for one in zip(*day.samples, strict=True))
        axes.fill_between(at_s / 3600, entries, color=ROUTINE, alpha=0.5, lw=0)
        axes.set_ylabel("queue", color=ROUTINE)
        axes.set_title(name, loc="left", fontsize=9)
        beside = axes.twinx()
        beside.step(at_s / 3600, pods, where="post", color=PODS, lw=1.8)
        beside.set_ylabel("pods", color=PODS)
        beside.set_ylim(0, 1.1 * max(day.most_pods for day in days.values()))
        axes.set_xlim(0, 24)
    np.atleast_1d(panels)[-1].set_xlabel("hour of the day")
    _save(figure, title, path)


def plot_hospitals(fleets: Mapping[str, Sequence[tuple[int, int]]], title: str, path: Path) -> None:
    """Pods that an aim needs, by number of hospitals."""
    figure, axes = _figure(8, 4.6, 1)
    for (name, points), style in zip(fleets.items(), ("o-", "D--"), strict=False):
        hospitals, pods = zip(*points, strict=True)
        axes.plot(hospitals, pods, style, color=PODS if "D" in style else ROUTINE, label=name)
        for x, y in points:
            axes.annotate(f"{y:,}", (x, y), xytext=(0, 7), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.12)
    axes.set_xlabel("hospitals")
    axes.set_ylabel("pods")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, title, path)


def plot_validation(validation: Validation, title: str, path: Path) -> None:
    """Part of the studies that ended within a time, in the model and in the run."""
    figure, axes = _figure(8, 4.2, 1)
    for values, name, colour in (
        (validation.measured_s, "measured", STAT),
        (validation.predicted_s, "predicted", ROUTINE),
    ):
        part = np.arange(1, len(values) + 1) / len(values)
        axes.step(values, part, where="post", color=colour, label=name)
    axes.axhline(0.95, color="grey", lw=0.8, ls=":")
    axes.set_xlabel("turnaround, s")
    axes.set_ylabel("part of the studies")
    axes.legend(loc="lower right", frameon=False)
    _save(figure, title, path)


def _figure(width: float, height: float, columns: int, rows: int = 1, **shared: Any) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **shared)


def _save(figure: Any, title: str, path: Path) -> None:
    figure.suptitle(title, fontsize=10)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)

"""The pictures of a load test, as PNG in memory.

studies, queue depths ─▶ turnaround over time │ queue │ throughput │ distribution
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np

from loadtest.traffic.faults import Fault
from loadtest.traffic.journal import Study
from loadtest.traffic.observer import Depth
from loadtest.traffic.slo import Slo, StudyClass, studies_of, turnarounds

__all__ = ("plot_distribution", "plot_queue", "plot_throughput", "plot_turnaround")

_DPI = 110
_COLOURS: Mapping[StudyClass, str] = MappingProxyType(
    {StudyClass.ROUTINE: "#1f6fb2", StudyClass.STAT: "#c8452f", StudyClass.REFUSED: "#9a9a9a"}
)
_BINS = 30


def plot_turnaround(studies: Sequence[Study], slo: Slo | None, struck: Sequence[Fault]) -> bytes:
    """Seconds of each study by when it was due, logarithmic; crosses are those that ended badly."""

    def draw(axes: Any) -> None:
        for which, colour in _COLOURS.items():
            chosen = studies_of(which, studies)
            good = [one for one in chosen if one.as_expected and one.turnaround_s]
            bad = [one for one in chosen if not one.as_expected]
            at, seconds = [one.arrival.at_s for one in good], [one.turnaround_s for one in good]
            axes.plot(at, seconds, ".", color=colour, label=f"{which} ({len(chosen)})", alpha=0.7)
            axes.plot([one.arrival.at_s for one in bad], [1.0] * len(bad), "x", color=colour)
        for limit in slo.turnaround if slo else ():
            colour, label = _COLOURS[limit.of], f"{limit.of} p{limit.percentile:g} limit"
            axes.axhline(limit.seconds, color=colour, linestyle=":", linewidth=1, label=label)
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
        axes.set_ylabel("seconds")
        axes.set_xlabel("due, seconds after the load began")
        _mark(axes, struck)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return _picture("Turnaround: due to result decrypted", draw)


def plot_queue(depths: Sequence[Depth], struck: Sequence[Fault]) -> bytes:
    """Jobs waiting or in work over time."""

    def draw(axes: Any) -> None:
        at = [one.at_s for one in depths]
        stat = np.array([one.stat for one in depths])
        routine = np.array([one.routine for one in depths])
        axes.stackplot(
            at,
            stat,
            routine,
            labels=["stat", "routine"],
            colors=[_COLOURS[StudyClass.STAT], _COLOURS[StudyClass.ROUTINE]],
            step="post",
        )
        axes.set_ylabel("jobs")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("seconds after the load began")
        _mark(axes, struck)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return _picture("Queue: waiting and in work", draw)


def plot_throughput(studies: Sequence[Study], struck: Sequence[Fault]) -> bytes:
    """Studies per hour that were due, and that ended, in equal parts of the time."""

    def draw(axes: Any) -> None:
        due = [one.arrival.at_s for one in studies]
        ended = [one.ended_s for one in studies if one.ended_s is not None]
        last = max([*due, *ended, 1.0])
        edges = np.linspace(0.0, last, _BINS + 1)
        per_h = 3600 * _BINS / last
        for times, colour, label in ((due, "#555555", "due"), (ended, "#1f6fb2", "ended")):
            counts = np.histogram(times, edges)[0] * per_h
            axes.stairs(counts, edges, color=colour, label=label, linewidth=1.5)
        axes.set_ylabel("studies per hour")
        axes.set_xlabel("seconds after the load began")
        _mark(axes, struck)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return _picture(f"Throughput, in {_BINS} parts of the time", draw)


def plot_distribution(studies: Sequence[Study]) -> bytes:
    """Which part of each class had its result after how many seconds."""

    def draw(axes: Any) -> None:
        for which, colour in _COLOURS.items():
            seconds = sorted(turnarounds(studies_of(which, studies)))
            finite = [one for one in seconds if math.isfinite(one)]
            if finite:
                parts = np.arange(len(finite) + 1) / len(seconds)
                axes.step([finite[0], *finite], parts, where="post", color=colour, label=which)
        for part in (0.5, 0.95, 0.99):
            axes.axhline(part, color="#dddddd", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        axes.set_xlabel("seconds")
        axes.set_ylabel("part of the studies")
        axes.set_ylim(0, 1.01)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return _picture("Distribution of the turnaround", draw)


def _plain_numbers(axis: Any) -> None:
    """0.5 and 20 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter("")


def _mark(axes: Any, struck: Sequence[Fault]) -> None:
    """Dashed lines where something was killed; time begins at 0."""
    for fault in struck:
        axes.axvline(fault.at_s, color="black", linestyle="--", linewidth=1)
        axes.annotate(
            f"{fault.part} killed",
            (fault.at_s, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, 2),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xlim(left=0)


def _picture(title: str, draw: Callable[[Any], None]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title(title, fontsize=10, loc="left", pad=16)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()

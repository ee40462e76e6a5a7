"""Pictures of a run, made from its report.

    python -m loadtest.plots

docs/performance/full.json ─▶ docs/img/bench-ways.png, bench-stages.png     soak.json ─▶ soak.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from client.cli.console import report_error
from client.errors import ClientError
from loadtest.loads import ENSEMBLE, RAW, SCRIPT, WHOLE, Load
from loadtest.report import Report, read_report
from loadtest.soakreport import SoakReport, read_soak
from loadtest.summary import Row, runs_of, stage_medians, summarise

__all__ = ("main", "plot_soak", "plot_stages", "plot_ways")

DOCS = Path(__file__).parents[1] / "docs"
OURS, YARDSTICK, OTHERS = "#1f6fb4", "#4d4d4d", "#c9a15b"
STAGE_COLOURS = ("#8da0cb", "#a6d854", "#ffd92f", "#1f6fb4", "#e78ac3", "#fc8d62", "#66c2a5",
                 "#b3b3b3", "#e5c494", "#5aa9e6", "#bc80bd", "#80b1d3")  # fmt: skip
MARKS = {False: "o", True: "D"}
MARK_STYLE: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 5}
DPI = 120


def plot_ways(report: Report, path: Path) -> None:
    """Throughput and CPU time of a slice: every way by precision, a bar for its highest load."""
    from matplotlib.figure import Figure

    rows = [*zip(report.distinct_loads, summarise(report), strict=True)]
    highest: dict[tuple[str, str], tuple[Load, Row]] = {}
    for load, row in rows:
        key = load.way, load.precision
        if key not in highest or load.in_flight > highest[key][0].in_flight:
            highest[key] = load, row
    precisions = [*dict.fromkeys(load.precision for load, _ in rows)]
    keys = sorted(
        highest, key=lambda key: (precisions.index(key[1]), -highest[key][1].slices_per_s)
    )
    places = dict(zip(keys, _places([precision for _, precision in keys]), strict=True))
    figure = Figure(figsize=(10, 1.6 + 0.34 * len(keys)), layout="constrained")
    rate, cpu = figure.subplots(1, 2, sharey=True)
    for axes, of, title in (
        (rate, attrgetter("slices_per_s"), "slices per second (more is better)"),
        (cpu, attrgetter("cpu_ms_per_slice"), "CPU ms per slice (less is better)"),
    ):
        for key, place in places.items():
            best, row = highest[key]
            axes.barh(place, of(row), color=_colour(best.way), height=0.72)
            others = [
                (load, of(other)) for load, other in rows if (load.way, load.precision) == key
            ]
            for load, value in others:
                if load != best:
                    axes.plot(value, place, MARKS[load.in_flight > 1], **MARK_STYLE)
            # Beside whatever reaches farthest, so that no number lies on a mark.
            reach = max(value for _, value in others) - of(row)
            axes.annotate(
                f"{of(row):.1f}",
                (of(row) + reach, place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_title(title, fontsize=10, loc="left", pad=14)
        axes.margins(x=0.14)
        _tidy(axes)
    rate.set_yticks(
        [*places.values()], [f"{way}, {highest[way, p][0].title}" for way, p in keys], fontsize=8
    )
    rate.invert_yaxis()
    for precision in precisions:
        first = min(place for key, place in places.items() if key[1] == precision)
        rate.annotate(
            precision,
            (0, first - 0.5),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=9,
            weight="bold",
            va="bottom",
        )
    figure.legend(
        handles=[_mark(MARKS[False], "one in flight"), _mark(MARKS[True], "a few in flight")],
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    _save(figure, path)


def _mark(mark: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker=mark, linestyle="", label=label, **MARK_STYLE)


def _places(groups: Sequence[str]) -> list[float]:
    """Where the bars stand: one below the other, with a gap before each new group."""
    places, at = [], 0.0
    for number, group in enumerate(groups):
        at += 1.0 if number and group == groups[number - 1] else 1.9
        places.append(at)
    return places


def _colour(way: str) -> str:
    return {RAW: YARDSTICK, ENSEMBLE: OURS, WHOLE: "#5aa9e6"}.get(way, OTHERS)


def plot_stages(report: Report, path: Path) -> None:
    """The time of one study by stage, one bar for each precision, and the script's."""
    from matplotlib.figure import Figure

    loads = [
        load
        for load in report.distinct_loads
        if load.unit == "study" and load.in_flight == 1 and runs_of(report, load)
    ]
    bars = {f"{load.way}, {load.precision}": stage_medians(report, load) for load in loads}
    larges = [one.large for one in report.rounds if one.large is not None]
    names = [*dict.fromkeys(name for stages in bars.values() for name in stages)]
    script = {f"{SCRIPT}, f32"}
    ours = [name for name in names if any(name in bars[bar] for bar in bars if bar not in script)]
    count = 1 + bool(larges)
    figure = Figure(figsize=(10, 1.6 + 0.5 * len(bars) + 0.9 * bool(larges)), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False, height_ratios=[max(1, len(bars)), 1][:count])
    colours = {
        name: STAGE_COLOURS[number % len(STAGE_COLOURS)] for number, name in enumerate(names)
    }
    work = report.workload
    title = f"one study of {work.slices} slices, {work.rows} x {work.columns}: seconds by stage"
    _stacked(panels[0, 0], bars, colours, title)
    if larges:
        first = larges[0]
        stages = {span.name: span.seconds for span in first.stages_s}
        title = f"one study of {first.slices} slices, 512 x 512"
        _stacked(panels[1, 0], {f"{WHOLE}, {first.precision}": stages}, colours, title)
    handles = [
        _patch(colours[name], name) for name in (*ours, *(n for n in names if n not in ours))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    _save(figure, path)


def _stacked(
    axes: Any, bars: dict[str, dict[str, float]], colours: dict[str, str], title: str
) -> None:
    for place, stages in enumerate(bars.values()):
        left = 0.0
        for name, seconds in stages.items():
            axes.barh(place, seconds, left=left, color=colours.get(name, "#bbbbbb"), height=0.6)
            left += seconds
        axes.text(left, place, f" {left:.2f} s", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [*bars], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_title(title, fontsize=10, loc="left")
    _tidy(axes)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def plot_soak(report: SoakReport, path: Path) -> None:
    """Memory by process, descriptors and queue over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    memory, descriptors, queue = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    minutes = [one.at_s / 60 for one in report.samples]
    last = {one.name: one.mib for one in report.samples[-1].memory}
    for name in sorted(last, key=lambda each: -last[each]):
        values = [
            next((each.mib for each in one.memory if each.name == name), 0.0)
            for one in report.samples
        ]
        memory.plot(minutes, values, label=name, linewidth=2 if name == "all" else 1)
    memory.set_title("proportional set size, MiB", fontsize=10, loc="left")
    memory.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    descriptors.plot(minutes, [one.descriptors for one in report.samples], color=OURS)
    descriptors.set_title("open file descriptors", fontsize=10, loc="left")
    queue.plot(minutes, [one.queued for one in report.samples], color=OURS, label="in the queue")
    queue.plot(minutes, [one.latency_s for one in report.samples], color=OTHERS,
               label="time of a study, s")  # fmt: skip
    queue.set_title("queue and latency", fontsize=10, loc="left")
    queue.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    queue.set_xlabel("minutes", fontsize=9)
    for axes in (memory, descriptors, queue):
        axes.axvspan(0, report.warm_up_s / 60, color="#eeeeee", zorder=0)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, max(minutes))
        _tidy(axes)
    _save(figure, path)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def main() -> int:
    """Draws every picture whose report is there."""
    try:
        report = read_report(DOCS / "performance" / "full.json")[0]
        plot_ways(report, DOCS / "img" / "bench-ways.png")
        plot_stages(report, DOCS / "img" / "bench-stages.png")
        soak = DOCS / "performance" / "soak.json"
        if soak.exists():
            plot_soak(read_soak(soak), DOCS / "img" / "soak.png")
    except ClientError as error:
        return report_error(error, as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

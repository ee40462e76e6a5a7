"""Tables of a run, for a terminal and for a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loadtest.clienttier import COUNTED
from loadtest.loads import RAW, Load
from loadtest.report import Report
from loadtest.summary import Row, cpu_medians, runs_of, stage_medians
from loadtest.verdicts import Verdict, tier_ms

__all__ = (
    "agreement_table",
    "cpu_table",
    "markdown",
    "memory_table",
    "rich_table",
    "stage_table",
    "summary_table",
    "tier_table",
    "verdict_table",
)

Lines = Sequence[Sequence[str]]
ANSWERS = {True: "yes", False: "**no**", None: "–"}


def verdict_table(verdicts: Iterable[Verdict]) -> Lines:
    """One line per aim."""
    head = ("figure", "aim", "value", "reached")
    return [
        head,
        *((one.name, one.aim, one.value or "–", ANSWERS[one.reached]) for one in verdicts),
    ]


def summary_table(rows: Iterable[Row]) -> Lines:
    """The main table: a heading, then one line per load."""
    head = (
        "way",
        "precision",
        "in flight",
        "slices/s",
        "÷ raw",
        "CPU ms",
        "efficiency",
        "p50",
        "p99",
        "peak MiB",
        "others",
    )
    return [head, *(_line(row) for row in rows)]


def _line(row: Row) -> Sequence[str]:
    return (
        row.way,
        row.precision,
        row.in_flight,
        f"{row.slices_per_s:.1f}",
        _ratio(row.rate_ratio),
        f"{row.cpu_ms_per_slice:.1f}",
        _ratio(row.efficiency),
        _time(row.latency_p50_ms),
        _time(row.latency_p99_ms),
        f"{row.peak_mib:.0f}",
        f"{row.others_share:.0%}",
    )


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _time(ms: float) -> str:
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.1f} ms"


def cpu_table(report: Report, precision: str) -> Lines:
    """CPU milliseconds per slice by process of ours and the raw engine, one column per load."""
    loads = [
        load
        for load in report.distinct_loads
        if load.precision == precision and (load.way == RAW or load.way in _OURS)
    ]
    columns = [cpu_medians(report, load) for load in loads]
    names = dict.fromkeys(name for column in columns for name in column)
    head = ("process", *(f"{load.way}, {load.title}" for load in loads))
    body = [
        (name, *(f"{column[name]:.1f}" if name in column else "" for column in columns))
        for name in names
    ]
    return [head, *body, ("**all**", *(f"{sum(column.values()):.1f}" for column in columns))]


_OURS = ("ensemble", "whole way")


def memory_table(report: Report, precision: str) -> Lines:
    """Peak MiB by process on the whole way, one column per load."""
    loads = [load for load in _study_loads(report) if load.precision == precision]
    columns = []
    for load in loads:
        peaks: dict[str, float] = {}
        for run in runs_of(report, load):
            for one in run.memory:
                peaks[one.name] = max(one.mib, peaks.get(one.name, 0.0))
        columns.append(peaks)
    names = dict.fromkeys(name for column in columns for name in column)
    head = ("process", *(load.title for load in loads))
    return [
        head,
        *((name, *(f"{column.get(name, 0.0):.0f}" for column in columns)) for name in names),
    ]


def stage_table(report: Report) -> Lines:
    """Wall seconds by stage of one study, alone and beside others."""
    loads = _study_loads(report)
    columns = [stage_medians(report, load) for load in loads]
    names = dict.fromkeys(name for column in columns for name in column)
    head = ("stage", *(f"{load.title}, {load.precision}, s" for load in loads))
    body = [
        (name, *(f"{column[name]:.2f}" if name in column else "" for column in columns))
        for name in names
    ]
    return [head, *body, ("**all**", *(f"{sum(column.values()):.2f}" for column in columns))]


def _study_loads(report: Report) -> list[Load]:
    return [load for load in report.distinct_loads if load.way == "whole way"]


def tier_table(report: Report) -> Lines:
    """CPU milliseconds per slice of the client tier's steps."""
    steps = tier_ms(report)
    body = [(name, f"{ms:.3f}", "yes" if name in COUNTED else "no") for name, ms in steps.items()]
    total = sum(steps[name] for name in COUNTED) if steps else 0.0
    return [("step", "CPU ms per slice", "counted"), *body, ("**counted**", f"{total:.3f}", "")]


def agreement_table(report: Report) -> Lines:
    """Which answers are the same."""
    head = ("way", "precision", "compared with", "pixels", "equal", "equal in structures")
    return [
        head,
        *(
            (
                one.way,
                one.precision,
                one.reference,
                f"{one.pixels:,}",
                f"{one.equal:.4%}",
                f"{one.equal_in_structures:.3%}",
            )
            for one in report.agreement
        ),
    ]


def rich_table(lines: Lines, title: str) -> Table:
    """A table for a terminal."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(lines[0]):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for line in lines[1:]:
        table.add_row(*line)
    return table


def markdown(lines: Lines) -> str:
    """A table for a page."""
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))

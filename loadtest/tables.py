"""Tables of a run, for a terminal and for a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loadtest.report import Report
from loadtest.summary import LOADS, Row, cpu_medians, stage_medians, summarise

__all__ = ("cpu_table", "markdown", "rich_table", "stage_table", "summary_table")

Lines = Sequence[Sequence[str]]


def summary_table(rows: Iterable[Row]) -> Lines:
    """The main table: a heading, then one line per load."""
    head = (
        "way",
        "in flight",
        "slices/s",
        "÷ raw",
        "CPU ms",
        "efficiency",
        "p50",
        "others",
    )
    return [head, *(_line(row) for row in rows)]


def _line(row: Row) -> Sequence[str]:
    slow = row.latency_p50_ms >= 1000
    latency = f"{row.latency_p50_ms / 1000:.2f} s" if slow else f"{row.latency_p50_ms:.1f} ms"
    return (
        row.way,
        row.in_flight,
        f"{row.slices_per_s:.1f}",
        f"{row.rate_ratio:.2f}",
        f"{row.cpu_ms_per_slice:.1f}",
        f"{row.efficiency:.2f}",
        latency,
        f"{row.others_share:.0%}",
    )


def cpu_table(report: Report) -> Lines:
    """CPU milliseconds per slice by process, one column per load; a blank where it had no part."""
    columns = [cpu_medians(report, load) for load in LOADS]
    names = dict.fromkeys(name for column in columns for name in column)
    head = ("process", *(f"{load.way}, {load.title}" for load in LOADS))
    body = [
        (name, *(f"{column[name]:.1f}" if name in column else "" for column in columns))
        for name in names
    ]
    total = ("**all**", *(f"{row.cpu_ms_per_slice:.1f}" for row in summarise(report)))
    return [head, *body, total]


def stage_table(report: Report) -> Lines:
    """Wall seconds by stage of one study, alone and beside others."""
    loads = [load for load in LOADS if load.unit == "study"]
    columns = [stage_medians(report, load) for load in loads]
    head = ("stage", *(f"{load.title}, s" for load in loads))
    body = [(name, *(f"{column[name]:.2f}" for column in columns)) for name in columns[0]]
    return [head, *body]


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

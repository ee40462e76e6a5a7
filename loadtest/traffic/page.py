"""The report of a load test: one HTML file that needs nothing else, pictures included."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from loadtest.traffic.outcome import Step, held_per_h
from loadtest.traffic.plots import (
    plot_distribution,
    plot_queue,
    plot_throughput,
    plot_turnaround,
)
from loadtest.traffic.run import Run
from loadtest.traffic.slo import Check, Slo, StudyClass, percentile, studies_of, turnarounds

__all__ = ("write_page",)

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.25rem .6rem;"
    "text-align:left}.no{color:#b00020;font-weight:bold}.yes{color:#1b7f3b}img{max-width:100%}"
)


def write_page(
    run: Run, slo: Slo | None, checks: Sequence[Check], steps: Sequence[Step], path: Path
) -> None:
    """Write the report.

    Args:
        run: What came of the load.
        slo: Its limits; None without a verdict.
        checks: The verdict; empty without one.
        steps: Of a stepped load.
        path: Where the file goes.
    """
    title = f"Load test: {run.options.load.shape}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(run),
        _verdict(checks),
        _steps(steps),
        "<h2>Turnaround, seconds</h2>",
        _turnaround(run),
        *_pictures(run, slo),
        "<h2>The generator</h2>",
        _generators(run),
        f"<p>Machine: {escape(run.machine.cpu)}, {run.machine.cores} cores, "
        f"{run.machine.memory_gib:g} GiB; {escape(', '.join(run.machine.versions))}.</p>",
    ]
    body = "\n".join(part for part in parts if part)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n",
        encoding="utf-8",
    )


def _summary(run: Run) -> str:
    load, accounts = run.options.load, run.accounts
    faults = ", ".join(f"{one.part} killed at {one.at_s:g} s" for one in run.seen.struck)
    sent = sum(one.study_bytes for one in accounts.studies) / 1e6
    return (
        f"<p>{escape(run.started_at)}, {escape(run.options.where)}, "
        f"target {escape(run.options.target)}; "
        f"seed {load.seed}; {len(accounts.studies)} studies, {sent:.0f} MB, in "
        f"{run.seconds:.0f} s; {accounts.acknowledged} acknowledged, {accounts.lost} lost; "
        f"all ended {accounts.settled_s:g} s after the generators. "
        f"{escape(faults) or 'Nothing was broken on purpose'}.</p>"
    )


def _verdict(checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    rows = [(check.name, check.aim, check.value, "yes" if check.held else "no") for check in checks]
    held = all(check.held for check in checks)
    word = '<span class="yes">held</span>' if held else '<span class="no">not held</span>'
    return f"<h2>Verdict: {word}</h2>" + _table(("promise", "aim", "seen", "held"), rows)


def _steps(steps: Sequence[Step]) -> str:
    if not steps:
        return ""
    rows = [
        (
            f"{one.offered_per_h:g}",
            f"{one.finished_per_h:g}",
            _seconds(one.p95_s),
            "yes" if one.held else "no",
        )
        for one in steps
    ]
    return f"<h2>Steps: {held_per_h(steps):g} studies per hour held</h2>" + _table(
        ("due per hour", "ended per hour", "p95, s", "held"), rows
    )


def _turnaround(run: Run) -> str:
    rows = []
    for which in StudyClass:
        chosen = studies_of(which, run.accounts.studies)
        if chosen:
            seconds = turnarounds(chosen)
            values = [_seconds(percentile(seconds, p)) for p in (50.0, 95.0, 99.0, 100.0)]
            bad = sum(not one.as_expected for one in chosen)
            rows.append((which.value, str(len(chosen)), *values, str(bad)))
    return _table(("class", "studies", "p50", "p95", "p99", "longest", "ended badly"), rows)


def _pictures(run: Run, slo: Slo | None) -> list[str]:
    studies, struck = run.accounts.studies, run.seen.struck
    pictures = [plot_turnaround(studies, slo, struck)]
    if run.seen.depths:
        pictures.append(plot_queue(run.seen.depths, struck))
    pictures += [plot_throughput(studies, struck), plot_distribution(studies)]
    return [
        f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(one).decode()}"></p>'
        for one in pictures
    ]


def _generators(run: Run) -> str:
    rows = [
        (f"{number}", f"{one.cpu_s:.1f}", f"{one.cpu_s / one.seconds:.1%}", str(one.most_in_flight))
        for number, one in enumerate(run.generators)
    ]
    return _table(("generator", "CPU s", "of one core", "most studies under way"), rows)


def _seconds(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "endless"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"

"""Writes the answer to a capacity question: JSON for programs, one HTML file for people.

question + results ─▶ capacity.json, capacity.html (tables, pictures inside it)
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.simulation.answers import ALL, CLASSES, QUANTILES, Estimate, PolicyResult, Question
from loadtest.simulation.validation import MOST_ERROR, Validation

__all__ = ("SCHEMA", "describe", "policy_rows", "validation_rows", "write_html", "write_json")

SCHEMA = "hounsfield.capacity/1"
Row = Mapping[str, str]
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.3em .8em;border-bottom:1px solid #ccc;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    ".assumed{background:#fdecea;padding:.6em 1em;border-left:4px solid #c0392b}"
)


def describe(question: Question) -> dict[str, Any]:
    """What was asked, as JSON values; where assumptions went in, it says so."""
    return {
        "hospitals": question.hospitals,
        "peak": question.peak,
        "cells": question.cells,
        "hospitals_in_a_cell": question.in_cell,
        "replications": question.replications,
        "seed": question.seed,
        "places": question.settings.places,
        "start_s": question.settings.start_s,
        "hospital": question.hospital.source,
        "service_times": question.times.source,
        "service_times_assumed": question.times.assumed,
        "work_pods_in_a_cell": round(question.work_pods, 3),
    }


def policy_rows(results: Sequence[PolicyResult]) -> list[Row]:
    """A table: one row for each policy."""
    return [
        {
            "policy": one.name,
            "pods, at most": f"{one.fleet_pods:,}",
            **{
                f"{group}: p50, p95, p99, s": ", ".join(
                    _interval(one.turnaround_s[group][f"p{q}"]) for q in QUANTILES
                )
                for group in CLASSES
                if group != ALL
            },
            "pod h/day": f"{one.pod_hours.mean:,.1f}",
            "busy": f"{one.busy:.0%}",
            "cost/study": "–" if one.cost_per_study is None else f"{one.cost_per_study:.4f}",
            "kWh/day": "–" if one.kwh_per_day is None else f"{one.kwh_per_day:,.1f}",
        }
        for one in results
    ]


def validation_rows(validation: Validation) -> list[Row]:
    """A table: one row for each quantile of each class."""
    return [
        {
            "class": one.group,
            "studies": f"{one.studies}",
            "quantile": f"p{one.quantile}",
            "predicted": f"{one.predicted_s:.2f} s",
            "measured": f"{one.measured_s:.2f} s",
            "error": f"{one.error:+.0%}",
            f"within {MOST_ERROR:.0%}": ("yes" if abs(one.error) <= MOST_ERROR else "NO")
            if one.judged
            else "not judged",
        }
        for one in validation.comparisons
    ]


def write_json(path: Path, command: str, question: Question, **parts: Any) -> None:
    """Everything, with the question beside the answers."""
    report = {"schema": SCHEMA, "command": command, "question": describe(question), **parts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(report), indent=1) + "\n", encoding="utf-8")


def write_html(
    path: Path,
    command: str,
    question: Question,
    tables: Mapping[str, Sequence[Row]],
    pictures: Sequence[Path],
) -> None:
    """One file that needs nothing else."""
    asked = describe(question)
    warning = (
        "<p class=assumed><b>The service times are an assumption, not a measurement.</b></p>"
        if question.times.assumed
        else ""
    )
    body = [
        "<h1>Capacity</h1>",
        f"<p><code>{escape(command)}</code></p>",
        warning,
        *(f"<h2>{escape(title)}</h2>{_table(rows)}" for title, rows in tables.items() if rows),
        *(
            f'<p><img alt="{picture.stem}" src="data:image/png;base64,'
            f'{base64.b64encode(picture.read_bytes()).decode()}"></p>'
            for picture in pictures
        ),
        "<h2>What was asked</h2>",
        _table([{"what": name, "value": str(value)} for name, value in asked.items()]),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"<!doctype html><meta charset=utf-8><title>Capacity</title><style>{_STYLE}</style>"
    path.write_text(head + "\n".join(body) + "\n", encoding="utf-8")


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = [
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _interval(estimate: Estimate) -> str:
    """With its interval where that shows."""
    known = not math.isinf(estimate.half) and estimate.half >= 0.05
    return f"{estimate.mean:.1f}" + (f" ± {estimate.half:.1f}" if known else "")


def _plain(value: Any) -> Any:
    """JSON has no infinity: an interval from one replication is null."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return None if math.isinf(value) else round(value, 5)
    return value

"""What follows from a report, for readers that only want that: rows and verdicts as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from loadtest.report import Report
from loadtest.summary import summarise
from loadtest.verdicts import verdicts_of

__all__ = ("results_of",)


def results_of(report: Report) -> dict[str, list[dict[str, Any]]]:
    """The rows of the main table and the verdicts on the aims."""
    return {
        "rows": [asdict(row) for row in summarise(report)],
        "verdicts": [asdict(verdict) for verdict in verdicts_of(report)],
    }

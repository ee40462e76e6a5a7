"""Adds entries up by study, model, site or month; no grouping loses or doubles anything.

JobSpending ──▶ entries ──by key──▶ Report: a line for each group, and their sum
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from typing import TYPE_CHECKING

from client.costs.amounts import Amounts
from client.costs.entries import Entry, Period, entries

if TYPE_CHECKING:
    from client.ledger.spent import JobSpending

__all__ = ("Grouping", "Report", "make_report")


class Grouping(StrEnum):
    """What a line of a report is about."""

    STUDY = "study"
    """A job, by its id."""
    MODEL = "model"
    """A model; "" are studies that came to none."""
    SITE = "site"
    """A tenant."""
    MONTH = "month"
    """A calendar month, UTC."""


_KEYS: Mapping[Grouping, Callable[[Entry], str]] = {
    Grouping.STUDY: lambda entry: entry.job_id,
    Grouping.MODEL: lambda entry: entry.model,
    Grouping.SITE: lambda entry: entry.tenant,
    Grouping.MONTH: lambda entry: f"{entry.at.astimezone(UTC):%Y-%m}",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was used in a period.

    Attributes:
        period: Which.
        by: What a line is about.
        lines: Amounts by name, ordered by name.
        total: Of all of them.
    """

    period: Period
    by: Grouping
    lines: Mapping[str, Amounts]
    total: Amounts


async def make_report(
    spending: AsyncIterable[JobSpending], period: Period, by: Grouping, tenant: str = ""
) -> Report:
    """Add up what jobs took within a period.

    Args:
        spending: As the ledger has it.
        period: Which entries count.
        by: What a line is about.
        tenant: Only this one's jobs; "" for all.
    """
    key, lines = _KEYS[by], dict[str, Amounts]()
    async for job in spending:
        if tenant in ("", job.tenant):
            for entry in entries(job, period):
                lines[key(entry)] = lines.get(key(entry), Amounts()) + entry.amounts
    total = sum(lines.values(), Amounts())
    return Report(period, by, dict(sorted(lines.items())), total)

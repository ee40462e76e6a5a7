"""A report as rows of text and numbers, the same for every form that it is shown in."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from client.costs.amounts import Amounts
from client.costs.grouping import Report
from client.costs.prices import PriceList

__all__ = ("Row", "as_json", "rounded", "rows", "total_row")

Row = Mapping[str, str | int | Decimal]

_DAY_US = 86_400 * 10**6
_MONEY_PLACES = 6
TOTAL = "total"
"""Name of the line that sums up."""


def rows(report: Report, prices: PriceList | None) -> list[Row]:
    """Return a row for each line; every row has the same columns.

    Args:
        report: What was used.
        prices: What it costs; None: no columns of money.

    Raises:
        ConfigurationError: An engine has no price.
    """
    return [_row(report.by.value, name, amounts, prices) for name, amounts in report.lines.items()]


def total_row(report: Report, prices: PriceList | None) -> Row:
    """Return the row of the sum. It is rounded by itself, not the sum of rounded rows."""
    return _row(report.by.value, TOTAL, report.total, prices)


def as_json(report: Report, prices: PriceList | None) -> dict[str, Any]:
    """Return a report for programs; numbers with decimals are text, so that none is rounded."""
    lines = [_exact(row) for row in rows(report, prices)]
    return {
        "schema": "hounsfield.costs/1",
        "since": report.period.since.isoformat(),
        "until": report.period.until.isoformat(),
        "by": report.by.value,
        "currency": prices.currency if prices else None,
        "lines": [
            line | {"engines": _engines(amounts)}
            for line, amounts in zip(lines, report.lines.values(), strict=True)
        ],
        "total": _exact(total_row(report, prices)) | {"engines": _engines(report.total)},
    }


def rounded(value: Fraction, places: int) -> Decimal:
    """Return a decimal number, halves to even."""
    return Decimal(round(value * 10**places)).scaleb(-places)


def _row(by: str, name: str, amounts: Amounts, prices: PriceList | None) -> Row:
    engines = {"gpu": 0, "cpu": 0}
    for engine, used_us in amounts.engine_us.items():
        engines[engine.device] += used_us
    row: dict[str, str | int | Decimal] = {
        by: name,
        "studies": amounts.studies,
        "attempts": amounts.attempts,
        "unaccounted": amounts.unaccounted,
        "slices": amounts.slices,
        "gpu_seconds": _seconds(engines["gpu"]),
        "cpu_engine_seconds": _seconds(engines["cpu"]),
        "core_seconds": _seconds(amounts.cpu_us),
        "received_bytes": amounts.received_bytes,
        "fetched_bytes": amounts.fetched_bytes,
        "sent_bytes": amounts.sent_bytes,
        "gb_days": rounded(Fraction(amounts.kept_byte_us, 10**9 * _DAY_US), 6),
    }
    return row if prices is None else row | _money(amounts, prices)


def _money(amounts: Amounts, prices: PriceList) -> dict[str, str | int | Decimal]:
    bill = prices.bill(amounts)
    parts = {
        "engine": bill.engine,
        "cores": bill.cpu,
        "storage": bill.storage,
        "transfer": bill.transfer,
        "total": bill.total,
    }
    unit = prices.currency.lower()
    return {f"{name}_{unit}": rounded(part, _MONEY_PLACES) for name, part in parts.items()}


def _seconds(used_us: int) -> Decimal:
    return rounded(Fraction(used_us, 10**6), 3)


def _engines(amounts: Amounts) -> list[dict[str, str]]:
    return [
        {"device": engine.device, "engine": engine.name, "seconds": str(_seconds(used_us))}
        for engine, used_us in sorted(amounts.engine_us.items())
    ]


def _exact(row: Row) -> dict[str, Any]:
    return {name: str(cell) if isinstance(cell, Decimal) else cell for name, cell in row.items()}

"""report cost: what studies took and what that costs, from the command line."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.console import Output, run_async
from client.costs.grouping import Grouping
from client.errors import ConfigurationError
from client.settings import Settings, load_settings

if TYPE_CHECKING:
    from decimal import Decimal

    from client.costs.entries import Period
    from client.costs.grouping import Report
    from client.costs.prices import PriceList
    from client.costs.tables import Row

__all__ = ("app",)

app = typer.Typer(no_args_is_help=True, help="What the ledger knows about the whole system.")


_ABRIDGED = ("studies", "attempts", "gpu_seconds", "cpu_engine_seconds", "core_seconds", "gb_days")


class Form(StrEnum):
    """How a report is written."""

    TABLE = "table"
    CSV = "csv"
    HTML = "html"
    JSON = "json"


@app.callback()
def _reports() -> None:
    """Keep ``cost`` a command of its own while it is the only one."""


@app.command("cost")
def cost(
    since: Annotated[str, typer.Option(help="From here on: 2026-11-01 or 2026-11-01T06:00+01:00.")],
    until: Annotated[str, typer.Option(help="Up to here; empty: now.")] = "",
    by: Annotated[Grouping, typer.Option(help="What a line is about.")] = Grouping.SITE,
    site: Annotated[str, typer.Option(help="Only this tenant's studies; empty: all.")] = "",
    prices: Annotated[Path | None, typer.Option(help="Price list; none: amounts only.")] = None,
    form: Annotated[Form, typer.Option("--format", help="How it is written.")] = Form.TABLE,
    out: Annotated[Path, typer.Option(help="File to write; - is standard output.")] = Path("-"),
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Add up GPU time, cores, bytes stored and moved, and what they cost.

    Works on the ledger itself, of all tenants, and needs its audit key; that somebody asked is an
    entry of the audit trail. Dates without a zone are UTC. The table is abridged; csv, html and
    json tell everything.
    """
    from client.costs.prices import load_prices

    price_list = load_prices(prices) if prices else None
    report = run_async(_report(load_settings(), _period(since, until), by, site))
    form = Form.JSON if as_json else form
    if form is Form.TABLE and str(out) == "-":
        _show(report, price_list)
        return
    text = _written(report, price_list, form)
    if str(out) == "-":
        sys.stdout.write(text)
        return
    out.write_text(text, encoding="utf-8", newline="")
    Output(as_json).say(f"{len(report.lines)} lines written to {out}.")


async def _report(settings: Settings, period: Period, by: Grouping, site: str) -> Report:
    from client.audittrail import AuditEntry
    from client.costs.grouping import make_report
    from client.crypto.keydirectory import KeyDirectory
    from client.jobs import Actor
    from client.ledger.audit import SYSTEM_TENANT
    from client.ledger.ledger import Ledger

    key = KeyDirectory(Path(settings.keys)).audit_key()
    async with Ledger(settings.ledger_url, key) as ledger:
        asked = f"{period.since.isoformat()} to {period.until.isoformat()} by {by}"
        entry = AuditEntry("costs.reported", detail=f"{asked}, {site or 'all sites'}")
        await ledger.record(SYSTEM_TENANT, Actor("report"), entry)
        spending = ledger.spending(period.since, period.until)
        return await make_report(spending, period, by, site)


def _written(report: Report, prices: PriceList | None, form: Form) -> str:
    import json

    from client.costs.spreadsheet import as_csv
    from client.costs.tables import as_json, rows, total_row
    from client.costs.webpage import as_html

    match form:
        case Form.CSV:
            return as_csv([*rows(report, prices), total_row(report, prices)])
        case Form.HTML:
            return as_html(report, prices)
        case Form.JSON:
            return json.dumps(as_json(report, prices), indent=2, ensure_ascii=False) + "\n"
        case Form.TABLE:
            raise ConfigurationError("A table is for the screen: give --format csv, html or json.")


def _show(report: Report, prices: PriceList | None) -> None:
    from client.costs.tables import rows, total_row

    output = Output()
    since, until = (f"{at:%Y-%m-%d %H:%M}" for at in (report.period.since, report.period.until))
    found = [*rows(report, prices), total_row(report, prices)] if report.lines else []
    output.rows(f"Cost by {report.by}, {since} to {until} UTC", [_abridged(row) for row in found])
    if report.total.unaccounted:
        output.say(
            f"Attempts that ended without a word: {report.total.unaccounted}; what they took is "
            "not in here."
        )


def _abridged(row: Row) -> dict[str, str | int | Decimal]:
    kept = (*_ABRIDGED, *(name for name in row if name.startswith("total_")))
    name, first = next(iter(row.items()))
    return {name: first} | {column.replace("_", " "): row[column] for column in kept}


def _period(since: str, until: str) -> Period:
    from client.costs.entries import Period

    now = datetime.now(UTC)
    period = Period(
        _moment("--since", since), min(now, _moment("--until", until)) if until else now
    )
    if period.since >= period.until:
        raise ConfigurationError("Expected --since to lie before --until and before now.")
    return period


def _moment(option: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{option}: expected a date or a moment (ISO 8601), got {text!r}."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

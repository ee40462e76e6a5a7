"""A report as one HTML page that needs nothing else and runs nothing.

rows ──▶ the largest as bars (SVG) ──▶ all of them as a table
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape

from client.costs.grouping import Report
from client.costs.prices import PriceList
from client.costs.tables import Row, rows, total_row

__all__ = ("as_html",)

_MOST_BARS = 25
_WIDTH, _LABEL, _STEP = 760, 300, 22
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c2733; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid #d5dce3; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { vertical-align: bottom; } tfoot td { font-weight: 600; border-top: 2px solid #1c2733; }
.scroll { overflow-x: auto; } svg text { font: 13px system-ui, sans-serif; fill: #1c2733; }
"""


def as_html(report: Report, prices: PriceList | None) -> str:
    """Return the page; names are escaped, and a policy in it forbids scripts and loading.

    Raises:
        ConfigurationError: An engine has no price.
    """
    lines, total = rows(report, prices), total_row(report, prices)
    since, until = (f"{at:%Y-%m-%d %H:%M}" for at in (report.period.since, report.period.until))
    title = f"Cost by {report.by}, {since} to {until} UTC"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{_bars(lines, _measure(prices))}
<div class="scroll"><table>
<thead><tr>{_cells("th", [name.replace("_", " ") for name in total])}</tr></thead>
<tbody>
{chr(10).join(f"<tr>{_cells('td', list(row.values()))}</tr>" for row in lines)}
</tbody>
<tfoot><tr>{_cells("td", list(total.values()))}</tr></tfoot>
</table></div>
<p>{escape(_notes(report))}</p>
</body>
</html>
"""


def _measure(prices: PriceList | None) -> str:
    return f"total_{prices.currency.lower()}" if prices else "core_seconds"


def _bars(lines: Sequence[Row], measure: str) -> str:
    largest = sorted(lines, key=lambda row: -_number(row, measure))[:_MOST_BARS]
    top = max((_number(row, measure) for row in largest), default=Decimal(0))
    if not top:
        return ""
    room = _WIDTH - _LABEL - 110
    parts = []
    for index, row in enumerate(largest):
        name, y = str(next(iter(row.values()))) or "none", index * _STEP
        length = round(_number(row, measure) / top * room)
        parts.append(
            f'<text x="0" y="{y + 15}">{escape(_short(name))}</text>'
            f'<rect x="{_LABEL}" y="{y + 3}" width="{length}" height="15" fill="#2b6cb0"/>'
            f'<text x="{_LABEL + length + 6}" y="{y + 15}">{_number(row, measure)}</text>'
        )
    height = len(largest) * _STEP + 4
    heading = f"<h2>{escape(measure.replace('_', ' '))}</h2>"
    return (
        f'{heading}<svg role="img" aria-label="{escape(measure)}" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}">{"".join(parts)}</svg>'
    )


def _number(row: Row, name: str) -> Decimal:
    return Decimal(row[name])


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _cells(tag: str, values: Sequence[object]) -> str:
    return "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values)


def _notes(report: Report) -> str:
    rounding = "Rows are rounded each by itself, and so is their sum."
    if not report.total.unaccounted:
        return rounding
    silent = f"Attempts that ended without a word: {report.total.unaccounted}"
    return f"{silent}; what they took is not in here. {rounding}"

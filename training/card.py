"""Fill the tables of a model card from its measurements: JSON report ▶ Markdown.

python -m training.card --report docs/models/brain_mr.json --card docs/models/brain_mr.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

__all__ = ("fill", "main", "table")

_BEGIN, _END = "<!-- {}: written by training.card -->", "<!-- end of {} -->"


def table(results: list[dict[str, Any]], case: str) -> str:
    """Return the Markdown table of one case: a row for each plane and slice thickness."""
    rows = [r for r in results if r["case"] == case]
    names = list(rows[0]["dice"])
    heads = ["plane", "slice mm", *(name.replace("_", " ") for name in names)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in rows:
        cells = [row["plane"], f"{row['slice_mm']:g}", *(f"{row['dice'][n]:.3f}" for n in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(card: str, report: dict[str, Any]) -> str:
    """Return the card with the part between the marks of every case replaced.

    Raises:
        ValueError: The card has no marks for a case of the report.
    """
    for case in dict.fromkeys(row["case"] for row in report["results"]):
        begin, end = _BEGIN.format(case), _END.format(case)
        if begin not in card or end not in card:
            raise ValueError(f"expected the marks {begin!r} and {end!r} in the card")
        before, rest = card.split(begin, 1)
        after = rest.split(end, 1)[1]
        card = f"{before}{begin}\n{table(report['results'], case)}\n{end}{after}"
    return card


def main() -> None:
    """Rewrite the card in place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--card", type=Path, required=True)
    args = parser.parse_args()
    report = json.loads(args.report.read_text())
    args.card.write_text(fill(args.card.read_text(), report))


if __name__ == "__main__":
    main()

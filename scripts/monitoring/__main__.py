"""Writes what is made of other files for monitoring, or checks that it is up to date.

    python -m scripts.monitoring [--check]

rules/*.yaml ──▶ prometheusrule.yaml │ *_board.py ──▶ dashboards/*.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.monitoring.boards import to_json
from scripts.monitoring.capacity_board import CAPACITY
from scripts.monitoring.inference_board import INFERENCE
from scripts.monitoring.rules import COMPONENT, prometheus_rule
from scripts.monitoring.service_board import SERVICE

__all__ = ("BOARDS", "main", "outputs", "stale")

ROOT = Path(__file__).resolve().parents[2]
BOARDS = (SERVICE, INFERENCE, CAPACITY)


def outputs(root: Path) -> dict[Path, str]:
    """Return every made file: path below the repository's root -> content."""
    made = {COMPONENT / "prometheusrule.yaml": prometheus_rule(root)}
    for board in BOARDS:
        made[COMPONENT / "dashboards" / f"{board.name}.json"] = to_json(board)
    return made


def stale(root: Path) -> list[Path]:
    """Return the files that are not what would be written, and dashboards that nobody made."""
    made = outputs(root)
    wrong = [
        path
        for path, text in made.items()
        if not (root / path).exists() or (root / path).read_text(encoding="utf-8") != text
    ]
    there = (root / COMPONENT / "dashboards").glob("*.json")
    return wrong + [path for file in there if (path := file.relative_to(root)) not in made]


def main(argv: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` return 1 when one differs from what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    if parser.parse_args(argv).check:
        wrong = stale(ROOT)
        for path in wrong:
            sys.stderr.write(f"{path} is out of date: run `python -m scripts.monitoring`\n")
        return 1 if wrong else 0
    for path, text in outputs(ROOT).items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

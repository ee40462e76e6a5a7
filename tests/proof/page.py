"""Puts every proof on one page: docs/proof/*.json ──▶ docs/proof/README.md.

python -m tests.proof.page [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.proof.records import FOLDER, load_proofs

__all__ = ("PAGE", "main", "page_of")

PAGE = "README.md"
_HEAD = """# Proofs

Each of these was run on the real system and tried to break a promise. The commands run them again;
the files beside this page hold the figures. This page is written by `python -m tests.proof.page`.
"""


def page_of(proofs: Sequence[dict[str, Any]]) -> str:
    """Return the page: a summary, then each proof with its promises."""
    rows = ["| proof | what it shows | promises held | run |", "|---|---|---|---|"]
    rows += [_row(proof) for proof in proofs]
    return "\n".join([_HEAD, *rows, *(_section(proof) for proof in proofs)]) + "\n"


def _row(proof: dict[str, Any]) -> str:
    checks = proof["checks"]
    held = sum(check["held"] for check in checks)
    link = f"[{proof['name']}](#{proof['name']})"
    return f"| {link} | {_cell(proof['title'])} | {held} of {len(checks)} | {proof['at']} |"


def _section(proof: dict[str, Any]) -> str:
    machine = proof["machine"]
    lines = [
        f"\n## {proof['name']}",
        f"\n{proof['title']}. Run it: `{proof['command']}`. Figures: "
        f"[{proof['name']}.json]({proof['name']}.json), {proof['at']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}.\n",
        "| promise | expected | seen | held |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {_cell(check['promise'])} | {_cell(check['expected'])} | {_cell(check['seen'])} "
        f"| {'yes' if check['held'] else '**no**'} |"
        for check in proof["checks"]
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """One line without the bars that end a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Write the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when it is old")
    check = parser.parse_args(arguments).check
    page = page_of(load_proofs(folder))
    path = folder / PAGE
    if check:
        return 0 if path.exists() and path.read_text() == page else 1
    path.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

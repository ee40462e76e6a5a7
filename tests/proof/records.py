"""Writes what a proof run saw to docs/proof/<name>.json, the source of docs/proof/README.md."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ("FOLDER", "Check", "Proof", "load_proofs", "write_proof")

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "proof"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and what was seen: ``seen`` and ``expected`` are for people."""

    promise: str
    expected: str
    seen: str
    held: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """One run.

    Attributes:
        name: Short name, lower case with hyphens; also the file's name.
        title: What it proves, one line.
        command: What to type to run it again.
        checks: Every promise that was put to the test.
        figures: Everything else worth keeping: counts, seconds, bytes.
    """

    name: str
    title: str
    command: str
    checks: tuple[Check, ...]
    figures: Mapping[str, Any]

    @property
    def held(self) -> bool:
        """Whether every promise held."""
        return all(check.held for check in self.checks)


def write_proof(proof: Proof, folder: Path = FOLDER) -> Path:
    """Write one run, whether it held or not; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{proof.name}.json"
    content = {
        "name": proof.name,
        "title": proof.title,
        "command": proof.command,
        "held": proof.held,
        "at": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": ".".join(map(str, sys.version_info[:3])),
        },
        "checks": [
            {
                "promise": check.promise,
                "expected": check.expected,
                "seen": check.seen,
                "held": check.held,
            }
            for check in proof.checks
        ],
        "figures": dict(proof.figures),
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def load_proofs(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return every run on file, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

"""Breaks every part of the real system under load and writes what came of it to docs/proof.

python -m tests.proof.chaos [--fresh] [--scale 0.15] [--only ACT]

Acts that are done are kept in build/chaos, as long as the code is the same: run it again to resume.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.acts import (
    Act,
    crash_at_each_step,
    fill_the_disk,
    freeze_workers,
    kill_everything,
    kill_parts,
    play,
    wipe_the_queue,
)
from tests.faults.blows import Target
from tests.faults.judge import SETTLE_S
from tests.proof.records import FOLDER, Check, Proof, write_proof

__all__ = ("long_run", "main", "proof_of")

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "chaos"
_ALL = frozenset(Target)
_PAUSE_S = (0.3, 4.0)


def long_run(scale: float = 1.0) -> list[Act]:
    """Return the acts, with ``scale`` times the faults of a whole run."""

    def some(whole: int) -> int:
        return max(1, round(scale * whole))

    kills = [
        Act(
            name=f"kills-{number}",
            promise="kill -9 at random moments, of any part",
            breaks=kill_parts(some(50), _ALL, _PAUSE_S),
            database=True,
            store=True,
            studies=some(130),
            seed=number,
        )
        for number in range(1, 5)
    ]
    return [
        *kills,
        Act("steps", "a crash at each step of the ack order", crash_at_each_step(some(5))),
        Act("queue", "the queue wiped", wipe_the_queue(some(5))),
        Act("stale", "workers frozen past their lease", freeze_workers(some(15))),
        Act("all", "all processes killed at once", kill_everything(some(20))),
        Act("disk", "the disk full", fill_the_disk(some(4), full_s=8.0), small_disk=True),
    ]


def proof_of(outcomes: Sequence[dict[str, Any]]) -> Proof:
    """Sum up a run."""
    struck = sum((Counter(outcome["struck"]) for outcome in outcomes), Counter[str]())
    return Proof(
        name="chaos",
        title="Nothing is lost and nothing is done twice, whatever is killed, wiped or frozen",
        command="make chaos",
        checks=tuple(_check(outcome) for outcome in outcomes),
        figures={
            "studies": sum(outcome["verdict"]["acknowledged"] for outcome in outcomes),
            "kills": sum(number for what, number in struck.items() if what.startswith("kill ")),
            "faults": dict(sorted(struck.items())),
            "seconds": round(sum(outcome["seconds"] for outcome in outcomes)),
            "acts": list(outcomes),
        },
    )


def _check(outcome: dict[str, Any]) -> Check:
    verdict = outcome["verdict"]
    faults = sum(outcome["struck"].values())
    return Check(
        promise=f"{outcome['act']}: {outcome['promise']}",
        expected=f"0 lost, 0 repeated, all finished within {SETTLE_S:g} s of the last fault",
        seen=(
            f"{verdict['lost']} lost, {verdict['repeated']} repeated of "
            f"{verdict['acknowledged']} studies after {faults} faults; all finished "
            f"{verdict['settled_s']:g} s after the last"
        ),
        held=outcome["held"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Play every act that is not done yet; 1 when a promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget what was done before")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the faults")
    parser.add_argument("--only", action="append", help="names of acts")
    chosen = parser.parse_args(arguments)
    progress = BUILD / f"{_fingerprint()}-{chosen.scale:g}"
    if chosen.fresh:
        shutil.rmtree(BUILD, ignore_errors=True)
    progress.mkdir(parents=True, exist_ok=True)
    outcomes = [
        _played(act, progress / f"{act.name}.json")
        for act in long_run(chosen.scale)
        if not chosen.only or act.name in chosen.only
    ]
    whole = chosen.scale >= 1 and not chosen.only
    proof = proof_of(outcomes)
    path = write_proof(proof, FOLDER if whole else progress / "proof")
    print(f"{'held' if proof.held else 'BROKEN'}: see {path}")  # noqa: T201
    return 0 if proof.held else 1


def _played(act: Act, record: Path) -> dict[str, Any]:
    """Play an act, or return what it gave before."""
    if record.exists():
        outcome: dict[str, Any] = json.loads(record.read_text())
        return outcome
    folder = Path(tempfile.mkdtemp(prefix=f"hf-{act.name}-"))
    print(f"{act.name}: {act.promise} ...", flush=True)  # noqa: T201
    try:
        outcome = asyncio.run(play(act, folder)).as_dict()
    except BaseException:
        print(f"  broke off; everything is in {folder}", flush=True)  # noqa: T201
        raise
    print(f"  {_check(outcome).seen} ({outcome['seconds']:g} s)", flush=True)  # noqa: T201
    for finding in outcome["verdict"]["findings"][:20]:
        print(f"  BROKEN: {finding}", flush=True)  # noqa: T201
    if outcome["held"]:
        shutil.rmtree(folder, ignore_errors=True)
        record.write_text(json.dumps(outcome, indent=2))
    else:
        print(f"  everything is in {folder}", flush=True)  # noqa: T201
    return outcome


def _fingerprint() -> str:
    """What the outcomes are of: a hash of all code that takes part."""
    digest = hashlib.sha256()
    for folder in ("client", "preprocess", "model_repository", "tests/faults"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(os.fsencode(path.relative_to(ROOT)) + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())

"""Spoils the line between senders and gateway, and writes what came of it to docs/proof.

python -m tests.proof.network [--scale 0.2]        (root, iproute2 and iptables; else it is skipped)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.backpressure import Pressure, press
from tests.faults.judge import SETTLE_S
from tests.faults.line import why_not
from tests.faults.spoiling import (
    LineOutcome,
    Phase,
    half_open,
    lossy,
    partitions,
    play_phases,
    quiet,
    resets,
    slow,
)
from tests.proof.records import FOLDER, Check, Proof, write_proof

__all__ = ("MAX_RSS_MIB", "main", "phases", "proof_of")

MAX_RSS_MIB = 300
MAX_GROWTH_MIB = 100
BUILD = Path(__file__).parents[2] / "build" / "chaos"
_MIB = 1 << 20
_MIN_STUDIES = 10
"""More than a gateway takes at one time, so that one at least is told to come again."""


def phases(scale: float = 1.0) -> list[Phase]:
    """Return the phases, with ``scale`` times the faults of a whole run."""

    def some(whole: int) -> int:
        return max(1, round(scale * whole))

    return [
        Phase("slow", "8 Mbit/s each way", slow(40 * scale), side=512),
        Phase("loss", "30 % of the packets lost each way", lossy(90 * scale, 0.3), senders=8),
        Phase("latency", "200 ms more each way", quiet(40 * scale), side=128, delay_s=0.2),
        Phase("partitions", "5 s of each 20 s unplugged", partitions(some(6), 5.0, 15.0), side=128),
        Phase("resets", "connections reset in mid-upload", resets(some(20)), side=512),
        Phase("half-open", "the gateway restarted in silence", half_open(some(5), 6.0), side=256),
    ]


def proof_of(outcome: LineOutcome, pressure: Pressure) -> Proof:
    """Sum up a run."""
    verdict = outcome.verdict
    most_mib = outcome.memory.most_bytes / _MIB
    promises = {phase.name: phase.promise for phase in phases()}
    return Proof(
        name="network",
        title="Nothing is lost and nothing is done twice, whatever happens to the line",
        command="make chaos",
        checks=(
            Check(
                promise="; ".join(promises.values()),
                expected=f"0 lost, 0 repeated, all finished within {SETTLE_S:g} s",
                seen=(
                    f"{verdict.lost} lost, {verdict.repeated} repeated of {verdict.acknowledged} "
                    f"studies; all finished {verdict.settled_s:g} s after the last fault"
                ),
                held=verdict.held,
            ),
            Check(
                promise="The gateway's memory stays bounded meanwhile",
                expected=f"less than {MAX_RSS_MIB} MiB",
                seen=f"{most_mib:.0f} MiB",
                held=most_mib < MAX_RSS_MIB,
            ),
            *_pressure_checks(pressure),
        ),
        figures={"line": outcome.as_dict(), "backpressure": pressure.as_dict()},
    )


def _pressure_checks(pressure: Pressure) -> tuple[Check, ...]:
    grown_mib = pressure.memory.grown_bytes / _MIB
    return (
        Check(
            promise=(
                f"{pressure.offered_bytes / 1e9:.1f} GB are offered while the object store stands "
                "still: the gateway's memory stays bounded"
            ),
            expected=f"growth of less than {MAX_GROWTH_MIB} MiB",
            seen=f"{grown_mib:.0f} MiB",
            held=grown_mib < MAX_GROWTH_MIB,
        ),
        Check(
            promise="Who comes when every place is taken is told when to come again",
            expected="Busy with a pause of more than 0 s",
            seen=f"Busy with {pressure.hint_s:g} s" if pressure.hint_s else "no Busy",
            held=pressure.hint_s > 0,
        ),
        Check(
            promise="When the store goes on, every study gets in, without a restart",
            expected=f"{pressure.studies} acknowledged, 0 restarts",
            seen=f"{pressure.acknowledged} acknowledged, {pressure.restarts} restarts",
            held=pressure.acknowledged == pressure.studies and pressure.restarts == 0,
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when a promise did not hold, 0 also when it cannot be run here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the faults")
    scale = parser.parse_args(arguments).scale
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")  # noqa: T201
        return 0
    with _folder("hf-line-") as folder:
        outcome = asyncio.run(play_phases(phases(scale), folder))
    with _folder("hf-press-") as folder:
        pressure = asyncio.run(press(folder, max(_MIN_STUDIES, round(16 * scale))))
    proof = proof_of(outcome, pressure)
    for check in proof.checks:
        print(f"{check.promise}: {check.seen}")  # noqa: T201
    for finding in outcome.verdict.findings:
        print(f"  BROKEN: {finding}")  # noqa: T201
    path = write_proof(proof, FOLDER if scale >= 1 else BUILD / "network")
    print(f"{'held' if proof.held else 'BROKEN'}: see {path}")  # noqa: T201
    return 0 if proof.held else 1


@contextlib.contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """A folder with a short path, kept when something breaks."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    except BaseException as error:
        error.add_note(f"Logs and data are in {folder}.")
        raise
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

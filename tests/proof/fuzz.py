"""Proves that hostile input ends as a typed code: `python -m tests.proof.fuzz --runs 100000`.

Mutated files and messages go to the parsers in fuzzing processes, a part of them also through the
worker's isolation and over a real channel to a real gateway. Progress lies in build/fuzz: a run
that was broken off goes on. Writes docs/proof/fuzz.json.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.fuzz.bombs import bombs, growth
from tests.fuzz.campaign import MEMORY_MIB, Campaign, Progress
from tests.fuzz.isolated import mutated_files, read_isolated
from tests.fuzz.seeds import dicom_seeds, known_crashes
from tests.fuzz.tally import HANG_S
from tests.fuzz.targets import message_seeds
from tests.fuzz.wire import UNTYPED, send_mutated
from tests.gateways import running_gateway
from tests.proof.records import Check, Proof, write_proof

__all__ = ("main",)

_BUILD = Path(__file__).resolve().parents[2] / "build" / "fuzz"
_BOMB_GROWTH_MIB = 64
_CHILD_DIED = frozenset({"DECODER_CRASHED", "TIMED_OUT"})


def main() -> None:
    """Run, write the proof, and exit with 1 when a promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each target")
    parser.add_argument("--seconds", type=float, default=7200, help="longest time of each target")
    parser.add_argument("--isolated", type=int, default=500, help="files through the isolation")
    parser.add_argument("--wire", type=int, default=3000, help="messages to a real gateway")
    options = parser.parse_args()
    campaigns = {
        "messages": (Campaign("messages", _BUILD / "messages"), message_seeds()),
        "dicom": (Campaign("dicom", _BUILD / "dicom"), dicom_seeds()),
    }
    checks: list[Check] = []
    figures: dict[str, Any] = {}
    for name, (campaign, seeds) in campaigns.items():
        progress = campaign.run(seeds, options.runs, options.seconds)
        checks += _campaign_checks(name, progress, options.runs)
        figures[name] = _campaign_figures(progress)
    findings = [path.read_bytes() for path in campaigns["dicom"][0].findings]
    past = [*known_crashes("dicom").values(), *findings]
    isolated = read_isolated([*mutated_files(options.isolated, seed=7), *past])
    statuses = asyncio.run(_over_the_wire(options.wire))
    grown = _bomb_growth()
    checks += [_isolation_check(isolated), _wire_check(statuses), *_bomb_checks(grown)]
    figures |= {"isolated": dict(isolated), "statuses": dict(statuses), "bombs": grown}
    command = f"python -m tests.proof.fuzz --runs {options.runs}"
    title = "Mutated files and messages end as typed codes: no crash, no hang, bounded memory"
    proof = Proof("fuzz", title, command, tuple(checks), figures)
    write_proof(proof)
    sys.exit(not proof.held)


def _campaign_checks(name: str, progress: Progress, runs: int) -> list[Check]:
    kinds = Counter(progress.findings.values())
    found = f"{len(progress.findings)} findings {dict(kinds) or ''}".strip()
    seen = f"{progress.distinct} different inputs, {found}"
    return [
        Check(
            f"Mutated {name}: every input is answered with a typed code by the parser itself",
            f">= {runs} different inputs, 0 findings",
            seen,
            progress.distinct >= runs and not progress.findings,
        ),
        Check(
            f"Mutated {name}: no input takes longer than {HANG_S:g} s of processor time",
            f"< {HANG_S:g} s",
            f"{progress.slowest_s:.2f} s at most",
            progress.slowest_s < HANG_S,
        ),
        Check(
            f"Mutated {name}: a process that reads thousands of them stays small",
            f"< {MEMORY_MIB} MiB",
            f"{progress.peak_rss_mib} MiB at most",
            progress.peak_rss_mib < MEMORY_MIB,
        ),
    ]


def _campaign_figures(progress: Progress) -> dict[str, Any]:
    return {
        "inputs": progress.runs,
        "different_inputs": progress.distinct,
        "answers": dict(sorted(progress.answers.items())),
        "findings": dict(Counter(progress.findings.values())),
        "slowest_cpu_s": round(progress.slowest_s, 3),
        "peak_rss_mib": progress.peak_rss_mib,
        "processes": progress.processes,
        "seconds": round(progress.seconds),
    }


def _isolation_check(answers: Counter[str]) -> Check:
    died = sum(count for code, count in answers.items() if code in _CHILD_DIED)
    return Check(
        "The same through the worker's isolation: a code for each, and no child dies",
        "0 children died",
        f"{answers.total()} files, {died} children died",
        died == 0,
    )


async def _over_the_wire(count: int) -> Counter[str]:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        async with running_gateway(Path(folder)) as gateway:
            return await send_mutated(gateway, count, seed=11)


def _wire_check(statuses: Counter[str]) -> Check:
    wrong = {name: count for name, count in statuses.items() if name in UNTYPED}
    return Check(
        "Mutated messages to a real gateway: a typed status each, never INTERNAL or silence",
        f"none of {', '.join(sorted(UNTYPED))}",
        f"{statuses.total()} calls, {wrong or 'none'}",
        not wrong,
    )


def _bomb_growth() -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, study in bombs().items():
        with TemporaryDirectory(prefix="bomb-") as folder:
            found[name] = growth(study, Path(folder))
    return found


def _bomb_checks(grown: Mapping[str, Mapping[str, Any]]) -> list[Check]:
    return [
        Check(
            f"Bomb of 1000:1 ({name}): refused by a code, memory stays",
            f"refused, < {_BOMB_GROWTH_MIB} MiB more",
            f"{', '.join(one['codes'])}, {one['grown_bytes'] / 2**20:.1f} MiB more",
            bool(one["codes"]) and one["grown_bytes"] < _BOMB_GROWTH_MIB << 20,
        )
        for name, one in grown.items()
    ]


if __name__ == "__main__":
    main()

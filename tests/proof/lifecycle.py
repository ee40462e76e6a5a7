"""Drives the ledger at random against a model of the state machine, many seeds long.

python -m tests.proof.lifecycle [--seeds 50] [--examples 10] [--steps 100]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.ledger_machine import LedgerMachine
from tests.proof.records import Check, Proof, write_proof

__all__ = ("lives", "main")

PROGRESS = Path(__file__).resolve().parents[2] / "build" / "proof-lifecycle.json"
_MEMORY = Path("/dev/shm")


def lives(url: str, number: int, examples: int, steps: int) -> int:
    """Run one seed; return how many steps the ledger took.

    Raises:
        AssertionError: The ledger did what the model does not.
    """

    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(url)

    seed(number)(Machine)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Machine.steps_taken


def _one_seed(number: int, examples: int, steps: int) -> tuple[int, str]:
    folder = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="hounsfield-lives-", dir=folder) as home:
        try:
            return lives(f"sqlite+aiosqlite:///{home}/l.sqlite", number, examples, steps), ""
        except AssertionError as error:
            return 0, f"seed {number}: {error}"


def main() -> int:
    """Run every seed that has not been run, and write the proof; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--examples", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    PROGRESS.parent.mkdir(exist_ok=True)
    shape = f"{options.examples}x{options.steps}"
    done = json.loads(PROGRESS.read_text()) if PROGRESS.exists() else {}
    began = time.monotonic()
    for number in range(options.seeds):
        if f"{shape}:{number}" in done:
            continue
        steps, fault = _one_seed(number, options.examples, options.steps)
        done[f"{shape}:{number}"] = {"steps": steps, "fault": fault}
        PROGRESS.write_text(json.dumps(done))
    runs = [done[f"{shape}:{number}"] for number in range(options.seeds)]
    faults = [run["fault"] for run in runs if run["fault"]]
    steps = sum(run["steps"] for run in runs)
    proof = Proof(
        name="lifecycle",
        title="A job's life follows the table of transitions, whatever happens in what order",
        command="python -m tests.proof.lifecycle",
        checks=(
            Check(
                "After every step the ledger is as an independent model says: no illegal "
                "transition, stale attempts write nothing, one event for each transition",
                "0 differences",
                f"{len(faults)} differences in {steps} steps of {options.seeds} seeds",
                not faults,
            ),
        ),
        figures={
            "seeds": options.seeds,
            "steps": steps,
            "faults": faults,
            "seconds of this run": round(time.monotonic() - began),
        },
    )
    write_proof(proof)
    return 0 if proof.held else 1


if __name__ == "__main__":
    sys.exit(main())

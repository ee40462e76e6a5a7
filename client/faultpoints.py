"""Names the steps between which a crash must lose nothing, so that tests can crash there.

    code ──reach(step)──▶ nothing │ armed by a test: SIGKILL or SIGSTOP of this process

A step is armed by a file of its name in the folder that HOUNSFIELD_TEST_FAULTS names. Without that
variable, which only tests set, ``reach`` does nothing.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path

__all__ = ("VARIABLE", "Blow", "Step", "arm", "fault_environment", "reach")

VARIABLE = "HOUNSFIELD_TEST_FAULTS"


class Step(StrEnum):
    """Every named step, in the order in which a study passes them."""

    UPLOAD_BEGUN = "upload-begun"
    """Gateway: the header was accepted, nothing is stored."""
    OBJECT_STORED = "object-stored"
    """Gateway: the ciphertext is durable, no job has it."""
    SUBJECT_KEY_MADE = "subject-key-made"
    """Gateway: the vault has a key for the patient, and nothing is sealed under it."""
    ROW_COMMITTED = "row-committed"
    """Gateway: the job is entered, the queue does not know it."""
    HINTED = "hinted"
    """Gateway: the queue knows the job, the ledger does not know that it does."""
    MARKED_QUEUED = "marked-queued"
    """Gateway: ledger and queue agree, the sender was not told."""
    ENTRY_TAKEN = "entry-taken"
    """Worker: it has the queue's entry, but not the job."""
    CLAIMED = "claimed"
    """Worker: the job is its own."""
    STUDY_OPENED = "study-opened"
    """Worker: the study is decrypted in memory."""
    RESULT_STORED = "result-stored"
    """Worker: the result is durable, the ledger does not know it."""
    RESULT_COMMITTED = "result-committed"
    """Worker: the job is done, the queue still has its entry."""
    ACKED = "acked"
    """Worker: the entry is gone."""
    REQUEUED = "requeued"
    """Reconciler: a lost job is in the queue again."""
    KEY_DESTROYED = "key-destroyed"
    """Erasure: nobody can read the patient's studies any more, and nothing says so."""
    ERASURE_PROVED = "erasure-proved"
    """Erasure: the audit trail says so, the objects still take up room."""


class Blow(StrEnum):
    """What happens to the process that reaches an armed step."""

    KILL = "SIGKILL"
    """It dies at once."""
    FREEZE = "SIGSTOP"
    """It stands still until SIGCONT, then goes on as if nothing had been."""


def reach(step: Step) -> None:
    """Mark the place where a step was just completed; harmless unless a test armed it."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    armed = Path(folder, step)
    try:
        blow = Blow(armed.read_text())
        armed.unlink()  # only one of several processes gets past this line
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.Signals[blow])


def arm(folder: Path, step: Step, blow: Blow = Blow.KILL) -> Path:
    """Make the next process that reaches the step suffer; return the file, gone when it happened.

    Args:
        folder: What HOUNSFIELD_TEST_FAULTS names in the processes under test.
        step: Where.
        blow: What.
    """
    fresh = folder / f".{step}"
    fresh.write_text(blow)
    return fresh.replace(folder / step)


def fault_environment() -> dict[str, str]:
    """Return the variable for a child process; empty when this process is not under test."""
    folder = os.environ.get(VARIABLE)
    return {} if folder is None else {VARIABLE: folder}

"""A process whose interpreter is stuck ends; one that only waits does not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PROGRAM = """
import ctypes, time
from preprocess.serving.deadlock import end_when_stuck
end_when_stuck(1.0)
{wait}
print("alive")
"""
# PyDLL keeps the interpreter's lock while it is in C.
STUCK, WAITING = "ctypes.PyDLL(None).sleep(20)", "time.sleep(2.5)"


def run(wait: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(wait=wait)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_stuck_process_ends() -> None:
    assert run(STUCK).returncode == -signal.SIGALRM


def test_a_waiting_process_goes_on() -> None:
    done = run(WAITING)
    assert (done.returncode, done.stdout) == (0, "alive\n")

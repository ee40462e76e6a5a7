"""A process whose interpreter is stuck ends; one that only waits does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PROGRAM = """
import ctypes, time
from preprocess.serving.deadlock import end_when_stuck
end_when_stuck()
{wait}
print("alive")
"""
# PyDLL keeps the interpreter's lock while it is in C; the second of the two never returns.
STUCK = """
mutex = (ctypes.c_char * 64)()
for _ in range(2):
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)
"""
WAITING = "time.sleep(4)"


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


def test_a_process_that_was_paused_goes_on() -> None:
    wait = "import os; print(os.getpid(), flush=True); time.sleep(2.5)"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(wait=wait)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(0.1)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        os.kill(pid, signal.SIGCONT)
        assert process.communicate(timeout=30)[0] == "alive\n"
    assert process.returncode == 0

"""CPU time of process trees: nothing is lost when children end, nothing is counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from client.errors import Transient
from loadtest.accounting import read_cpu, spent

pytestmark = pytest.mark.unit

BURN = "import time; e = time.process_time() + 0.3\nwhile time.process_time() < e: pass"
BURN_IN_A_CHILD = f"""
import subprocess, sys
sys.stdin.readline()
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
print("done", flush=True)
sys.stdin.readline()
"""


@contextmanager
def waiting(program: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that begins at the first line it gets and ends at the second."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def step(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_time_of_an_ended_grandchild_counts_for_its_named_ancestor_only() -> None:
    with waiting(BURN_IN_A_CHILD) as process:
        named = {"client": os.getpid(), "service": process.pid}
        before = read_cpu(named.values())
        step(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        after = read_cpu(named.values())
        step(process)
    seconds = spent(before, after, named)
    assert seconds["service"] >= 0.28
    assert seconds["client"] < 0.25
    assert after.machine_s - before.machine_s >= seconds["service"] - 0.05


def test_time_of_an_unnamed_child_counts_for_this_process() -> None:
    before = read_cpu([os.getpid()])
    subprocess.run([sys.executable, "-c", BURN], check=True)
    after = read_cpu([os.getpid()])
    assert spent(before, after, {"client": os.getpid()})["client"] >= 0.28


def test_own_work_is_counted() -> None:
    before = read_cpu([os.getpid()])
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    seconds = spent(before, read_cpu([os.getpid()]), {"client": os.getpid()})["client"]
    assert 0.07 <= seconds <= 0.3


def test_a_process_that_ended_spoils_the_run() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(Transient, match=str(ended.pid)):
        read_cpu([os.getpid(), ended.pid])

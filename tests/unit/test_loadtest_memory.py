"""Memory of process trees, sampled from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from loadtest.memory import ALL, MemoryWatcher, pss_mib

pytestmark = pytest.mark.unit

HOLD = """
import sys
held = bytearray(100 << 20)
held[::4096] = b"x" * len(held[::4096])
print("held", flush=True)
sys.stdin.readline()
del held
print("gone", flush=True)
sys.stdin.readline()
"""
IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


@pytest.mark.parametrize("program", [HOLD, IN_A_CHILD])
def test_a_peak_that_is_over_is_remembered_also_of_a_child(program: str) -> None:
    pipe = subprocess.PIPE
    with (
        MemoryWatcher() as watcher,
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        watcher.begin({"holder": process.pid, "this": os.getpid()}, interval_s=0.02)
        assert process.stdout.readline() == "held\n"
        time.sleep(0.3)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "gone\n"
        peaks = watcher.end()
        assert 100 < peaks["holder"] < 140
        assert peaks["this"] > 10
        assert peaks["holder"] < peaks[ALL] <= peaks["holder"] + peaks["this"] + 0.2
        watcher.begin({"holder": process.pid})
        assert watcher.end()["holder"] < 40
        watcher.begin({"this": os.getpid()})
        with_child = watcher.end()["this"]
        watcher.begin({"this": os.getpid()}, apart=[process.pid])
        assert watcher.end()["this"] < with_child
        process.stdin.write("\n")


def test_the_sampler_ends_with_its_context() -> None:
    with MemoryWatcher() as watcher:
        pid = watcher.pid
        assert pid
    assert watcher.pid == 0
    assert pss_mib({"sampler": pid})["sampler"] == 0

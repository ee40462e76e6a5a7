"""Whoever is not measured stands still, and goes on whatever happens to the benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from loadtest.stillness import Stillness

pytestmark = pytest.mark.unit

BUSY = "import os; print(os.getpid(), flush=True)\nwhile True: pass"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"


@contextlib.contextmanager
def busy(program: str) -> Iterator[tuple[int, int]]:
    """Process ids of a child of this process and of the one that computes."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def is_still(pid: int) -> bool:
    """Whether it is stopped, as it soon is once it was told to."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
            before = psutil.Process(pid).cpu_times().user
            time.sleep(0.05)
            return psutil.Process(pid).cpu_times().user == before
        time.sleep(0.01)
    return False


def runs(pid: int) -> bool:
    """Whether it computes."""
    before = psutil.Process(pid).cpu_times().user
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if psutil.Process(pid).cpu_times().user > before:
            return True
        time.sleep(0.01)
    return False


def test_only_the_wanted_families_run() -> None:
    with (
        busy(BUSY) as (first, one),
        busy(PARENT) as (second, two),
        busy(BUSY) as (spared, three),
    ):
        with Stillness(spared={spared}, settle_s=0.0) as stillness:
            stillness.only({first})
            assert runs(one)
            assert is_still(two)
            assert is_still(second)
            assert runs(three)
            # Named by any of its processes, a family runs as a whole.
            stillness.only({two})
            assert is_still(one)
            assert runs(two)
            stillness.only(())
            assert is_still(one)
            assert is_still(two)
            assert runs(three)
        assert runs(one)
        assert runs(two)


def test_everybody_goes_on_when_the_benchmark_is_killed() -> None:
    program = (
        "import subprocess, sys, time\n"
        "from loadtest.stillness import Stillness\n"
        f"child = subprocess.Popen([sys.executable, '-c', {BUSY!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "with Stillness() as stillness:\n"
        "    stillness.only(())\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            assert is_still(pid)
            process.kill()
            process.wait()
            assert runs(pid)
        finally:
            os.kill(pid, signal.SIGKILL)

"""Every named step is reached in exactly one place of the code, and does nothing unless armed."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from client.faultpoints import VARIABLE, Blow, Step, arm, fault_environment, reach

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
REACHES = "from client.faultpoints import Step, reach; reach(Step.CLAIMED)"


def places() -> Counter[str]:
    """How often the code reaches each step."""
    found: Counter[str] = Counter()
    for path in (ROOT / "client").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="reach"),
                    args=[ast.Attribute(value=ast.Name(id="Step"), attr=name)],
                ):
                    found[name] += 1
    return found


def test_every_step_is_reached_in_exactly_one_place() -> None:
    assert places() == {step.name: 1 for step in Step}


def run(folder: Path) -> int:
    return subprocess.run(
        [sys.executable, "-c", REACHES], env={VARIABLE: str(folder)}, cwd=ROOT, check=False
    ).returncode


def test_an_armed_step_kills_one_process_and_no_more(tmp_path: Path) -> None:
    file = arm(tmp_path, Step.CLAIMED)
    assert run(tmp_path) == -signal.SIGKILL
    assert not file.exists()
    assert run(tmp_path) == 0


def test_another_step_does_nothing(tmp_path: Path) -> None:
    file = arm(tmp_path, Step.ACKED)
    assert run(tmp_path) == 0
    assert file.exists()


def test_a_frozen_process_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    arm(tmp_path, Step.CLAIMED, Blow.FREEZE)
    child = subprocess.Popen([sys.executable, "-c", REACHES], env={VARIABLE: str(tmp_path)})
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    child.send_signal(signal.SIGCONT)
    assert child.wait() == 0


def test_without_the_variable_nothing_can_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for step in Step:
        arm(tmp_path, step)
        reach(step)
    assert len(list(tmp_path.iterdir())) == len(Step)
    assert fault_environment() == {}

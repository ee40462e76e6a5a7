"""Kills, crashes at every step, a wiped queue, frozen workers and full disks lose no study.

The long run is `make chaos`; these are its acts with fewer faults.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.faultpoints import Step
from tests.faults.acts import (
    Act,
    Arena,
    Outcome,
    crash_at_each_step,
    fill_the_disk,
    freeze_workers,
    kill_everything,
    kill_parts,
    play,
    wipe_the_queue,
)
from tests.faults.blows import Target

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(280)]

KILLS = 20
# PostgreSQL and the S3 server are killed in the long run.
PARTS = frozenset(Target) - {Target.DATABASE, Target.STORE}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, kept when the test fails."""
    path = Path(tempfile.mkdtemp(prefix="hf-"))
    yield path
    if (path / "held").exists():
        shutil.rmtree(path)


def expect(outcome: Outcome, folder: Path) -> None:
    """Fail unless every promise held."""
    assert outcome.verdict.findings == [], f"logs and data are in {folder}"
    verdict = outcome.verdict
    assert verdict.done + verdict.erased == verdict.acknowledged > 0
    (folder / "held").touch()


async def test_kill_9_of_every_part_loses_and_repeats_nothing(folder: Path) -> None:
    act = Act("kills", "", kill_parts(KILLS, PARTS, (0.2, 1.5)), seed=1)
    outcome = await play(act, folder)
    assert set(outcome.struck) == {f"kill {target}" for target in PARTS}
    assert sum(outcome.struck.values()) >= KILLS
    expect(outcome, folder)


async def test_a_crash_at_any_step_loses_and_repeats_nothing(folder: Path) -> None:
    async def breaks(arena: Arena) -> None:
        await crash_at_each_step(1)(arena)
        await wipe_the_queue(1)(arena)
        await freeze_workers(1)(arena)
        await kill_everything(1)(arena)

    outcome = await play(Act("steps", "", breaks, seed=2), folder)
    assert {f"crash at {step}" for step in Step} < set(outcome.struck)
    assert max(outcome.verdict.attempts) > 1
    expect(outcome, folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_a_full_disk_heals_when_there_is_room_again(folder: Path) -> None:
    act = Act("disk", "", fill_the_disk(1, full_s=4.0), small_disk=True)
    expect(await play(act, folder), folder)

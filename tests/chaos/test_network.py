"""A lossy, slow, unplugged or silent line loses no study and does not fill the gateway's memory.

The long run is `make chaos`; these are its phases, shorter.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.faults.line import why_not
from tests.faults.spoiling import Phase, half_open, lossy, partitions, play_phases, resets
from tests.proof.network import MAX_RSS_MIB

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(280)]

PHASES = [
    Phase("loss", "", lossy(4.0, 0.3)),
    Phase("partition", "", partitions(1, 3.0, 0.0), side=128),
    Phase("resets", "", resets(2), side=512),
    Phase("half-open", "", half_open(1, 2.0), side=256),
]


async def test_no_fault_of_the_line_loses_a_study() -> None:
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="hf-"))
    outcome = await play_phases(PHASES, folder)
    assert outcome.verdict.findings == [], f"logs and data are in {folder}"
    assert all(number > 0 for number in outcome.acknowledged.values()), outcome.acknowledged
    assert outcome.verdict.done == outcome.verdict.acknowledged
    assert outcome.memory.most_bytes < MAX_RSS_MIB << 20
    shutil.rmtree(folder)

"""A system under load is saved, the saving killed, and everything brought back elsewhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.proof.backup import Drill

pytestmark = pytest.mark.integration


async def test_the_drill_brings_back_every_acknowledged_study() -> None:
    # The queue's socket needs a short path.
    with tempfile.TemporaryDirectory(prefix="hd-") as folder:
        report = await Drill(Path(folder), studies=8, kills=3).run()
    assert report.faults == []
    assert report.kept == report.acknowledged >= 8
    assert report.refused + report.former == report.kills >= 2
    assert report.objects >= report.acknowledged

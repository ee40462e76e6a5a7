"""The benchmark itself, on few slices with a small random network."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from rich.progress import Progress

from client.errors import ConfigurationError
from loadtest.bench import Options, run_bench
from loadtest.page import figures
from loadtest.summary import LOADS, summarise

pytestmark = pytest.mark.integration


async def test_one_round_measures_every_way_and_leaves_nothing_behind(
    random_repository: Path,
) -> None:
    options = Options(rounds=1, slices=12, slices_alone=4, repository=random_repository)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Progress(disable=True) as progress:
        report = await run_bench(options, progress)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    (one,) = report.rounds
    assert [(run.way, run.in_flight) for run in one.measurements] == [
        (load.way, load.in_flight) for load in LOADS
    ]
    assert [run.slices for run in one.measurements] == [4, 4, 12, 12, 12, 24]
    for run in one.measurements:
        assert run.wall_s > 0
        assert run.cpu_s_per_slice > 0
    whole = one.of("whole way", 1)
    assert {span.name for span in whole.cpu_s} >= {"client", "gateway", "worker", "brain_mr_net"}
    assert 0 < sum(span.seconds for span in whole.stages_s) < whole.wall_s
    assert report.agreement.ensemble_equal > 0.999
    assert report.agreement.whole_way_equal == 1
    assert len(summarise(report)) == len(LOADS)
    assert report.workload.network_sha256[:12] in figures(report)


async def test_a_missing_sample_is_said_before_anything_starts(tmp_path: Path) -> None:
    with Progress(disable=True) as progress, pytest.raises(ConfigurationError, match="--sample"):
        await run_bench(Options(sample=tmp_path), progress)

"""The benchmark itself, on few slices with a small random network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from client.errors import ConfigurationError
from loadtest.bench import run_bench
from loadtest.loads import ENSEMBLE, RAW, WHOLE
from loadtest.options import FULL, QUICK, Options
from loadtest.page import figures
from loadtest.report import Measurement, Report
from loadtest.summary import summarise
from loadtest.verdicts import verdicts_of

pytestmark = pytest.mark.integration


async def last_report(options: Options) -> Report:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    reports = [report async for report in run_bench(options, lambda _: None)]
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert [len(report.rounds) for report in reports] == [*range(1, options.rounds + 1)]
    return reports[-1]


async def test_a_quick_round_measures_every_way_and_leaves_nothing_behind(
    random_repository: Path,
) -> None:
    report = await last_report(
        replace(QUICK, rounds=1, slices=12, slices_alone=4, repository=random_repository)
    )
    (one,) = report.rounds
    assert [(run.way, run.in_flight, run.slices) for run in one.measurements] == [
        (RAW, 1, 4),
        (ENSEMBLE, 1, 4),
        (RAW, 16, 12),
        (ENSEMBLE, 16, 12),
        (WHOLE, 1, 12),
        (WHOLE, 2, 24),
    ]
    for run in one.measurements:
        check(run)
    whole = one.measurements[4]
    assert {span.name for span in whole.cpu_s} >= {"client", "gateway", "worker", "brain_mr_net"}
    assert 0 < sum(span.seconds for span in whole.stages_s) < whole.wall_s
    agreed = {one.way: one for one in report.agreement}
    assert agreed[ENSEMBLE].equal > 0.999
    assert agreed[WHOLE].equal == 1
    assert len(summarise(report)) == 6
    assert report.workload.engines[0].network_sha256[:12] in figures(report, None)


def check(run: Measurement) -> None:
    assert run.wall_s > 0
    assert run.cpu_s_per_slice > 0
    assert 0 < run.latency_p50_s <= run.latency_p99_s
    assert run.peak_mib > 10
    assert {one.name for one in run.memory} == {*(span.name for span in run.cpu_s), "all"}


async def test_a_full_round_adds_what_is_measured_by_study(random_repository: Path) -> None:
    report = await last_report(
        replace(
            FULL,
            rounds=1,
            slices=8,
            slices_alone=2,
            precisions=("f32",),
            peers="none",
            urgent=2,
            urgent_slices=4,
            routine_slices=8,
            large_shape=(40, 64, 64),
            repository=random_repository,
        )
    )
    (one,) = report.rounds
    assert one.tier is not None
    assert one.tier.slices == 40
    assert one.large is not None
    assert one.large.whole_s > 0
    assert one.large.worker_peak_mib >= one.large.worker_idle_mib > 10
    assert one.urgent is not None
    assert len(one.urgent.idle_s) == len(one.urgent.busy_s) == 2
    assert one.urgent.routine_waiting > 0
    measured = [verdict for verdict in verdicts_of(report) if verdict.reached is not None]
    assert len(measured) == 8


async def test_a_missing_sample_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--sample"):
        await last_report(replace(QUICK, sample=tmp_path))

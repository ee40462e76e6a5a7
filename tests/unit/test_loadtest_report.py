"""From measurements to medians, ratios, JSON and the page."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ConfigurationError
from loadtest.page import BEGIN, END, figures, with_figures
from loadtest.report import (
    SCHEMA,
    Agreement,
    Machine,
    Measurement,
    Report,
    Round,
    Workload,
    read_report,
    spans,
    write_report,
)
from loadtest.summary import LOADS, cpu_medians, stage_medians, summarise
from loadtest.tables import cpu_table, markdown, stage_table, summary_table

pytestmark = pytest.mark.unit

COST = {"raw engine": 1.0, "ensemble": 1.25, "whole way": 2.0}


def make_round(speed: float) -> Round:
    """Every way costs its share of COST; ``speed`` is how slow the machine is in this round."""
    measurements = []
    for load in LOADS:
        seconds = 0.02 * 100 * COST[load.way] * speed
        stages = {"read": 0.5 * speed, "segment": 2.0 * speed} if load.unit == "study" else {}
        measurements.append(
            Measurement(
                way=load.way,
                in_flight=load.in_flight,
                slices=100,
                wall_s=seconds / 2,
                latency_p50_s=0.01 * speed,
                cpu_s=spans({"client": seconds / 4, "worker": 3 * seconds / 4}),
                others_cpu_s=0.0,
                stages_s=spans(stages),
            )
        )
    return Round((1.0, 0.5, 0.25), tuple(measurements))


def make_report(*speeds: float) -> Report:
    return Report(
        schema=SCHEMA,
        created_at="2026-11-23T03:00:00+00:00",
        command="python -m loadtest.bench --quick",
        duration_s=100.0,
        machine=Machine("A CPU", 2, 8.0, "Linux 6", "none used", ("Python 3.11.7", "triton 2.51")),
        workload=Workload("brain_mr", "ab" * 32, "OpenVINO f32", "colin27_mr", 100, 217, 181, 10),
        agreement=Agreement(100, 1.0, 1.0, 100, 1.0),
        rounds=tuple(make_round(speed) for speed in speeds),
    )


def test_ratios_are_to_the_raw_engine_of_the_same_round() -> None:
    """A machine that slows down fourfold between rounds changes no ratio."""
    for row in summarise(make_report(1, 4, 2)):
        assert row.rate_ratio == pytest.approx(1 / COST[row.way], abs=1e-3)
        assert row.efficiency == pytest.approx(1 / COST[row.way], abs=1e-3)


def test_medians_are_over_rounds() -> None:
    row = summarise(make_report(1, 4, 2))[0]
    assert (row.way, row.in_flight) == ("raw engine", "1 slice")
    assert row.cpu_ms_per_slice == pytest.approx(40, abs=0.1)
    assert row.slices_per_s == pytest.approx(50, abs=0.1)
    assert row.latency_p50_ms == pytest.approx(20)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
def test_the_order_of_rounds_does_not_matter(speeds: list[float]) -> None:
    backwards = make_report(*reversed(speeds))
    assert summarise(make_report(*speeds)) == summarise(backwards)


def test_shares_of_processes_add_up_to_the_whole() -> None:
    report = make_report(1)
    for load, row in zip(LOADS, summarise(report), strict=True):
        parts = cpu_medians(report, load)
        assert sum(parts.values()) == pytest.approx(row.cpu_ms_per_slice, abs=0.01)
        assert list(stage_medians(report, load)) == (
            ["read", "segment"] if load.unit == "study" else []
        )


def test_others_share_is_of_all_cores() -> None:
    report = make_report(1)
    first = report.rounds[0].measurements[0]
    busy = replace(first, others_cpu_s=first.wall_s)
    rounds = (replace(report.rounds[0], measurements=(busy, *report.rounds[0].measurements[1:])),)
    assert summarise(replace(report, rounds=rounds))[0].others_share == pytest.approx(0.5)


def test_a_report_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    report = make_report(1, 2, 3)
    summary = [asdict(row) for row in summarise(report)]
    write_report(report, summary, tmp_path / "new" / "report.json")
    assert read_report(tmp_path / "new" / "report.json") == (report, summary)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content | {"schema": "hounsfield.bench/2"},
        lambda content: content | {"unknown": 1},
        lambda content: {key: content[key] for key in content if key != "machine"},
        lambda content: {key: content[key] for key in content if key != "summary"},
        lambda content: [content],
    ],
)
def test_anything_else_is_refused(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "report.json"
    write_report(make_report(1), [], path)
    assert callable(spoil)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ConfigurationError, match=r"report\.json"):
        read_report(path)


def test_tables_have_one_cell_per_heading() -> None:
    report = make_report(1, 2)
    for lines in (summary_table(summarise(report)), cpu_table(report), stage_table(report)):
        assert len({len(line) for line in lines}) == 1
        assert len(markdown(lines).splitlines()) == len(lines) + 1


def test_the_page_changes_between_its_markers_only() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_figures(page, make_report(1))
    assert once.startswith(f"before\n{BEGIN}\n")
    assert once.endswith(f"\n{END}\nafter\n")
    assert figures(make_report(1)) in once
    assert with_figures(once, make_report(1)) == once


@pytest.mark.parametrize("page", ["", BEGIN, END, END + BEGIN, BEGIN + END + BEGIN + END])
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(ConfigurationError, match="markers"):
        with_figures(page, make_report(1))


def test_other_work_on_the_machine_is_said_on_the_page() -> None:
    report = make_report(1)
    assert "also ran other work" not in figures(report)
    noisy = tuple(replace(one, others_cpu_s=one.wall_s) for one in report.rounds[0].measurements)
    rounds = (replace(report.rounds[0], measurements=noisy),)
    assert "also ran other work**: up to 50%" in figures(replace(report, rounds=rounds))

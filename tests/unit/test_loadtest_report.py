"""From measurements to medians, ratios, JSON and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ConfigurationError
from loadtest.loads import RAW, WHOLE, Load, quick_loads
from loadtest.page import BEGIN, END, figures, with_figures
from loadtest.report import read_report, write_report
from loadtest.results import results_of
from loadtest.summary import cpu_medians, stage_medians, summarise
from loadtest.tables import (
    agreement_table,
    cpu_table,
    markdown,
    memory_table,
    stage_table,
    summary_table,
    tier_table,
    verdict_table,
)
from loadtest.verdicts import verdicts_of
from tests.loadtest_reports import COST, SPEED, make_report

pytestmark = pytest.mark.unit


def test_ratios_are_to_the_raw_engine_of_the_same_round() -> None:
    """A machine that slows down fourfold between rounds changes no ratio."""
    for row in summarise(make_report(1, 4, 2)):
        assert row.rate_ratio == pytest.approx(1 / COST[row.way], abs=1e-3)
        assert row.efficiency == pytest.approx(1 / COST[row.way], abs=1e-3)


def test_a_ratio_is_to_the_nearest_turn_of_the_raw_engine() -> None:
    raw, whole = Load(RAW, "f32", 16, "slice", 16), Load(WHOLE, "f32", 1, "study", 16)
    report = make_report(1, loads=(raw, whole, whole, raw))
    first, *others, last = report.rounds[0].measurements
    slower = replace(last, wall_s=10 * last.wall_s)
    one = replace(report.rounds[0], measurements=(first, *others, slower))
    assert [beside for _, beside in one.pairs(whole)] == [first, slower]


def test_medians_are_over_rounds() -> None:
    row = summarise(make_report(1, 4, 2))[0]
    assert (row.way, row.precision, row.in_flight) == (RAW, "f32", "1 slice")
    assert row.cpu_ms_per_slice == pytest.approx(40, abs=0.1)
    assert row.slices_per_s == pytest.approx(50, abs=0.1)
    assert row.latency_p50_ms == pytest.approx(40)
    assert row.latency_p99_ms == pytest.approx(80)
    assert row.peak_mib == 140


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4))
def test_the_order_of_rounds_does_not_matter(slow: list[float]) -> None:
    backwards = make_report(*reversed(slow), loads=quick_loads())
    assert summarise(make_report(*slow, loads=quick_loads())) == summarise(backwards)


def test_shares_of_processes_add_up_to_the_whole() -> None:
    report = make_report(1)
    for load, row in zip(report.distinct_loads, summarise(report), strict=True):
        parts = cpu_medians(report, load)
        assert sum(parts.values()) == pytest.approx(row.cpu_ms_per_slice, abs=0.01)
        assert list(stage_medians(report, load)) == (
            ["read", "segment"] if load.unit == "study" else []
        )


def test_others_share_is_of_all_cores() -> None:
    report = make_report(1, loads=quick_loads())
    noisy = tuple(replace(one, others_cpu_s=one.wall_s) for one in report.rounds[0].measurements)
    rounds = (replace(report.rounds[0], measurements=noisy),)
    assert summarise(replace(report, rounds=rounds))[0].others_share == pytest.approx(0.5)


@pytest.mark.parametrize("studies", [True, False])
def test_a_report_comes_back_from_json_as_it_was(tmp_path: Path, studies: bool) -> None:
    report = make_report(1, 2, 3, studies=studies)
    path = tmp_path / "new" / "report.json"
    write_report(report, results_of(report), path)
    assert read_report(path) == (report, results_of(report))
    assert [each.name for each in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content | {"schema": "hounsfield.bench/1"},
        lambda content: content | {"unknown": 1},
        lambda content: {key: content[key] for key in content if key != "machine"},
        lambda content: {key: content[key] for key in content if key != "summary"},
        lambda content: [content],
    ],
)
def test_anything_else_is_refused(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "report.json"
    write_report(make_report(1), {}, path)
    assert callable(spoil)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ConfigurationError, match=r"report\.json"):
        read_report(path)


@pytest.mark.parametrize("studies", [True, False])
def test_tables_have_one_cell_per_heading(studies: bool) -> None:
    report = make_report(1, 2, studies=studies)
    for lines in (
        summary_table(summarise(report)),
        cpu_table(report, "int8"),
        memory_table(report, "f32"),
        stage_table(report),
        tier_table(report),
        agreement_table(report),
        verdict_table(verdicts_of(report)),
    ):
        assert len({len(line) for line in lines}) == 1
        assert len(markdown(lines).splitlines()) == len(lines) + 1


def test_the_page_changes_between_its_markers_only() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_figures(page, make_report(1), None)
    assert once.startswith(f"before\n{BEGIN}\n")
    assert once.endswith(f"\n{END}\nafter\n")
    assert figures(make_report(1), None) in once
    assert with_figures(once, make_report(1), None) == once


@pytest.mark.parametrize("page", ["", BEGIN, END, END + BEGIN, BEGIN + END + BEGIN + END])
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(ConfigurationError, match="markers"):
        with_figures(page, make_report(1), None)


def test_what_spoils_a_run_is_said_on_the_page() -> None:
    report = make_report(1)
    page = figures(report, None)
    assert "also ran other work" not in page
    assert "Not installed, so not measured: ray_serve." in page
    assert "OpenVINO bf16 (not admitted to service)" in page
    assert "rounds are done" not in page
    assert "1 of 5 rounds are done" in figures(replace(report, rounds_wanted=5), None)
    noisy = tuple(replace(one, others_cpu_s=one.wall_s) for one in report.rounds[0].measurements)
    rounds = (replace(report.rounds[0], measurements=noisy),)
    assert "also ran other work**: up to 50%" in figures(replace(report, rounds=rounds), None)


def test_a_faster_precision_is_a_higher_rate_and_no_higher_ratio() -> None:
    rows = {(row.way, row.precision, row.in_flight): row for row in summarise(make_report(1))}
    slow, fast = (rows[RAW, precision, "16 slices"] for precision in ("f32", "int8"))
    assert fast.slices_per_s == pytest.approx(SPEED["int8"] * slow.slices_per_s)
    assert fast.rate_ratio == slow.rate_ratio == 1

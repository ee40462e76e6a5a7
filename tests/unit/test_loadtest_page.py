"""The committed page, the committed report and the code that makes one from the other agree."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from loadtest.page import PAGE, REPORT, with_figures
from loadtest.report import read_report
from loadtest.summary import LOADS, summarise

pytestmark = pytest.mark.unit


def test_the_page_says_what_the_report_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_figures(page, read_report(REPORT)[0]) == page, "run python -m loadtest.page"


def test_the_summary_in_the_report_follows_from_its_measurements() -> None:
    report, summary = read_report(REPORT)
    assert [asdict(row) for row in summarise(report)] == summary


def test_every_round_has_every_load_and_the_ways_agree() -> None:
    report, _ = read_report(REPORT)
    for one in report.rounds:
        loads = [(run.way, run.in_flight) for run in one.measurements]
        assert loads == [(load.way, load.in_flight) for load in LOADS]
    assert report.agreement.ensemble_equal > 0.9999
    assert report.agreement.whole_way_equal == 1

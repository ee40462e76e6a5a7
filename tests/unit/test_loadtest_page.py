"""The committed page, the committed reports and the code that makes one from the other agree."""

from __future__ import annotations

import pytest

from loadtest.page import PAGE, REPORT, SOAK, with_figures
from loadtest.report import read_report
from loadtest.results import results_of
from loadtest.soakreport import read_soak

pytestmark = pytest.mark.unit


def test_the_page_says_what_the_reports_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    soak = read_soak(SOAK) if SOAK.exists() else None
    report, _ = read_report(REPORT)
    assert with_figures(page, report, soak) == page, "run python -m loadtest.page"


def test_the_summary_in_the_report_follows_from_its_measurements() -> None:
    report, summary = read_report(REPORT)
    assert results_of(report) == summary


def test_every_round_has_every_load_and_the_ways_agree() -> None:
    report, _ = read_report(REPORT)
    for one in report.rounds:
        assert len(one.measurements) == len(report.loads)
        for run, load in zip(one.measurements, report.loads, strict=True):
            assert run.is_of(load)
    agreed = {(one.way, one.precision): one for one in report.agreement}
    assert agreed["ensemble", "f32"].equal > 0.9999
    assert agreed["whole way", "f32"].equal == 1

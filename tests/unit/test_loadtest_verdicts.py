"""Each aim's figure follows from the measurements as the page says it does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.loads import SCRIPT, quick_loads
from loadtest.verdicts import Verdict, verdicts_of
from tests.loadtest_reports import make_report

pytestmark = pytest.mark.unit


def verdict(start: str, *slow: float) -> Verdict:
    (found,) = [one for one in verdicts_of(make_report(*slow)) if one.name.startswith(start)]
    return found


@pytest.mark.parametrize(
    ("start", "value", "reached"),
    [
        ("ensemble: CPU", "0.80", False),
        ("whole way: CPU", "0.50", False),
        ("client tier", "0.70 ms", True),  # seven counted steps of 0.1 ms
        ("16 in flight: wall", "0.80", False),
        ("16 in flight: ÷ the best", "1.12", True),  # 0.8 to mosec's 1 / 1.4
        ("as shipped", "2.24", True),  # INT8 4 / 1.25 to mosec's bf16 2 / 1.4
        ("one in flight", "1.25", True),
        ("against the traditional script, INT8", "16.00", True),
        ("against the traditional script, best", "8.00", True),
        ("STAT", "1.25", True),
        ("fixed plumbing", "1.50 s", True),
        ("worker memory", "1.50", True),
    ],
)
def test_figures_of_a_known_report(start: str, value: str, reached: bool) -> None:
    found = verdict(start, 1)
    assert (found.value, found.reached) == (value, reached)


def test_a_slower_round_changes_no_ratio() -> None:
    alone, mixed = verdicts_of(make_report(1)), verdicts_of(make_report(1, 3, 1))
    names = ("ensemble", "whole way", "16 in flight", "as shipped", "one in", "against")
    for one, other in zip(alone, mixed, strict=True):
        if one.name.startswith(names):
            assert one.value == other.value


def test_the_client_tier_is_the_least_of_the_rounds() -> None:
    assert verdict("client tier", 5, 1, 3).value == "0.70 ms"


def test_worker_memory_is_the_highest_of_the_rounds() -> None:
    report = make_report(1, 1)
    first, second = report.rounds
    assert second.large is not None
    worse = replace(second, large=replace(second.large, worker_peak_mib=450.0))
    found = verdicts_of(replace(report, rounds=(first, worse)))[-1]
    assert (found.value, found.reached) == ("2.50", False)


def test_what_was_not_measured_has_no_verdict() -> None:
    found = verdicts_of(make_report(1, loads=quick_loads(), studies=False))
    measured = [one.name for one in found if one.reached is not None]
    assert measured == [
        "ensemble: CPU efficiency against the raw engine, f32",
        "whole way: CPU efficiency, f32",
        "16 in flight: wall throughput ÷ raw engine",
        "one in flight: p50 ÷ raw latency",
    ]
    assert all(one.value == "" for one in found if one.reached is None)


def test_without_the_script_there_is_nothing_to_compare_with() -> None:
    report = make_report(1)
    loads = tuple(load for load in report.loads if load.way != SCRIPT)
    found = {one.name: one for one in verdicts_of(make_report(1, loads=loads))}
    assert found["against the traditional script, INT8"].reached is None


def test_what_is_not_admitted_is_said() -> None:
    assert (
        "bf16 is not admitted to service" in verdict("against the traditional script, best", 1).how
    )

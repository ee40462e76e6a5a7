"""Limits are read strictly and judged honestly; journals, steps and the report follow from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.report import Machine
from loadtest.traffic.accounts import Accounts
from loadtest.traffic.arrivals import Arrival
from loadtest.traffic.faults import Fault, parse_fault
from loadtest.traffic.journal import Generator, Journal, Study, beginning, read_journals
from loadtest.traffic.observer import Depth, Observation
from loadtest.traffic.outcome import held_per_h, outcome_of, steps_of, steps_record
from loadtest.traffic.page import write_page
from loadtest.traffic.plan import Plan, read_plan, write_plan
from loadtest.traffic.run import Options, Run
from loadtest.traffic.shapes import Load
from loadtest.traffic.slo import judge, load_slo, percentile

pytestmark = pytest.mark.unit

LIMITS = Path(__file__).parents[2] / "loadtest" / "slo.yaml"
MACHINE = Machine("a processor", 2, 8.0, "Linux", ("Python",))


def study(number: int, *, took_s: float = 2.0, kind: str = "mr_head", step: int = 0) -> Study:
    at_s = float(number)
    priority = Priority.STAT if number % 4 == 0 else Priority.ROUTINE
    arrival = Arrival(number, at_s, kind, priority, 32, step)
    done = kind == "mr_head"
    return Study(
        arrival,
        sent_s=at_s + 0.01,
        acknowledged_s=at_s + 0.2,
        ended_s=at_s + took_s,
        outcome="done" if done else "rejected",
        code="" if done else "NO_MODEL",
        study_bytes=1000,
        job_id=f"job-{number}",
        upload_id=f"upload-{number}",
    )


def accounts(studies: list[Study], *, lost: int = 0, repeated: int | None = 0) -> Accounts:
    return Accounts(tuple(studies), len(studies), len(studies) - lost, repeated, 0.5)


def good() -> list[Study]:
    return [study(number, kind="ct" if number % 3 == 0 else "mr_head") for number in range(60)]


def broken(found: Accounts) -> set[str]:
    return {check.name for check in judge(load_slo(LIMITS), found) if not check.held}


def test_a_good_run_holds_every_limit_of_the_file() -> None:
    checks = judge(load_slo(LIMITS), accounts(good()))
    assert [check.name for check in checks if not check.held] == []
    assert len(checks) == 8


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"ended_s": 100.0}, {"stat p99 turnaround"}),
        ({"ended_s": None}, {"stat p99 turnaround", "error rate"}),
        ({"outcome": "failed", "code": "TIMED_OUT"}, {"stat p99 turnaround", "error rate"}),
        ({"outcome": "lost"}, {"stat p99 turnaround", "error rate"}),
        ({"sent_s": 10.0}, {"generator p99 delay"}),
    ],
)
def test_one_bad_stat_study_breaks_its_limit(changes: dict[str, Any], names: set[str]) -> None:
    studies = good()
    if changes.get("ended_s", 0) is None:
        changes = {**changes, "outcome": "error", "code": "Transient"}
    studies[4] = replace(studies[4], **changes)
    assert studies[4].arrival.priority is Priority.STAT
    assert broken(accounts(studies)) == names


def test_lost_repeated_and_few_studies_break_the_verdict() -> None:
    assert broken(accounts(good(), lost=1)) == {"lost"}
    assert broken(accounts(good(), repeated=1)) == {"repeated"}
    assert broken(accounts(good()[:10])) == {"studies"}
    names = {check.name for check in judge(load_slo(LIMITS), accounts(good(), repeated=None))}
    assert "repeated" not in names


def test_another_refusal_than_the_expected_one_is_an_error() -> None:
    studies = good()
    studies[3] = replace(studies[3], code="UNDECODABLE")
    assert broken(accounts(studies)) == {"error rate"}


def test_turnaround_counts_from_when_a_study_was_due() -> None:
    late = replace(study(10), sent_s=50.0, ended_s=51.0)
    assert late.turnaround_s == 41.0
    assert late.late_s == 40.0


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, part) for part in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([*values[:95], *[math.inf] * 5], 95) == 95
    assert percentile([*values[:94], *[math.inf] * 6], 95) == math.inf


@pytest.mark.parametrize(
    "change",
    [
        {"error_rat": 0.5},
        {"schema": "hounsfield.slo/2"},
        {"lost": "none"},
        {"turnaround": [{"of": "urgent", "percentile": 95, "seconds": 60}]},
        {"turnaround": [{"of": "stat", "percentile": 101, "seconds": 60}]},
        {"turnaround": [{"of": "stat", "percentile": 95, "seconds": 0}]},
    ],
)
def test_limits_are_read_strictly(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(LIMITS.read_text()) | change))
    with pytest.raises(ConfigurationError):
        load_slo(path)


def test_journals_become_studies_also_when_a_generator_was_cut_off(tmp_path: Path) -> None:
    schedule = [study(number).arrival for number in range(3)]
    assert beginning(tmp_path) is None
    with Journal(tmp_path / "a.jsonl", began=0.0) as journal:
        journal.sent(0, "u0")
        journal.acknowledged(0, "j0", 123)
        journal.ended(0, "rejected", "NO_MODEL")
    (tmp_path / "b.jsonl").write_text('{"began": 0.0}\n{"number": 1, "sent_s": 1.0}\n')
    studies, generators = read_journals(schedule, tmp_path)
    assert beginning(tmp_path) == 0.0
    first, second, third = studies
    assert (first.outcome, first.code, first.study_bytes) == ("rejected", "NO_MODEL", 123)
    assert (first.job_id, first.upload_id) == ("j0", "u0")
    assert first.sent_s is not None
    assert first.ended_s is not None
    assert first.ended_s >= first.sent_s
    assert (second.sent_s, second.ended_s, third.sent_s) == (1.0, None, None)
    assert [one.most_in_flight for one in generators] == [1]


def test_a_plan_is_the_same_after_the_file(tmp_path: Path) -> None:
    plan = Plan(Load(shape="step", rates_per_h=(1.0, 2.0)), 3, str(tmp_path))
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ConfigurationError):
        read_plan(tmp_path / "plan.json")


def test_faults_are_read_strictly() -> None:
    assert parse_fault("worker-kill@60s") == Fault("worker", 60.0)
    assert parse_fault("triton-kill@1.5s") == Fault("triton", 1.5)
    for text in ("worker@60s", "disk-kill@60s", "worker-kill@60", "worker-kill@-1s"):
        with pytest.raises(ConfigurationError, match="worker-kill@60s"):
            parse_fault(text)


def stepped(late_s: float) -> tuple[Load, list[Study]]:
    """Ten studies in each of two steps of 10 s; those of the second take ``late_s``."""
    load = Load(shape="step", rates_per_h=(3600.0, 3600.0), seconds=10.0)
    first = [study(number, took_s=0.9, step=0) for number in range(10)]
    return load, first + [study(number, took_s=late_s, step=1) for number in range(10, 20)]


def test_a_step_is_held_when_it_is_fast_and_nothing_piles_up() -> None:
    for late_s, held in ((0.9, 3600.0), (61.0, 3600.0), (9.0, 3600.0)):
        steps = steps_of(*stepped(late_s), 60.0)
        assert steps[0].held
        assert steps[1].held == (late_s == 0.9)
        assert held_per_h(steps) == held
    # Fast enough, but only half of them in time: they pile up.
    assert steps_of(*stepped(9.0), 60.0)[1].p95_s == 9.0
    assert held_per_h(steps_of(*stepped(0.9), 0.5)) == 0.0


def test_outcome_and_page_hold_what_was_seen(tmp_path: Path) -> None:
    load, studies = stepped(61.0)
    slo = load_slo(LIMITS)
    found = accounts(studies)
    run = Run(
        options=Options(load, tmp_path),
        started_at="2026-01-02T03:04:05+00:00",
        seconds=81.0,
        accounts=found,
        generators=(Generator(1.0, 20.0, 5),),
        machine=MACHINE,
        seen=Observation([Depth(0.0, 1, 2)], [Fault("worker", 5.0)]),
    )
    checks, steps = judge(slo, found), steps_of(load, studies, 60.0)
    outcome = json.loads(json.dumps(outcome_of(run, checks)))
    assert outcome["schema"] == "hounsfield.load/1"
    assert not outcome["verdict"]["held"]
    assert outcome["studies"][0] == {
        "kind": "mr_head",
        "priority": "stat",
        "bytes": 1000,
        "slices": 32,
        "submitted_s": 0.0,
        "acknowledged_s": 0.2,
        "ended_s": 0.9,
        "outcome": "done",
        "code": "",
        "expected": "done",
    }
    assert steps_record(run, steps)["held_per_h"] == 3600.0
    write_page(run, slo, checks, steps, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 4
    assert "http" not in page
    assert "worker killed at 5 s" in page
    assert "not held" in page

"""A load test from its command line: locust, the real stack, a verdict; also with a part killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.triton.embedded import EmbeddedTriton

pytest.importorskip("gevent", reason="needs the extra `loadtest`")
pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LIMITS = ROOT / "loadtest" / "slo.yaml"


def traffic(
    out: Path, repository: Path, *arguments: str, code: int = 0, **settings: str
) -> dict[str, Any]:
    """Run a load test on a stack with a small random network; return its outcome."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest.traffic", "--out", str(out), "--seed", "4"),
            *("--models", str(repository), *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    outcome: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    return outcome


def checks(outcome: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in outcome["verdict"]["checks"]}


def test_part_of_a_hospitals_day_holds_its_limits(tmp_path: Path, random_repository: Path) -> None:
    day = ("--shape", "hospital-day", "--speed", "90", "--from", "09:00", "--to", "10:00")
    outcome = traffic(
        tmp_path, random_repository, *day, "--hospitals", "2", "--verdict", str(LIMITS)
    )
    studies = outcome["studies"]
    assert len(studies) >= 20
    assert outcome["verdict"]["held"]
    assert {one["kind"] for one in studies} == {"mr_head", "ct", "xray"}
    ends = Counter((one["expected"], one["outcome"], one["code"]) for one in studies)
    assert set(ends) == {("done", "done", ""), ("rejected", "rejected", "NO_MODEL")}
    for one in studies:
        assert one["submitted_s"] < one["acknowledged_s"] < one["ended_s"]
        assert one["bytes"] > 10_000
    assert max(one["submitted_s"] for one in studies) <= 40
    assert (tmp_path / "report.html").stat().st_size > 50_000
    assert "Dispatcher" in (tmp_path / "locust.html").read_text()


def test_nothing_is_lost_when_the_worker_is_killed(tmp_path: Path, random_repository: Path) -> None:
    """Two generators share the load; limits on time are wide, as a lost worker's lease must end."""
    limits = yaml.safe_load(LIMITS.read_text())
    limits["turnaround"] = [{"of": "routine", "percentile": 100, "seconds": 120}]
    (tmp_path / "slo.yaml").write_text(yaml.safe_dump(limits))
    flood = ("--shape", "stat-under-flood", "--rate", "3600", "--seconds", "20", "--slices", "16")
    outcome = traffic(
        tmp_path,
        random_repository,
        *(*flood, "--workers", "2", "--fault", "worker-kill@8s"),
        *("--verdict", str(tmp_path / "slo.yaml")),
        HOUNSFIELD_LEASE_S="5",
    )
    seen = checks(outcome)
    sent = len(outcome["studies"])
    assert sent >= 15
    assert seen["lost"]["value"] == f"0 of {sent} acknowledged"
    assert (seen["repeated"]["value"], seen["faults"]["value"]) == ("0", "1")
    assert {one["outcome"] for one in outcome["studies"]} == {"done"}
    journals = [path.read_text() for path in sorted((tmp_path / "journals").glob("*.jsonl"))]
    shares = [text.count("acknowledged_s") for text in journals]
    assert len(shares) == 2
    assert sum(shares) == sent
    assert max(shares) - min(shares) <= 1
    # Open load: while the worker was away studies went on being sent, side by side.
    assert sum(json.loads(text.splitlines()[-1])["most_in_flight"] for text in journals) > 3


def test_a_broken_limit_is_status_1(tmp_path: Path, random_repository: Path) -> None:
    limits = yaml.safe_load(LIMITS.read_text())
    limits["turnaround"] = [{"of": "routine", "percentile": 50, "seconds": 0.001}]
    (tmp_path / "slo.yaml").write_text(yaml.safe_dump(limits))
    outcome = traffic(
        tmp_path,
        random_repository,
        *("--shape", "step", "--rates", "7200", "--seconds", "12", "--slices", "8"),
        *("--verdict", str(tmp_path / "slo.yaml")),
        code=1,
    )
    assert not outcome["verdict"]["held"]
    wrong = [name for name, check in checks(outcome).items() if not check["held"]]
    assert wrong == ["routine p50 turnaround"]
    assert {one["outcome"] for one in outcome["studies"]} == {"done"}
    steps = json.loads((tmp_path / "steps.json").read_text())
    assert (steps["held_per_h"], [step["held"] for step in steps["steps"]]) == (0.0, [False])


@pytest.mark.asyncio(loop_scope="session")
async def test_a_triton_by_itself_takes_the_same_slices(
    tmp_path: Path, random_repository: Path, triton_server: EmbeddedTriton
) -> None:
    outcome = await asyncio.to_thread(
        traffic,
        tmp_path,
        random_repository,
        *("--target", "triton", "--triton-url", triton_server.url, "--slices", "8"),
        *("--shape", "step", "--rates", "3600", "--seconds", "8"),
        HOUNSFIELD_MODEL_REPOSITORY=str(random_repository),
    )
    assert outcome["studies"]
    for one in outcome["studies"]:
        assert (one["kind"], one["outcome"], one["acknowledged_s"]) == ("mr_head", "done", None)

"""Logs as JSON: one object a line, the job as a field, and no word of what others wrote."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest

from client.telemetry.logs import JsonFormatter

pytestmark = pytest.mark.unit

CANARY = "Canary^Quoted"
JOB = "2b6f8a3e-9c1d-4f5a-8b7c-0d1e2f3a4b5c"

_START = f"""
import logging, warnings
from client.settings import Settings
from client.telemetry.logs import begin_logs
begin_logs(Settings(log_format="json"))
canary = {CANARY!r}
def fail():
    raise ValueError(canary)
"""


def spelled(name: str, message: str, *args: object, trace: str = "", **extra: Any) -> Any:
    record = logging.LogRecord(name, logging.INFO, "/x/loop.py", 7, message, args, None)
    record.__dict__.update(extra)
    line = JsonFormatter(lambda: trace).format(record)
    assert "\n" not in line
    return json.loads(line)


def test_what_a_record_names_is_a_field() -> None:
    told = spelled("client.worker.loop", "job=%s attempt=%d waits %s, 5%% x=%.1f", JOB, 2, "a", 0.5)
    assert told | {"time": ""} == {
        "time": "",
        "level": "INFO",
        "logger": "client.worker.loop",
        "event": f"job={JOB} attempt=2 waits a, 5% x=0.5",
        "job": JOB,
        "attempt": 2,
        "x": 0.5,
    }
    moment = datetime.fromisoformat(told["time"])
    assert told["time"].endswith("Z")
    assert moment.utcoffset() == timedelta(0)


def test_fields_and_the_trace_come_along() -> None:
    told = spelled("client.x", "done", fields={"stages_s": {"fetch": 0.1}}, trace="ab" * 16)
    assert told["stages_s"] == {"fetch": 0.1}
    assert told["trace_id"] == "ab" * 16


def test_a_field_cannot_take_the_place_of_what_each_line_has() -> None:
    told = spelled("client.x", "level=%s time=%s", "none", "never")
    assert told["level"] == "INFO"
    assert told["time"] != "never"


def test_a_librarys_record_is_told_by_its_place() -> None:
    told = spelled("pydicom", "job=%s is wrong", CANARY, fields={"name": CANARY})
    assert told["event"] == "pydicom at loop.py:7"
    assert CANARY not in json.dumps(told)


@pytest.mark.parametrize(
    ("program", "event", "error"),
    [
        ("fail()", "ended by ValueError (", ""),
        (
            "try:\n    fail()\nexcept ValueError:\n"
            "    logging.getLogger('client.x').exception('job=%s broke', 7)",
            "job=7 broke",
            "ValueError (",
        ),
        ("warnings.warn(f'The value {canary!r} is invalid')", "py.warnings at", ""),
    ],
)
def test_a_process_tells_in_json_and_without_values(program: str, event: str, error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _START + program], capture_output=True, text=True, check=False
    )
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert told["event"].startswith(event)
    assert told.get("error", "").startswith(error)
    assert "Canary" not in done.stdout + done.stderr

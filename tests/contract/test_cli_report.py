"""The cost report from the command line, digit by digit, from a ledger whose clock is known."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client.audittrail import AuditEntry
from client.cli.main import app
from client.crypto.keydirectory import KeyDirectory, create_key_directory
from client.errors import ConfigurationError, RefusalCode
from client.jobs import Actor
from client.ledger.ledger import Ledger
from client.objectstore.objects import StoredObject
from tests.ledgers import LEASE_S, Clock, cost_of, new_job, result_of

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
PRICES = str(ROOT / "docs" / "prices.example.yaml")
SINCE = ("--since", "2026-01-30", "--until", "2026-02-04")
NORTH, SOUTH = ("00000000-0000-4000-8000-00000000000" + digit for digit in "12")


async def _fill(url: str, key: bytes) -> None:
    """One study that succeeds at the second try and is fetched, one that no model takes."""
    clock = Clock()
    clock.now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    async with Ledger(url, key, clock=clock) as ledger:
        for job_id, tenant in ((NORTH, "north"), (SOUTH, "=south")):
            stored = StoredObject(f"studies/{job_id}", 2 * 10**9, "a" * 64)
            await ledger.submit(new_job(id=job_id, tenant=tenant, stored=stored))
        first = await ledger.claim(NORTH, "w", LEASE_S)
        await ledger.retry(first, "Triton is away.", 0.0, [cost_of("", slices=0, engine_us=0)])
        clock.move(1)
        second = await ledger.claim(NORTH, "w", LEASE_S)
        gpu = cost_of(engine="TensorRT fp16", device="gpu", engine_us=250_000)
        await ledger.finish(second, result_of(second), [gpu])
        await ledger.record("north", Actor("s"), AuditEntry("call.FetchResult", job_id=NORTH))
        await ledger.claim(SOUTH, "w", LEASE_S)
        clock.move(LEASE_S + 1)  # its worker was killed
        other = await ledger.claim(SOUTH, "w", LEASE_S)
        await ledger.reject(other, RefusalCode.NO_MODEL, "x", costs=[cost_of("", engine_us=0)])


@pytest.fixture
def ledger_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.sqlite"
    create_key_directory(tmp_path / "keys", "north")
    keys = KeyDirectory(tmp_path / "keys")
    for name, value in {
        "HOME": str(tmp_path),
        "KEYS": str(keys.root),
        "LEDGER_URL": f"sqlite+aiosqlite:///{path}",
    }.items():
        monkeypatch.setenv(f"HOUNSFIELD_{name}", value)
    monkeypatch.setenv("COLUMNS", "160")
    asyncio.run(_fill(f"sqlite+aiosqlite:///{path}", keys.audit_key()))
    return path


def cost(*words: str) -> Result:
    return CliRunner().invoke(app, ["report", "cost", *SINCE, *words])


GOLDEN = """\
site,studies,attempts,unaccounted,slices,gpu_seconds,cpu_engine_seconds,core_seconds,\
received_bytes,fetched_bytes,sent_bytes,gb_days,engine_eur,cores_eur,storage_eur,transfer_eur,\
total_eur
'=south,1,1,1,20,0.000,0.000,0.700,2000000000,1000,0,7.000000,0.000000,0.000011,0.004830,\
0.000000,0.004841
north,1,2,0,20,0.250,0.000,1.400,2000000000,2000,77,7.000000,0.000340,0.000022,0.004830,\
0.000000,0.005192
total,2,3,1,40,0.250,0.000,2.100,4000000000,3000,77,14.000000,0.000340,0.000034,0.009659,\
0.000000,0.010033
"""


@pytest.mark.usefixtures("ledger_file")
def test_csv_is_what_it_should_be_to_the_last_digit() -> None:
    done = cost("--format", "csv", "--prices", PRICES)
    assert done.stdout.replace("\r\n", "\n") == GOLDEN


@pytest.mark.usefixtures("ledger_file")
@pytest.mark.parametrize(
    ("by", "lines"),
    [
        ("study", {NORTH: 2, SOUTH: 1}),
        ("model", {"": 2, "brain_mr": 1}),
        ("month", {"2026-01": 3, "2026-02": 0}),
        ("site", {"=south": 1, "north": 2}),
    ],
)
def test_every_grouping_has_its_lines(by: str, lines: dict[str, int]) -> None:
    told = json.loads(cost("--by", by, "--json").stdout)
    assert {line[by]: line["attempts"] for line in told["lines"]} == lines
    assert told["total"]["attempts"] == 3
    assert told["currency"] is None
    days = sum(float(line["gb_days"]) for line in told["lines"])
    assert days == pytest.approx(float(told["total"]["gb_days"]), abs=1e-5)


@pytest.mark.usefixtures("ledger_file")
def test_the_table_is_for_people() -> None:
    text = cost("--prices", PRICES).stdout
    assert "Cost by site, 2026-01-30 00:00 to 2026-02-04 00:00 UTC" in text
    assert "total eur" in text
    assert "0.010033" in text
    assert "Attempts that ended without a word: 1;" in text
    assert ": none" in cost("--site", "nobody").stdout


@pytest.mark.usefixtures("ledger_file")
def test_one_sites_bill_holds_nothing_of_others(tmp_path: Path) -> None:
    out = tmp_path / "bill.html"
    done = cost("--site", "north", "--format", "html", "--prices", PRICES, "--out", str(out))
    assert "1 lines written" in done.stdout
    page = out.read_text()
    assert "0.005192" in page
    assert "south" not in page
    written = tmp_path / "bill.csv"
    assert cost("--site", "north", "--format", "csv", "--out", str(written)).exit_code == 0
    (row, total) = csv.DictReader(io.StringIO(written.read_bytes().decode(), newline=""))
    assert (row["site"], total["site"]) == ("north", "total")


@pytest.mark.usefixtures("ledger_file")
@pytest.mark.parametrize(
    "words",
    [
        ("--since", "yesterday"),
        ("--since", "2026-03-01"),
        ("--since", f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}", "--until", "2999-01-01"),
        ("--prices", "no-such-file.yaml"),
        ("--out", "table.txt"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: tuple[str, ...]) -> None:
    assert isinstance(cost(*words).exception, ConfigurationError)


def test_that_somebody_asked_is_in_the_audit_trail(ledger_file: Path) -> None:
    assert cost("--by", "month", "--site", "north").exit_code == 0
    with sqlite3.connect(ledger_file) as database:
        found = database.execute(
            "SELECT tenant, actor, detail FROM events WHERE action = 'costs.reported'"
        ).fetchall()
    database.close()
    period = "2026-01-30T00:00:00+00:00 to 2026-02-04T00:00:00+00:00"
    assert found == [("", "report", f"{period} by month, north")]

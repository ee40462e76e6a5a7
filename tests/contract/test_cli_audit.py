"""The audit trail from the command line: shown, exported for others, and verified."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fhir.resources.R4B.auditevent import AuditEvent as FhirAuditEvent
from typer.testing import CliRunner, Result

from client.access.issuer import LocalIssuer
from client.access.principal import Role
from client.cli.main import app
from client.crypto.keydirectory import KeyDirectory
from client.errors import AccessDenied, ConfigurationError
from tests.dicom_factory import Recipe, classic_files, numbered_volume
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.contract


@pytest_asyncio.fixture
async def gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path) as running:
        for name, value in {
            "HOME": str(tmp_path),
            "KEYS": str(running.keys.root),
            "GATEWAY": running.address,
            "TENANT": TENANT,
            "LEDGER_URL": f"sqlite+aiosqlite:///{tmp_path / 'ledger.sqlite'}",
            "TOKEN": _token(running.keys, Role.SENDER, Role.AUDITOR),
        }.items():
            monkeypatch.setenv(f"HOUNSFIELD_{name}", value)
        monkeypatch.setenv("COLUMNS", "200")
        study = tmp_path / "one.dcm"
        study.write_bytes(classic_files(Recipe(numbered_volume(2, 4, 4)))[0][1])
        assert (await hounsfield("submit", str(study))).exit_code == 0
        yield running


def _token(keys: KeyDirectory, *roles: Role) -> str:
    issuer = LocalIssuer(keys.tokens, "hounsfield", "hounsfield")
    return issuer.issue(TENANT, "somebody", frozenset(roles), 600)


async def hounsfield(*words: str) -> Result:
    """Run a command as a person would, while the gateway answers on this loop."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(words))


async def test_the_trail_is_shown_to_auditors_only(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((await hounsfield("audit", "show", "--json")).stdout)
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    received = [row for row in rows if row["action"] == "job.received"]
    assert [(row["actor"], row["role"]) for row in received] == [("somebody", "sender")]
    later = json.loads((await hounsfield("audit", "show", "--after", "2", "--json")).stdout)
    assert later[0] == rows[2]
    assert "job.received" in (await hounsfield("audit", "show")).stdout
    monkeypatch.setenv("HOUNSFIELD_TOKEN", _token(gateway.keys, Role.OPERATOR))
    assert isinstance((await hounsfield("audit", "show")).exception, AccessDenied)


async def test_the_export_is_valid_and_may_go_on(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    out = tmp_path / "trail.jsonl"
    assert (await hounsfield("audit", "export", "--out", str(out))).exit_code == 0
    messages = [FhirAuditEvent.model_validate_json(line) for line in out.read_text().splitlines()]
    assert "110104" in {message.type.code for message in messages}
    rest = await hounsfield("audit", "export", "--after", str(len(messages)))
    # Only what the first export itself left behind.
    assert [json.loads(line)["type"]["code"] for line in rest.stdout.splitlines()] == ["110101"]


async def test_verify_finds_what_was_altered_and_what_was_noted(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    rows = json.loads((await hounsfield("audit", "show", "--json")).stdout)
    noted = f"{TENANT}:2:{rows[1]['hash']}"
    good = await hounsfield("audit", "verify", "--expect", noted)
    assert good.exit_code == 0, good.stdout
    other = await hounsfield("audit", "verify", "--expect", f"{TENANT}:2:{rows[0]['hash']}")
    assert other.exit_code == 8
    assert "noted" in other.stdout
    wrong = await hounsfield("audit", "verify", "--expect", "radiology:2")
    assert isinstance(wrong.exception, ConfigurationError)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        database.execute("UPDATE events SET actor = 'nobody' WHERE number = 2 AND tenant <> ''")
    database.close()
    found = await hounsfield("audit", "verify", "--json")
    assert found.exit_code == 8
    faults = json.loads(found.stdout)["faults"]
    assert {(fault["tenant"], fault["number"]) for fault in faults} == {(TENANT, 2)}

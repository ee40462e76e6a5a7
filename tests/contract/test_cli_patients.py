"""Studies by name, a patient's jobs, retry and erase: the command line at a real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from client.access.issuer import LocalIssuer
from client.access.principal import Role
from client.cli.main import app
from client.crypto.keydirectory import KeyDirectory
from client.errors import NotFound, RefusalCode, WrongState
from tests.dicom_factory import Recipe, classic_files, numbered_volume
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.contract

SHOWN = "Doe, Jane · 4711 · 2026-01-02"


@pytest_asyncio.fixture
async def gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatewayUnderTest]:
    keys = KeyDirectory(tmp_path / "keys")
    roles = frozenset((Role.SENDER, Role.OPERATOR))
    token = LocalIssuer(keys.tokens, "hounsfield", "hounsfield").issue(TENANT, "op", roles, 600)
    async with running_gateway(tmp_path) as running:
        for name, value in {
            "HOME": str(tmp_path),
            "KEYS": str(keys.root),
            "GATEWAY": running.address,
            "TENANT": TENANT,
            "TOKEN": token,
        }.items():
            monkeypatch.setenv(f"HOUNSFIELD_{name}", value)
        monkeypatch.setenv("COLUMNS", "200")
        yield running


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    attributes = {"PatientName": "Doe^Jane", "PatientID": "4711", "IssuerOfPatientID": "HOSP"}
    for name, content in classic_files(Recipe(numbered_volume(2, 4, 4), attributes=attributes)):
        (folder / name).write_bytes(content)
    return folder


async def hounsfield(*words: str, typed: str = "") -> Result:
    """Run a command as a person would, while the gateway answers on this loop."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(words), typed)


async def test_jobs_are_listed_by_name_and_found_by_patient(
    gateway: GatewayUnderTest, study: Path
) -> None:
    sent = json.loads((await hounsfield("submit", str(study), "--json")).stdout)
    assert sent["study"] == SHOWN
    listed = await hounsfield("jobs")
    assert SHOWN in listed.stdout
    assert sent["id"][:8] in listed.stdout
    assert SHOWN in (await hounsfield("show", sent["id"][:8])).stdout
    for patient, expected in (
        (("--patient", "4711", "--issuer", "HOSP"), [sent["id"]]),
        (("--patient", "4711"), []),
        (("--patient", "4712", "--issuer", "HOSP"), []),
    ):
        found = json.loads((await hounsfield("jobs", *patient, "--json")).stdout)
        assert [row["id"] for row in found] == expected
    asked = await hounsfield("jobs", "--patient", "-", "--issuer", "HOSP", typed="4711\n")
    assert SHOWN in asked.stdout


async def test_a_blank_patient_is_not_every_patient(gateway: GatewayUnderTest) -> None:
    for command in (("jobs",), ("erase", "--reason", "why", "--yes")):
        refused = await hounsfield(*command, "--patient", " ")
        assert refused.exit_code == 2
        assert "not blank" in refused.stderr


async def test_names_are_shown_as_they_are_not_as_markup(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    attributes = {"PatientName": "[bold]Doe^[/nonsense]", "PatientID": "1"}
    files = classic_files(Recipe(numbered_volume(2, 4, 4), attributes=attributes))
    path = tmp_path / "one.dcm"
    path.write_bytes(files[0][1])
    await hounsfield("submit", str(path))
    assert "[bold]Doe, [/nonsense] · 1" in (await hounsfield("jobs")).stdout


async def test_a_rejected_job_says_why_and_can_be_tried_again(
    gateway: GatewayUnderTest, study: Path
) -> None:
    sent = json.loads((await hounsfield("submit", str(study), "--json")).stdout)
    early = await hounsfield("jobs", "retry", sent["id"])
    assert isinstance(early.exception, WrongState)
    job = await gateway.ledger.claim(sent["id"], "test", 30)
    await gateway.ledger.reject(job, RefusalCode.NO_MODEL, "Expected a head; send one.")
    row = json.loads((await hounsfield("show", sent["id"], "--json")).stdout)
    assert (row["state"], row["code"]) == ("rejected", "NO_MODEL")
    assert row["reason"] == "Expected a head; send one."
    again = await hounsfield("jobs", "retry", sent["id"][:8])
    assert again.exit_code == 0
    assert f"Job {sent['id'][:8]} is queued." in again.stdout


async def test_erasing_asks_first_and_prints_the_proof(
    gateway: GatewayUnderTest, study: Path
) -> None:
    sent = json.loads((await hounsfield("submit", str(study), "--json")).stdout)
    words = ("erase", "--patient", "4711", "--issuer", "HOSP", "--reason", "asked to")
    refused = await hounsfield(*words, typed="n\n")
    assert refused.exit_code == 1
    assert SHOWN in (await hounsfield("jobs")).stdout
    proof = json.loads((await hounsfield(*words, "--yes", "--json")).stdout)
    event = (await gateway.ledger.audit_events(TENANT, after=proof["event_number"] - 1))[0]
    assert (event.action, event.actor, event.role) == ("patient.erased", "op", "operator")
    assert (proof["jobs"], proof["event_hash"]) == (1, event.hash)
    shown = json.loads((await hounsfield("show", sent["id"], "--json")).stdout)
    assert (shown["code"], shown["study"]) == ("ERASED", "")
    unknown = await hounsfield("erase", "--patient", "9", "--reason", "asked to", "--yes")
    assert isinstance(unknown.exception, NotFound)


@pytest.mark.parametrize("subject", [(), ("--patient", "1", "--upload", "2")])
async def test_erasing_needs_exactly_one_subject(subject: tuple[str, ...]) -> None:
    refused = await hounsfield("erase", *subject, "--reason", "asked to", "--yes")
    assert refused.exit_code == 2
    assert "either --patient or --upload" in refused.stderr

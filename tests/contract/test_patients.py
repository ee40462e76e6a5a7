"""A patient is found, shown and erased by the sender, and the gateway never learns who it is."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from client.access.issuer import LocalIssuer
from client.access.principal import Role
from client.crypto.keydirectory import KeyDirectory, create_key_directory
from client.crypto.labels import StudyLabel
from client.errors import (
    AccessDenied,
    ClientError,
    ConfigurationError,
    NotFound,
    RefusalCode,
    Rejected,
    WrongState,
)
from client.ingest.sender import IngestClient
from client.jobs import JobState
from tests.dicom_factory import Recipe, classic_files, numbered_volume
from tests.gateways import TENANT, GatewayUnderTest, running_gateway
from tests.proof.traces import Searcher, Secret

pytestmark = pytest.mark.contract

NAME, PATIENT, ISSUER = "Zaphodqvisting^Ursulabethina", "PXQ7734419ZK", "ISSUERKLMNOPQ"


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    _issuer(KeyDirectory(tmp_path / "keys")).new_key()
    async with running_gateway(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: GatewayUnderTest) -> AsyncIterator[IngestClient]:
    async with gateway.sender() as connected:
        yield connected


@pytest_asyncio.fixture
async def operator(gateway: GatewayUnderTest) -> AsyncIterator[IngestClient]:
    roles = frozenset((Role.OPERATOR, Role.CLINICIAN))
    token = _issuer(gateway.keys).issue(TENANT, "op", roles, 600)
    async with gateway.sender(token=token) as connected:
        yield connected


def _issuer(keys: KeyDirectory) -> LocalIssuer:
    return LocalIssuer(keys.tokens, "hounsfield", "hounsfield")


def study(patient_id: str = PATIENT, number: int = 1) -> list[bytes]:
    recipe = Recipe(
        numbered_volume(2, 4, 4) + number,
        series=number,
        attributes={
            "PatientName": NAME,
            "PatientID": patient_id,
            "IssuerOfPatientID": ISSUER if patient_id else "",
        },
    )
    return [content for _, content in classic_files(recipe)]


async def test_a_study_is_shown_by_name_to_its_sender_only(
    gateway: GatewayUnderTest, client: IngestClient, tmp_path: Path
) -> None:
    job = await client.submit(study())
    label = StudyLabel(NAME, PATIENT, "20260102")
    assert client.label(job) == label
    assert client.label(await client.get(job.id)) == label
    assert [client.label(found) for found in await client.list_jobs()] == [label]
    secrets = [Secret(0, "any", value) for value in (*NAME.split("^"), PATIENT, ISSUER)]
    searcher = Searcher(secrets)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert {trace for path in written for trace in searcher.in_file(path, str(path))} == set()


async def test_a_patient_is_found_by_id_and_issuer(client: IngestClient) -> None:
    mine = {(await client.submit(study(number=number))).id for number in (1, 2)}
    await client.submit(study("SOMEBODYELSE1", number=3))
    await client.submit(study("", number=4))
    found = await client.list_jobs(patient=client.pseudonym(PATIENT, ISSUER))
    assert {job.id for job in found} == mine
    assert await client.list_jobs(patient=client.pseudonym(PATIENT)) == ()
    assert len(await client.list_jobs()) == 4


async def test_two_tenants_know_one_patient_by_two_names(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    create_key_directory(gateway.keys.root, "cardiology")
    job = await client.submit(study())
    async with gateway.sender("cardiology") as other:
        assert other.pseudonym(PATIENT, ISSUER) != client.pseudonym(PATIENT, ISSUER)
        assert await other.list_jobs(patient=client.pseudonym(PATIENT, ISSUER)) == ()
        assert other.label(job) is None


async def test_an_erased_patient_is_gone_and_the_proof_is_in_the_trail(
    gateway: GatewayUnderTest, client: IngestClient, operator: IngestClient
) -> None:
    done = await client.submit(study(number=1))
    await gateway.work_once({"result.dcm": b"content"})
    waiting = await client.submit(study(number=2))
    kept = await client.submit(study("SOMEBODYELSE1", number=3))
    assert await client.fetch(done) == {"result.dcm": b"content"}
    proof = await operator.erase(patient=client.pseudonym(PATIENT, ISSUER), reason="asked to")
    assert proof.jobs == 2
    events = await gateway.ledger.audit_events(TENANT, after=proof.event_number - 1, limit=1)
    assert (events[0].action, events[0].hash) == ("patient.erased", proof.event_hash)
    for job in (done, waiting):
        with pytest.raises(NotFound):
            await client.fetch(job)
        gone = await client.get(job.id)
        assert gone.code == RefusalCode.ERASED
        assert client.label(gone) is None
    assert (await client.get(waiting.id)).state is JobState.FAILED
    assert (await client.get(kept.id)).code == ""
    assert client.label(await client.get(kept.id)) is not None
    with pytest.raises(WrongState):
        await client.retry(waiting.id)


async def test_a_study_without_an_id_is_erased_by_its_upload(
    client: IngestClient, operator: IngestClient
) -> None:
    job = await client.submit(study(""))
    assert (await operator.erase(upload_id=job.upload_id, reason="asked to")).jobs == 1
    with pytest.raises(NotFound):
        await operator.erase(upload_id=str(uuid.uuid4()), reason="asked to")
    with pytest.raises(NotFound):
        await operator.erase(patient=client.pseudonym("NOBODYATALL"), reason="asked to")


async def test_a_sender_may_not_erase(client: IngestClient) -> None:
    await client.submit(study())
    with pytest.raises(AccessDenied):
        await client.erase(patient=client.pseudonym(PATIENT, ISSUER), reason="asked to")


async def test_nobody_is_nobody_not_everybody(operator: IngestClient) -> None:
    with pytest.raises(Rejected, match="INVALID_REQUEST"):
        await operator.erase(patient=operator.pseudonym(" "), reason="asked to")


async def test_two_patients_in_one_study_are_not_sent(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    with pytest.raises(ConfigurationError, match="a submission of its own"):
        await client.submit(study() + study("SOMEBODYELSE1"))
    assert gateway.stored_files() == []


async def test_what_breaks_in_the_gateway_is_told_nobody_with_its_text(
    gateway: GatewayUnderTest,
    client: IngestClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: object, **__: object) -> None:
        try:
            raise ValueError(NAME)
        except ValueError as error:
            raise KeyError(PATIENT) from error

    job = await client.submit(study())
    monkeypatch.setattr(gateway.ledger, "get", broken)
    monkeypatch.setattr(gateway.ledger, "submit", broken)
    with caplog.at_level(logging.DEBUG):
        for call in (client.get(job.id), client.submit(study(number=2))):
            with pytest.raises(ClientError, match=grpc.StatusCode.INTERNAL.name) as caught:
                await call
            assert PATIENT not in str(caught.value)
    told = "\n".join(logging.Formatter().format(record) for record in caplog.records)
    assert "GetJob failed: KeyError (" in told
    assert "test_patients.py" in told
    assert "caused by ValueError (" in told
    assert not any(word in told for word in (*NAME.split("^"), PATIENT))


async def test_the_same_study_sent_again_is_the_same_job(client: IngestClient) -> None:
    first = await client.submit(study())
    assert (await client.submit(study())).id == first.id
    assert (await client.submit(study(), process_again=True)).id != first.id


async def test_an_answer_with_another_patients_job_is_not_taken(
    gateway: GatewayUnderTest, client: IngestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await gateway.ledger.get((await client.submit(study("SOMEBODYELSE1"))).id, TENANT)

    async def wrong(*_: object, **__: object) -> object:
        return other, False

    monkeypatch.setattr(gateway.ledger, "submit", wrong)
    with pytest.raises(Rejected, match="not of the study that was sent"):
        await client.submit(study(number=2))

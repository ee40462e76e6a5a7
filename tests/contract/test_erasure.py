"""A patient's key is destroyed first; whatever crashes after that, the next call finishes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from client.errors import Erased, NotFound, RefusalCode, Rejected, Transient
from client.ingest.erasure import Subject, erase_subject
from client.jobs import Actor, Job, JobState
from client.vault.headers import open_study_header
from tests.access_matrix import Matrix, open_stub
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.contract

PATIENT = "d" * 64
WHO = Subject(TENANT, PATIENT)


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path) as running:
        yield running


async def send(gateway: GatewayUnderTest, patient: str) -> Job:
    async with open_stub(gateway) as stub:
        answer = await stub.SubmitStudy(iter(Matrix(gateway).study(TENANT, patient)))
    return await gateway.ledger.get(answer.job.id)


async def erase(gateway: GatewayUnderTest, subject: Subject = WHO) -> tuple[int, str]:
    erased, event = await erase_subject(
        subject,
        Actor("op", "operator"),
        "asked for by the patient",
        vault=gateway.vault,
        ledger=gateway.ledger,
        store=gateway.store,
    )
    return erased, event.hash


async def test_everything_of_the_patient_and_nothing_else(gateway: GatewayUnderTest) -> None:
    done, waiting, other = [await send(gateway, p) for p in (PATIENT, PATIENT, "e" * 64)]
    finished, _ = await gateway.work_once({"a.json": b"{}"})
    assert finished.id == done.id
    assert len(gateway.stored_files()) == 4
    erased, proof = await erase(gateway)
    assert erased == 2
    jobs = await gateway.ledger.known((done.id, waiting.id, other.id))
    assert jobs[done.id].state is JobState.DONE
    assert jobs[waiting.id].state is JobState.FAILED
    assert jobs[done.id].code == jobs[waiting.id].code == RefusalCode.ERASED
    assert jobs[other.id].code == ""
    assert [path.name for path in gateway.stored_files()] == [other.id]
    with pytest.raises(Erased):
        await open_study_header(gateway.vault, done)
    await open_study_header(gateway.vault, other)
    (event,) = [
        e for e in await gateway.ledger.audit_events(TENANT) if e.action == "patient.erased"
    ]
    assert (event.hash, event.actor, event.role) == (proof, "op", "operator")


@pytest.mark.parametrize("broken", ["ledger.erase", "store.delete"])
async def test_a_crash_after_the_key_is_finished_by_the_next_call(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    job = await send(gateway, PATIENT)
    part, method = broken.split(".")

    async def crash(*_: object) -> None:
        raise Transient("The machine lost power.")

    monkeypatch.setattr(getattr(gateway, part), method, crash)
    with pytest.raises(Transient):
        await erase(gateway)
    with pytest.raises(Erased):
        await open_study_header(gateway.vault, job)
    assert len(gateway.stored_files()) == 1
    monkeypatch.undo()
    assert (await erase(gateway))[0] == 1
    assert gateway.stored_files() == []
    assert (await gateway.ledger.get(job.id)).code == RefusalCode.ERASED


async def test_erasing_again_says_the_same_of_the_jobs(gateway: GatewayUnderTest) -> None:
    await send(gateway, PATIENT)
    first, second = await erase(gateway), await erase(gateway)
    assert first[0] == second[0] == 1


async def test_what_comes_after_the_erasure_stays(gateway: GatewayUnderTest) -> None:
    before = await send(gateway, PATIENT)
    await erase(gateway)
    after = await send(gateway, PATIENT)
    assert after.subject_key_id != before.subject_key_id
    await open_study_header(gateway.vault, after)
    assert (await gateway.ledger.get(after.id)).code == ""
    assert (await erase(gateway))[0] == 2


async def test_nothing_to_erase(gateway: GatewayUnderTest) -> None:
    job = await send(gateway, PATIENT)
    for subject in (
        Subject(TENANT, "f" * 64),
        Subject("cardiology", PATIENT),
        Subject(TENANT, "", "00000000-0000-4000-8000-000000000000"),
        Subject("cardiology", "", job.upload_id),
    ):
        with pytest.raises(NotFound, match="Nothing of that patient"):
            await erase(gateway, subject)
    with pytest.raises(Rejected, match="pseudonym"):
        await erase(gateway, Subject(TENANT, "", job.upload_id))
    await open_study_header(gateway.vault, job)

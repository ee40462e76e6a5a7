"""Calls of people: tokens from a file, retries by hand, the audit trail in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from client.access.issuer import LocalIssuer
from client.access.principal import Role
from client.crypto.privatefiles import write_private
from client.errors import AccessDenied, ConfigurationError, RefusalCode, Unauthenticated, WrongState
from client.ingest.sender import IngestClient
from client.jobs import JobState
from client.proto import ingest_pb2
from tests.access_matrix import Matrix, open_stub
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.contract


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    LocalIssuer(tmp_path / "keys" / "tokens", "hounsfield", "hounsfield").new_key()
    async with running_gateway(tmp_path, tokens_required=True) as running:
        yield running


def token(gateway: GatewayUnderTest, role: Role, name: str = "x") -> str:
    issuer = LocalIssuer(gateway.keys.tokens, "hounsfield", "hounsfield")
    return issuer.issue(TENANT, name, frozenset((role,)), 600)


async def test_a_token_file_is_read_for_each_call(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    write_private(path, token(gateway, Role.SENDER).encode() + b"\n")
    async with gateway.sender() as client:
        with pytest.raises(Unauthenticated, match="bearer token"):
            await client.list_jobs()
    settings = replace(gateway.sender_settings(), token_file=path)
    async with IngestClient(settings) as client:
        job = await client.submit([b"x"])
        assert [found.id for found in await client.list_jobs()] == [job.id]
        write_private(path, token(gateway, Role.CLINICIAN).encode())
        with pytest.raises(AccessDenied, match="one of the roles sender"):
            await client.submit([b"y"])
        path.chmod(0o644)
        with pytest.raises(ConfigurationError, match="every user"):
            await client.list_jobs()
        path.unlink()
        with pytest.raises(ConfigurationError, match="Cannot read"):
            await client.list_jobs()
    secret = token(gateway, Role.SENDER)
    assert secret not in repr(replace(settings, token=secret))


async def test_the_reason_for_breaking_the_glass_is_on_record(gateway: GatewayUnderTest) -> None:
    settings = replace(gateway.sender_settings(), token=token(gateway, Role.BREAK_GLASS, "dr.y"))
    async with IngestClient(settings) as client:
        with pytest.raises(AccessDenied, match="reason"):
            await client.list_jobs()
    reason = "Bewusstlos, Hausärztin nicht erreichbar"
    async with IngestClient(replace(settings, break_glass_reason=reason)) as client:
        await client.list_jobs()
    denied, broken = await gateway.ledger.audit_events(TENANT)
    assert (denied.actor, denied.outcome, denied.role) == ("dr.y", "denied", "")
    assert (broken.actor, broken.outcome, broken.role) == ("dr.y", "ok", "break_glass")
    assert broken.detail == reason


async def test_a_job_retried_by_hand_is_in_the_queue_again(gateway: GatewayUnderTest) -> None:
    async with (
        gateway.sender(token=token(gateway, Role.SENDER)) as sender,
        gateway.sender(token=token(gateway, Role.OPERATOR, "op")) as operator,
    ):
        job = await sender.submit([b"x"])
        with pytest.raises(WrongState):
            await operator.retry(job.id)
        entry = await gateway.queue.take(1)
        assert entry is not None
        claimed = await gateway.ledger.claim(job.id, "test", 30)
        await gateway.ledger.fail(claimed, RefusalCode.TIMED_OUT, "It took too long.")
        await gateway.queue.ack(entry)
        assert await gateway.queue.job_ids() == frozenset()
        assert (await operator.retry(job.id)).state is JobState.QUEUED
        assert await gateway.queue.job_ids() == {job.id}
    (event,) = [e for e in await gateway.ledger.events(job.id) if "by_hand" in e.action]
    assert (event.actor, event.role) == ("op", "operator")


async def test_the_audit_trail_comes_in_pages(gateway: GatewayUnderTest) -> None:
    matrix = Matrix(gateway)
    async with open_stub(gateway) as stub:
        for _ in range(5):
            await stub.ListJobs(ingest_pb2.ListJobsRequest(), metadata=matrix.metadata(Role.SENDER))
        pages, after = [], 0
        while True:
            answer = await stub.ListEvents(
                ingest_pb2.ListEventsRequest(after=after, page_size=2),
                metadata=matrix.metadata(Role.AUDITOR),
            )
            pages += answer.events
            after = answer.events[-1].number
            if len(pages) >= 8:
                break
    assert [event.number for event in pages] == list(range(1, len(pages) + 1))
    assert [event.action for event in pages[:5]] == ["call.ListJobs"] * 5
    # The reading itself is on record.
    assert {event.action for event in pages[5:]} == {"call.ListEvents"}
    stored = await gateway.ledger.audit_events(TENANT, limit=len(pages))
    assert [event.hash for event in pages] == [event.hash for event in stored]

"""Every RPC, every role, one's own and another tenant's: all answers follow from one table."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from client.access.principal import Role
from client.access.rules import RULES
from client.errors import Transient
from client.ledger.audit import SYSTEM_TENANT
from client.limits import AccessLimits, ServiceLimits
from client.proto import ingest_pb2
from tests.access_matrix import (
    OTHER,
    REQUESTS,
    TARGETS,
    Matrix,
    ask,
    methods,
    open_stub,
    rank_probability,
)
from tests.certificate_table import authority_of, dial, tls_files
from tests.forge import forge_certificate
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.contract


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def matrix(gateway: GatewayUnderTest) -> Matrix:
    made = Matrix(gateway)
    await made.prepare()
    return made


def test_every_rpc_has_a_row() -> None:
    named = {method.name for method in methods()}
    assert set(RULES) == named
    assert set(REQUESTS) == named
    assert all(RULES.values())


async def test_the_matrix(gateway: GatewayUnderTest, matrix: Matrix) -> None:
    before = len(await gateway.ledger.audit_events(TENANT, limit=10_000))
    theirs_before = await _all_of(gateway, OTHER)
    cells = await matrix.run()
    assert await _all_of(gateway, OTHER) == theirs_before
    assert len(cells) == len(RULES) * len(Role) * len(TARGETS)
    assert [cell for cell in cells if not cell.held] == []
    by_target = {(cell.rpc, cell.role, cell.target): cell for cell in cells}
    for (rpc, role, target), cell in by_target.items():
        if target == TARGETS[1]:
            absent = by_target[rpc, role, TARGETS[2]]
            theirs = cell.answer.without(cell.subject)
            assert theirs == absent.answer.without(absent.subject), (rpc, role)
    # What was asked is what is written down, each call once.
    events = (await gateway.ledger.audit_events(TENANT, limit=10_000))[before:]
    outcomes = {
        grpc.StatusCode.OK: "ok",
        grpc.StatusCode.NOT_FOUND: "not_found",
        grpc.StatusCode.PERMISSION_DENIED: "denied",
    }
    expected = Counter(
        (f"call.{cell.rpc}", f"{cell.role}.x", outcomes[cell.answer.code])
        for cell in cells
        if not (cell.rpc == "SubmitStudy" and cell.answer.code is grpc.StatusCode.OK)
    )
    calls = Counter(
        (event.action, event.actor, event.outcome)
        for event in events
        if event.action.startswith("call.")
    )
    assert calls == expected
    own_jobs = {job.id for job in (await gateway.ledger.list_jobs(TENANT, page_size=500)).jobs}
    assert {event.job_id for event in events if event.action.startswith("job.")} <= own_jobs
    received = [event for event in events if event.action == "job.received"]
    assert {(event.actor, event.role) for event in received} == {("sender.x", "sender")}
    reasons = {e.detail for e in events if e.role == "break_glass" and e.outcome == "ok"}
    assert reasons == {"unconscious patient in the shock room"}
    assert all(not report.faults for report in await gateway.ledger.verify_chains())


async def _all_of(gateway: GatewayUnderTest, tenant: str) -> tuple[object, ...]:
    events = await gateway.ledger.audit_events(tenant, limit=10_000)
    return (await gateway.ledger.list_jobs(tenant)).jobs, events


async def test_breaking_the_glass_needs_a_reason(gateway: GatewayUnderTest, matrix: Matrix) -> None:
    method = next(method for method in methods() if method.name == "FetchResult")
    request = REQUESTS["FetchResult"].request(matrix, matrix.things("own"))
    first, last = AccessLimits().min_reason_chars, AccessLimits().max_reason_chars
    expected = {
        "": False, "x" * (first - 1): False, "x" * first: True, "x" * last: True,
        "x" * (last + 1): False, "%0A" * first: False, "%C3%BC" * first: True,
    }  # fmt: skip
    async with open_stub(gateway) as stub:
        for reason, taken in expected.items():
            answer = await ask(stub, method, request, matrix.metadata(Role.BREAK_GLASS, reason))
            wanted = grpc.StatusCode.OK if taken else grpc.StatusCode.PERMISSION_DENIED
            assert answer.code is wanted, reason


async def test_time_tells_nothing_of_what_others_have(matrix: Matrix) -> None:
    rounds = 100
    theirs, nobodys = await matrix.timed("GetJob", rounds)
    four_errors = 4 / math.sqrt(6 * rounds)
    assert abs(rank_probability(theirs, nobodys) - 0.5) < four_errors


@pytest.mark.parametrize("rpc", ["GetJob", "FetchResult", "CancelJob", "ListJobs"])
async def test_nothing_is_told_that_is_not_on_record(
    gateway: GatewayUnderTest, matrix: Matrix, monkeypatch: pytest.MonkeyPatch, rpc: str
) -> None:
    async def away(*_: object) -> None:
        raise Transient("The ledger is away.")

    monkeypatch.setattr(gateway.ledger, "record", away)
    (method,) = (method for method in methods() if method.name == rpc)
    request = REQUESTS[rpc].request(matrix, matrix.things("own"))
    async with open_stub(gateway) as stub:
        for role in (Role.SENDER, Role.AUDITOR):
            answer = await ask(stub, method, request, matrix.metadata(role))
            assert answer.code is grpc.StatusCode.UNAVAILABLE
            assert answer.message is None


async def test_one_tenant_cannot_take_every_place(tmp_path: Path) -> None:
    limits = ServiceLimits(max_calls_per_tenant=3, watch_interval_s=0.02, retry_after_s=0.1)
    async with running_gateway(tmp_path, limits) as gateway:
        matrix = Matrix(gateway)
        await matrix.prepare()
        request = ingest_pb2.WatchJobRequest(job_id=matrix.things("own").open)
        async with open_stub(gateway) as stub, open_stub(gateway, OTHER) as neighbour:
            watches = [stub.WatchJob(request) for _ in range(3)]
            for watch in watches:
                assert (await watch.read()).job.id == request.job_id
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListJobs(ingest_pb2.ListJobsRequest())
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await neighbour.ListJobs(ingest_pb2.ListJobsRequest())
            for watch in watches:
                watch.cancel()
            async with asyncio.timeout(10):
                while await _is_full(stub):
                    await asyncio.sleep(0.05)


async def _is_full(stub: Any) -> bool:
    try:
        await stub.ListJobs(ingest_pb2.ListJobsRequest())
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


async def test_a_certificate_without_a_tenant_is_on_record(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    ours = authority_of(gateway)
    stranger = forge_certificate(ours, tenants=("a", "b"))
    code, _ = await dial(gateway, tls_files(tmp_path / "x", ours, stranger))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    (event,) = [
        e for e in await gateway.ledger.audit_events(SYSTEM_TENANT) if e.action == "call.ListJobs"
    ]
    assert (event.outcome, event.role) == ("denied", "")

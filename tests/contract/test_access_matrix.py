"""Every RPC, every role, one's own and another tenant's: all answers follow from one table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from client.access.principal import Role
from client.access.rules import REASON_CHARACTERS, RULES
from client.storage.audit import SYSTEM_TENANT
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
    first, last = REASON_CHARACTERS[0], REASON_CHARACTERS[-1]
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

"""The matrix of every RPC, role and owner, generated from the protocol, against a real gateway.

service descriptor × roles × (own │ another tenant's │ nobody's) ──call──▶ status ══ rules
"""

from __future__ import annotations

import contextlib
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from client.access.issuer import LocalIssuer
from client.access.principal import REASON_KEY, TOKEN_KEY, Role
from client.access.rules import RULES
from client.crypto.digest import Digest
from client.crypto.keydirectory import create_key_directory
from client.crypto.keyring import Keyring
from client.crypto.studies import seal_study
from client.errors import RefusalCode
from client.ingest.bundle import study_bundle
from client.proto import ingest_pb2, ingest_pb2_grpc
from tests.gateways import TENANT, GatewayUnderTest

__all__ = (
    "OTHER",
    "REQUESTS",
    "TARGETS",
    "Answer",
    "Cell",
    "Matrix",
    "ask",
    "methods",
    "open_stub",
    "rank_probability",
)

OTHER = "cardiology"
TARGETS = ("own", "another tenant's", "nobody's")
_REASON = "unconscious%20patient%20in%20the%20shock%20room"
_PATIENTS = {TENANT: "a" * 64, OTHER: "b" * 64, "": "c" * 64}

_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_OK = grpc.StatusCode.OK


def methods() -> list[Any]:
    """Return every RPC of the service, as the protocol describes it."""
    return list(ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].methods)


@dataclass(frozen=True)
class Answer:
    """How a call ended: everything a caller can see of a refusal."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, str | bytes], ...]
    message: Any = None

    def without(self, *words: str) -> tuple[object, ...]:
        """Return the refusal with what the caller itself had said taken out."""
        details = self.details
        for word in filter(None, words):
            details = details.replace(word, "ID")
        return self.code, details, self.metadata


@dataclass(frozen=True)
class Cell:
    """One field of the matrix, what was expected there and what came."""

    rpc: str
    role: Role
    target: str
    expected: grpc.StatusCode
    answer: Answer
    subject: str

    @property
    def held(self) -> bool:
        """Whether the answer is the expected one."""
        return self.answer.code is self.expected


@dataclass(frozen=True)
class Things:
    """What one tenant has: ids that a request may name."""

    done: str
    open: str
    broken: str
    patient: str
    sender: str


@dataclass(frozen=True)
class Row:
    """How to call one RPC about somebody's things, and what it says of another's."""

    request: Callable[[Matrix, Things], Any]
    subject: Callable[[Things], str] = lambda _: ""
    of_others: grpc.StatusCode = _NOT_FOUND


def _by_job(kind: Any, which: str) -> Row:
    def request(_: Matrix, things: Things) -> Any:
        return kind(job_id=getattr(things, which))

    return Row(request, lambda things: str(getattr(things, which)))


REQUESTS: dict[str, Row] = {
    "ListRecipientKeys": Row(lambda *_: ingest_pb2.ListRecipientKeysRequest(), of_others=_OK),
    "SubmitStudy": Row(
        lambda matrix, things: matrix.study(things.sender),
        lambda things: things.sender,
        grpc.StatusCode.PERMISSION_DENIED,
    ),
    "GetJob": _by_job(ingest_pb2.GetJobRequest, "done"),
    "ListJobs": Row(
        lambda _, things: ingest_pb2.ListJobsRequest(page_token=things.done),
        lambda things: things.done,
    ),
    "WatchJob": _by_job(ingest_pb2.WatchJobRequest, "done"),
    "FetchResult": _by_job(ingest_pb2.FetchResultRequest, "done"),
    "CancelJob": _by_job(ingest_pb2.CancelJobRequest, "open"),
    "RetryJob": _by_job(ingest_pb2.RetryJobRequest, "broken"),
    "ErasePatient": Row(
        lambda _, things: ingest_pb2.ErasePatientRequest(
            patient_pseudonym=things.patient, reason="asked for by the patient"
        ),
        lambda things: things.patient,
    ),
    "ListEvents": Row(lambda *_: ingest_pb2.ListEventsRequest(), of_others=_OK),
}
"""How to call each RPC; one without a row here fails the test."""


@contextlib.asynccontextmanager
async def open_stub(gateway: GatewayUnderTest, tenant: str = TENANT) -> AsyncIterator[Any]:
    """Connect with a tenant's certificate."""
    tls = gateway.keys.sender_tls(tenant)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(), tls.private_key.read_bytes(), tls.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(gateway.address, credentials) as channel:
        yield ingest_pb2_grpc.IngestStub(channel)  # type: ignore[no-untyped-call]


class Matrix:
    """Two tenants with jobs of every kind on one gateway, and callers of every role."""

    def __init__(self, gateway: GatewayUnderTest) -> None:
        self._gateway = gateway
        self._issuer = LocalIssuer(gateway.keys.tokens, "hounsfield", "hounsfield")
        self._things: dict[str, Things] = {}

    async def prepare(self) -> None:
        """Give both tenants a job that is done, one that waits and one that failed."""
        create_key_directory(self._gateway.keys.root, OTHER)
        for tenant in (TENANT, OTHER):
            async with self._gateway.sender(tenant) as client:
                broken = await client.submit([b"broken"])
                await self._break(broken.id)
                done = await client.submit([b"done"])
                await self._gateway.work_once({"a.json": b"{}"})
                waiting = await client.submit([b"open"])
            async with open_stub(self._gateway, tenant) as stub:
                await stub.SubmitStudy(iter(self.study(tenant, _PATIENTS[tenant])))
            self._things[tenant] = Things(done.id, waiting.id, broken.id, _PATIENTS[tenant], tenant)
            while (entry := await self._gateway.queue.take(0)) is not None:
                await self._gateway.queue.ack(entry)
        first, second, third = (str(uuid.uuid4()) for _ in range(3))
        self._things[""] = Things(first, second, third, _PATIENTS[""], "nobody")

    async def _break(self, job_id: str) -> None:
        job = await self._gateway.ledger.claim(job_id, "test", 30)
        await self._gateway.ledger.fail(job, RefusalCode.TIMED_OUT, "It took too long.")
        while (entry := await self._gateway.queue.take(0)) is not None:
            await self._gateway.queue.ack(entry)

    def study(self, tenant: str, patient: str = "") -> list[ingest_pb2.SubmitStudyRequest]:
        """Return the messages of a small study that says it is a tenant's."""
        bundle = study_bundle([uuid.uuid4().bytes])
        study = seal_study(
            bundle.chunks,
            Digest.of(bundle.chunks()),
            tenant=tenant,
            upload_id=str(uuid.uuid4()),
            recipient=Keyring(self._gateway.keys.worker_keys).newest(),
            result_key=Keyring(self._gateway.keys.result_keys(TENANT)).newest(),
            patient_pseudonym=patient,
        )
        chunks = [ingest_pb2.SubmitStudyRequest(chunk=chunk) for chunk in study.chunks()]
        return [ingest_pb2.SubmitStudyRequest(header=study.header), *chunks]

    def things(self, target: str) -> Things:
        """Return what the target of a cell has."""
        return self._things[{"own": TENANT, "another tenant's": OTHER, "nobody's": ""}[target]]

    def metadata(self, role: Role, reason: str = _REASON) -> tuple[tuple[str, str], ...]:
        """Return what a caller of that role shows besides its certificate."""
        token = self._issuer.issue(TENANT, f"{role}.x", frozenset((role,)), 600)
        shown = [(TOKEN_KEY, f"Bearer {token}")]
        return (*shown, (REASON_KEY, reason)) if role is Role.BREAK_GLASS else tuple(shown)

    async def run(self) -> list[Cell]:
        """Make every call of the matrix once."""
        cells = []
        async with open_stub(self._gateway) as stub:
            for method in methods():
                for role in Role:
                    metadata = self.metadata(role)
                    for target in TARGETS:
                        cells.append(await self._cell(stub, method, role, target, metadata))  # noqa: PERF401
        return cells

    async def _cell(self, stub: Any, method: Any, role: Role, target: str, metadata: Any) -> Cell:
        row, things = REQUESTS[method.name], self.things(target)
        allowed = role in RULES[method.name]
        expected = grpc.StatusCode.PERMISSION_DENIED
        if allowed:
            expected = _OK if target == "own" else row.of_others
        answer = await ask(stub, method, row.request(self, things), metadata)
        if method.name == "RetryJob" and answer.code is _OK:
            await self._break(things.broken)
        return Cell(method.name, role, target, expected, answer, row.subject(things))

    async def timed(self, rpc: str, rounds: int) -> tuple[list[float], list[float]]:
        """Ask about another tenant's and about nobody's things by turns.

        Returns:
            How long each call took, in seconds: another tenant's, then nobody's.
        """
        (method,) = (m for m in methods() if m.name == rpc)
        row = REQUESTS[rpc]
        role = next(role for role in Role if role in RULES[rpc])
        metadata = self.metadata(role)
        took: dict[str, list[float]] = {target: [] for target in TARGETS[1:]}
        async with open_stub(self._gateway) as stub:
            for number in range(rounds):
                for target in TARGETS[1:] if number % 2 else TARGETS[:0:-1]:
                    request = row.request(self, self.things(target))
                    start = time.perf_counter()
                    await ask(stub, method, request, metadata)
                    took[target].append(time.perf_counter() - start)
        return took[TARGETS[1]], took[TARGETS[2]]


async def ask(stub: Any, method: Any, request: Any, metadata: Any = ()) -> Answer:
    """Make one call of any kind to its end."""
    call = getattr(stub, method.name)(
        iter(request) if method.client_streaming else request, metadata=metadata, timeout=30
    )
    message = None
    try:
        if method.server_streaming:
            async for message in call:  # noqa: B007
                pass
        else:
            message = await call
    except grpc.aio.AioRpcError as error:
        trailing = tuple(error.trailing_metadata() or ())
        return Answer(error.code(), error.details() or "", trailing)
    return Answer(await call.code(), "", tuple(await call.trailing_metadata() or ()), message)


def rank_probability(first: Iterable[float], second: Iterable[float]) -> float:
    """Return the chance that a value of the first list is larger than one of the second.

    0.5 means that nothing can be told from one value (Mann-Whitney U over n·m; its standard error
    for n values each is about 1/sqrt(6n)).
    """
    second = sorted(second)
    wins = [sum(b < a for b in second) + sum(b == a for b in second) / 2 for a in first]
    return statistics.fmean(wins) / len(second)

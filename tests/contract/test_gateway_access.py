"""Who is let in, what a stranger learns, and how the gateway says that it lives."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.crypto import certificates
from client.crypto.certificates import Credential, issue_gateway, issue_sender, make_authority
from client.crypto.keydirectory import TlsFiles, create_key_directory
from client.crypto.privatefiles import write_private, write_public
from client.errors import AccessDenied, ClientError, ConfigurationError, NotFound, Transient
from client.ingest import interceptor
from client.ingest.gateway import GatewaySettings, serve
from client.ingest.sender import IngestClient
from client.jobs import JobState
from client.proto import ingest_pb2
from tests.gateways import TENANT, GatewayUnderTest, access_settings, running_gateway

pytestmark = pytest.mark.contract

OTHER = "cardiology"
METHOD = "/hounsfield.ingest.v1.Ingest/"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path, health=True) as running:
        create_key_directory(running.keys.root, OTHER)
        yield running


def files_of(folder: Path, authority: bytes, credential: Credential) -> TlsFiles:
    folder.mkdir()
    files = TlsFiles(folder / "ca.pem", folder / "cert.pem", folder / "cert.key")
    write_public(files.authority, authority)
    write_public(files.certificate, credential.certificate)
    write_private(files.private_key, credential.private_key)
    return files


def authority_of(gateway: GatewayUnderTest) -> Credential:
    root = gateway.keys.root
    return Credential(gateway.keys.authority.read_bytes(), (root / "ca.key").read_bytes())


def channel(gateway: GatewayUnderTest, tenant: str = TENANT) -> grpc.aio.Channel:
    tls = gateway.keys.sender_tls(tenant)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(), tls.private_key.read_bytes(), tls.certificate.read_bytes()
    )
    return grpc.aio.secure_channel(gateway.address, credentials)


async def outcome(gateway: GatewayUnderTest, tls: TlsFiles, tenant: str = TENANT) -> object:
    settings = replace(gateway.sender_settings(), tls=tls, tenant=tenant, attempts=1)
    async with IngestClient(settings) as client:
        try:
            return await client.list_jobs()
        except ClientError as error:
            return type(error)


async def test_only_certificates_of_our_authority_are_let_in(
    gateway: GatewayUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, stranger = authority_of(gateway), make_authority()
    good = files_of(tmp_path / "good", ours.certificate, issue_sender(ours, TENANT))
    assert await outcome(gateway, good) == ()
    foreign = files_of(tmp_path / "foreign", ours.certificate, issue_sender(stranger, TENANT))
    assert await outcome(gateway, foreign) is Transient
    monkeypatch.setattr(certificates, "_LEAF_LIFE", timedelta(minutes=-1))
    expired = files_of(tmp_path / "expired", ours.certificate, issue_sender(ours, TENANT))
    monkeypatch.undo()
    assert await outcome(gateway, expired) is Transient
    server = files_of(tmp_path / "server", ours.certificate, issue_gateway(ours))
    assert await outcome(gateway, server) in (AccessDenied, Transient)


async def test_the_sender_does_not_speak_to_a_strangers_gateway(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    ours, stranger = authority_of(gateway), make_authority()
    tls = files_of(tmp_path / "x", stranger.certificate, issue_sender(ours, TENANT))
    assert await outcome(gateway, tls) is Transient


async def test_a_caller_without_certificate_is_refused(gateway: GatewayUnderTest) -> None:
    trusting = grpc.ssl_channel_credentials(gateway.keys.authority.read_bytes())
    for opened in (
        grpc.aio.secure_channel(gateway.address, trusting),
        grpc.aio.insecure_channel(gateway.address),
    ):
        async with opened:
            call: Any = opened.unary_unary(f"{METHOD}ListJobs")
            assert await call(b"", timeout=5).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_header_must_name_the_certificates_tenant(gateway: GatewayUnderTest) -> None:
    settings = replace(gateway.sender_settings(OTHER), tls=gateway.keys.sender_tls(TENANT))
    async with IngestClient(settings) as client:
        with pytest.raises(AccessDenied, match="certificate"):
            await client.submit([b"x"])
    assert gateway.stored_files() == []


Call = Callable[[IngestClient, str], Awaitable[object]]
CALLS: dict[str, Call] = {
    "get": lambda client, job: client.get(job),
    "cancel": lambda client, job: client.cancel(job),
    "fetch": lambda client, job: client.fetch(job),
    "watch": lambda client, job: client.wait(job),
}


@pytest.mark.parametrize("name", CALLS)
async def test_another_tenants_job_is_answered_like_one_that_does_not_exist(
    gateway: GatewayUnderTest, name: str
) -> None:
    async with gateway.sender() as owner, gateway.sender(OTHER) as stranger:
        job = await owner.submit([b"x"])
        done, _ = await gateway.work_once({"a.json": b"{}"})
        absent = str(uuid.uuid4())
        told = []
        for job_id in (job.id, absent):
            with pytest.raises(NotFound) as caught:
                await CALLS[name](stranger, job_id)
            told.append(str(caught.value).replace(job_id, "ID"))
        assert told[0] == told[1]
        assert await stranger.list_jobs() == ()
        assert (await owner.get(job.id)).state is done.state


async def test_every_method_asks_for_the_tenant(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    """A certificate of our authority that names no tenant opens no method at all."""
    ours = authority_of(gateway)
    nobody = files_of(tmp_path / "nobody", ours.certificate, issue_sender(ours, ""))
    credentials = grpc.ssl_channel_credentials(
        nobody.authority.read_bytes(),
        nobody.private_key.read_bytes(),
        nobody.certificate.read_bytes(),
    )
    job = str(uuid.uuid4())
    requests = {
        "ListRecipientKeys": ingest_pb2.ListRecipientKeysRequest(),
        "SubmitStudy": ingest_pb2.SubmitStudyRequest(),
        "GetJob": ingest_pb2.GetJobRequest(job_id=job),
        "ListJobs": ingest_pb2.ListJobsRequest(),
        "WatchJob": ingest_pb2.WatchJobRequest(job_id=job),
        "FetchResult": ingest_pb2.FetchResultRequest(job_id=job),
        "CancelJob": ingest_pb2.CancelJobRequest(job_id=job),
        "RetryJob": ingest_pb2.RetryJobRequest(job_id=job),
        "ErasePatient": ingest_pb2.ErasePatientRequest(upload_id=job, reason="asked for"),
        "ListEvents": ingest_pb2.ListEventsRequest(),
    }
    methods = ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].methods
    assert {method.name for method in methods} == set(requests)
    async with grpc.aio.secure_channel(gateway.address, credentials) as opened:
        for method in methods:
            kind = (
                f"{'stream' if method.client_streaming else 'unary'}_"
                f"{'stream' if method.server_streaming else 'unary'}"
            )
            raw = requests[method.name].SerializeToString()
            sent = iter([raw]) if method.client_streaming else raw
            call: Any = getattr(opened, kind)(METHOD + method.name)(sent)
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED, method.name


@pytest.mark.parametrize("method", ["GetJob", "WatchJob", "SubmitStudy"])
async def test_bytes_that_are_no_message_are_refused_without_an_alarm(
    gateway: GatewayUnderTest, method: str
) -> None:
    kind = {"GetJob": "unary_unary", "WatchJob": "unary_stream", "SubmitStudy": "stream_unary"}
    junk = b"\xff\xff\xff\xff"
    async with channel(gateway) as opened:
        sent = iter([junk]) if method == "SubmitStudy" else junk
        call: Any = getattr(opened, kind[method])(METHOD + method)(sent)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(await call.trailing_metadata()) == {"refusal-code": "INVALID_REQUEST"}


async def test_an_id_that_is_none_is_an_invalid_request(gateway: GatewayUnderTest) -> None:
    async with channel(gateway) as opened:
        for job_id in ("", "1", "../../etc/passwd", "x" * 36, "' OR 1=1 --"):
            method: Any = opened.unary_unary(f"{METHOD}GetJob")
            call = method(ingest_pb2.GetJobRequest(job_id=job_id).SerializeToString())
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert not job_id or job_id not in await call.details()


async def test_what_nobody_foresaw_is_told_without_detail_and_logged(
    gateway: GatewayUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(gateway.ledger, "get", broken)
    async with gateway.sender() as client:
        with pytest.raises(ClientError) as caught:
            await client.get(str(uuid.uuid4()))
    assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert caplog.records[0].name == interceptor.__name__


async def health(opened: grpc.aio.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(opened)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    status: int = answer.status
    return status


async def test_health_tells_life_and_readiness(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, not_serving = 1, 2
    plain = grpc.aio.insecure_channel(f"127.0.0.1:{gateway.gateway.health_port}")
    async with channel(gateway) as opened, plain, gateway.sender() as client:
        for probe in (opened, plain):
            assert await health(probe, "") == serving
            assert await health(probe, "ready") == serving
        method: Any = plain.unary_unary(f"{METHOD}ListJobs")
        assert await method(b"").code() is grpc.StatusCode.UNIMPLEMENTED

        async def away() -> None:
            raise Transient("The ledger is away.")

        monkeypatch.setattr(gateway.ledger, "ping", away)
        for _ in range(50):
            if await health(plain, "ready") == not_serving:
                break
            await asyncio.sleep(0.05)
        assert await health(plain, "") == serving
        assert not await client.is_ready()
        monkeypatch.undo()
        for _ in range(50):
            if await client.is_ready():
                return
            await asyncio.sleep(0.05)
        pytest.fail("the gateway did not become ready again")


async def test_a_taken_port_and_a_wrong_certificate_are_told(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    settings = GatewaySettings(
        listen=f"127.0.0.1:{gateway.gateway.port}",
        tls=gateway.keys.gateway_tls,
        access=access_settings(gateway.keys),
    )
    with pytest.raises(ConfigurationError, match="taken"):
        await serve(settings, gateway.behind).__aenter__()
    ours = authority_of(gateway)
    mixed = Credential(issue_gateway(ours).certificate, issue_gateway(ours).private_key)
    tls = files_of(tmp_path / "mixed", ours.certificate, mixed)
    with pytest.raises(ConfigurationError):
        await serve(replace(settings, listen="127.0.0.1:0", tls=tls), gateway.behind).__aenter__()
    missing = replace(tls, private_key=tmp_path / "none.key")
    with pytest.raises(ConfigurationError, match="keys new"):
        await serve(replace(settings, tls=missing), gateway.behind).__aenter__()


async def test_a_stopping_gateway_lets_running_calls_end(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    settings = GatewaySettings(
        listen="127.0.0.1:0",
        tls=gateway.keys.gateway_tls,
        access=access_settings(gateway.keys),
        grace_s=20,
    )
    serving = serve(settings, gateway.behind)
    second = await serving.__aenter__()
    address = replace(gateway.sender_settings(), address=f"localhost:{second.port}", attempts=1)
    async with IngestClient(address) as client:
        job = await client.submit([b"x"])
        stopping = None
        states = []
        async for now in client.watch(job.id):
            states.append(now.state)
            if stopping is None:
                stopping = asyncio.create_task(serving.__aexit__(None, None, None))
                while await client.is_ready():
                    await asyncio.sleep(0.01)
                with pytest.raises(Transient):
                    await client.get(job.id)
                await gateway.ledger.cancel(TENANT, job.id)
        assert states == [JobState.QUEUED, JobState.CANCELLED]
        assert stopping is not None
        await stopping

"""The limits of a real gateway: one below each, at it, one beyond it; bombs are not inflated."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from client.crypto.digest import Digest
from client.crypto.keyring import Keyring
from client.crypto.studies import seal_study
from client.errors import Busy, RefusalCode, Rejected
from client.ingest.bundle import study_bundle
from client.ingest.calls import GatewayConnection
from client.limits import ServiceLimits, TransportLimits
from client.proto import ingest_pb2
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.contract

METHOD = "/hounsfield.ingest.v1.Ingest/"
UNKNOWN = ingest_pb2.GetJobRequest(job_id="11111111-2222-4333-8444-555555555555")
MIB = 1 << 20


@contextlib.asynccontextmanager
async def channel(
    gateway: GatewayUnderTest, *options: tuple[str, int]
) -> AsyncIterator[grpc.aio.Channel]:
    tls = gateway.keys.sender_tls(TENANT)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(), tls.private_key.read_bytes(), tls.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(gateway.address, credentials, options) as made:
        yield made


async def status(call: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@dataclass
class Sizes:
    """What one gateway is asked for: ``ask`` returns whether it took that much."""

    limits: ServiceLimits
    transport: TransportLimits
    ask: Callable[[GatewayUnderTest, int], Awaitable[bool]]
    limit: int


async def study_bytes(gateway: GatewayUnderTest, size: int) -> bool:
    """A header that announces so many bytes of plaintext, and then nothing."""
    key = Keyring(gateway.keys.worker_keys).newest()
    announced = seal_study(
        lambda: [b""],
        Digest(size, bytes(32)),
        tenant=TENANT,
        upload_id=str(uuid.uuid4()),
        recipient=key,
        result_key=key,
    )

    async def only_the_header() -> AsyncIterator[ingest_pb2.SubmitStudyRequest]:
        yield ingest_pb2.SubmitStudyRequest(header=announced.header)

    async with GatewayConnection(gateway.sender_settings()) as connection:
        with pytest.raises((Busy, Rejected)) as caught:
            await connection.upload(only_the_header())
    if not isinstance(caught.value, Rejected):
        return False
    assert caught.value.code in (RefusalCode.TOO_LARGE, RefusalCode.BAD_ENVELOPE)
    return caught.value.code is RefusalCode.BAD_ENVELOPE


async def waiting_bytes(gateway: GatewayUnderTest, size: int) -> bool:
    """What is stored encrypted, 56 bytes more than its plaintext, counts."""
    return await study_bytes(gateway, size - 56)


async def waiting_jobs(gateway: GatewayUnderTest, size: int) -> bool:
    """So many studies that wait, in all; the ones of the last time are cancelled."""
    async with gateway.sender() as client:
        try:
            for number in range(size):
                await client.submit([b"%d of %d" % (number, size)])
        except Busy:
            return False
        finally:
            for job in await client.list_jobs():
                await client.cancel(job.id)
    return True


async def uploads(gateway: GatewayUnderTest, size: int) -> bool:
    """So many uploads that have sent their header and wait."""
    key = Keyring(gateway.keys.worker_keys).newest()
    release = asyncio.Event()

    async def slowly() -> AsyncIterator[ingest_pb2.SubmitStudyRequest]:
        bundle = study_bundle([uuid.uuid4().bytes])
        study = seal_study(
            bundle.chunks,
            bundle.digest(),
            tenant=TENANT,
            upload_id=str(uuid.uuid4()),
            recipient=key,
            result_key=key,
        )
        yield ingest_pb2.SubmitStudyRequest(header=study.header)
        await release.wait()
        for chunk in study.chunks():
            yield ingest_pb2.SubmitStudyRequest(chunk=chunk)

    async with GatewayConnection(gateway.sender_settings()) as connection:
        tasks = [asyncio.create_task(connection.upload(slowly())) for _ in range(size)]
        await asyncio.wait(tasks, timeout=1.5, return_when=asyncio.FIRST_COMPLETED)
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Busy)]
    assert len(refused) <= 1
    return not refused


async def watches(gateway: GatewayUnderTest, size: int) -> bool:
    async with gateway.sender() as client, channel(gateway) as made:
        job = await client.submit([b"%d" % size])
        watch: Any = made.unary_stream(f"{METHOD}WatchJob", _serialise)
        open_calls = [watch(ingest_pb2.WatchJobRequest(job_id=job.id)) for _ in range(size)]
        answers = [await status(call.read()) for call in open_calls]
        for call in open_calls:
            call.cancel()
    refused = [answer for answer in answers if answer is not grpc.StatusCode.OK]
    assert set(refused) <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    return not refused


async def streams(gateway: GatewayUnderTest, size: int) -> bool:
    """Streams of one connection beyond the limit wait at the sender, unanswered."""
    async with gateway.sender() as client, channel(gateway) as made:
        job = await client.submit([b"%d" % size])
        watch: Any = made.unary_stream(f"{METHOD}WatchJob", _serialise)
        open_calls = [watch(ingest_pb2.WatchJobRequest(job_id=job.id)) for _ in range(size)]
        reads = [asyncio.create_task(status(call.read())) for call in open_calls]
        _, pending = await asyncio.wait(reads, timeout=0.7)
        for call in open_calls:
            call.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
    return not pending


async def message_bytes(gateway: GatewayUnderTest, size: int) -> bool:
    async with channel(gateway) as made:
        call: Any = made.unary_unary(f"{METHOD}GetJob")
        answer = await status(call(bytes(size)))
    assert answer in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return answer is grpc.StatusCode.INVALID_ARGUMENT


async def metadata_bytes(gateway: GatewayUnderTest, size: int) -> bool:
    """A call with one header more, of a value of so many bytes."""
    async with channel(gateway) as made:
        call: Any = made.unary_unary(f"{METHOD}GetJob", _serialise)
        answer = await status(call(UNKNOWN, metadata=(("x-bulk", "v" * size),)))
    assert answer in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return answer is grpc.StatusCode.NOT_FOUND


def _serialise(message: Any) -> bytes:
    raw: bytes = message.SerializeToString()
    return raw


def service(**values: Any) -> ServiceLimits:
    return ServiceLimits(watch_interval_s=0.02, retry_after_s=0.01, **values)


ROWS: dict[str, Sizes] = {
    "ServiceLimits.max_study_bytes": Sizes(
        service(max_study_bytes=5_000), TransportLimits(), study_bytes, 5_000
    ),
    "ServiceLimits.max_unfinished_jobs": Sizes(
        service(max_unfinished_jobs=3), TransportLimits(), waiting_jobs, 3
    ),
    "ServiceLimits.max_unfinished_bytes": Sizes(
        service(max_unfinished_bytes=5_000), TransportLimits(), waiting_bytes, 5_000
    ),
    "ServiceLimits.max_uploads": Sizes(service(max_uploads=2), TransportLimits(), uploads, 2),
    "ServiceLimits.max_watches": Sizes(service(max_watches=2), TransportLimits(), watches, 2),
    "ServiceLimits.max_calls_per_tenant": Sizes(
        service(max_calls_per_tenant=2), TransportLimits(), watches, 2
    ),
    "TransportLimits.max_calls": Sizes(service(), TransportLimits(max_calls=2), watches, 2),
    "TransportLimits.max_calls_per_connection": Sizes(
        service(), TransportLimits(max_calls_per_connection=2), streams, 2
    ),
    "TransportLimits.max_message_bytes": Sizes(
        service(), TransportLimits(), message_bytes, TransportLimits().max_message_bytes
    ),
    "TransportLimits.max_metadata_bytes": Sizes(
        service(), TransportLimits(), metadata_bytes, TransportLimits().max_metadata_bytes
    ),
}
_METADATA = "TransportLimits.max_metadata_bytes"


@pytest.mark.parametrize("name", [row for row in ROWS if row != _METADATA])
async def test_a_limit_holds_exactly(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    async with running_gateway(tmp_path, row.limits, transport=row.transport) as gateway:
        assert await row.ask(gateway, row.limit - 1)
        assert await row.ask(gateway, row.limit)
        assert not await row.ask(gateway, row.limit + 1)
        assert await row.ask(gateway, row.limit - 1)


async def test_the_limit_of_metadata_holds_to_the_byte(tmp_path: Path) -> None:
    """gRPC counts 32 bytes for each header (RFC 9113 6.5.2), and its own ones too."""
    row = ROWS[_METADATA]
    async with running_gateway(tmp_path, row.limits, transport=row.transport) as gateway:
        low, high = row.limit - 1_000, row.limit + 1
        assert await row.ask(gateway, low)
        assert not await row.ask(gateway, high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if await row.ask(gateway, middle) else (low, middle)
        for size, taken in ((low - 1, True), (low, True), (low + 1, False)):
            assert await row.ask(gateway, size) is taken


_BOMBER = """
import sys, grpc
address, authority, key, certificate = sys.argv[1:]
read = lambda path: open(path, "rb").read()
credentials = grpc.ssl_channel_credentials(read(authority), read(key), read(certificate))
with grpc.secure_channel(address, credentials) as channel:
    call = channel.unary_unary("/hounsfield.ingest.v1.Ingest/GetJob")
    try:
        call(bytes(300_000_000), compression=grpc.Compression.Gzip)
    except grpc.RpcError as error:
        print(error.code().name)
"""


async def test_a_bomb_in_the_transport_is_not_inflated(tmp_path: Path) -> None:
    """300 MB of zeros are 300 KB on the wire; compressed messages are refused as they are."""
    process, peak = psutil.Process(), 0
    async with running_gateway(tmp_path) as gateway:
        assert await metadata_bytes(gateway, 10)
        before = process.memory_info().rss
        tls = gateway.keys.sender_tls(TENANT)
        files = (tls.authority, tls.private_key, tls.certificate)
        bomber = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _BOMBER, gateway.address, *map(str, files)),
            stdout=asyncio.subprocess.PIPE,
        )
        answer = asyncio.create_task(bomber.communicate())
        while not answer.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)
        assert answer.result()[0].decode().strip() == "UNIMPLEMENTED"
        assert peak - before < 64 * MIB
        assert await metadata_bytes(gateway, 10)

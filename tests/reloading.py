"""Replaces a gateway's certificate while calls run, and counts what broke."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import grpc

from client.crypto.certificates import issue_gateway
from client.crypto.privatefiles import write_private, write_public
from client.errors import ClientError
from client.proto import ingest_pb2
from tests.access_matrix import open_stub
from tests.certificate_table import authority_of, peer_certificate
from tests.gateways import GatewayUnderTest

__all__ = ("ReloadReport", "calls_through_reloads")

_PATIENCE_S = 10.0
_BETWEEN_S = 1.0


@dataclass(frozen=True)
class ReloadReport:
    """What happened.

    Attributes:
        calls: Calls that were made, half of them each on a connection of its own.
        failures: Every call that failed, in words.
        streams_survived: Whether a watch that began before the first reload ended well.
        serials: Serial numbers that new connections saw, one before and one after each reload.
    """

    calls: int
    failures: tuple[str, ...]
    streams_survived: bool
    serials: tuple[int, ...]


async def calls_through_reloads(
    gateway: GatewayUnderTest, *, reloads: int, callers: int
) -> ReloadReport:
    """Call without a pause while the certificate is replaced again and again."""
    made, failures, stop = [0], list[str](), asyncio.Event()

    async def keep_calling(*, anew: bool) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stub = await stack.enter_async_context(open_stub(gateway))
            while not stop.is_set():
                try:
                    if anew:
                        async with gateway.sender() as client:
                            await client.list_jobs()
                    else:
                        await stub.ListJobs(ingest_pb2.ListJobsRequest(), timeout=30)
                    made[0] += 1
                except (ClientError, grpc.aio.AioRpcError) as error:
                    failures.append(f"{type(error).__name__}: {error}"[:200])

    async with gateway.sender() as client:
        job = await client.submit([b"watched"])
        watching = asyncio.create_task(client.wait(job.id))
        serials = [(await peer_certificate(gateway)).serial_number]
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(keep_calling(anew=number % 2 == 0))
            for _ in range(reloads):
                await asyncio.sleep(_BETWEEN_S)
                serials.append(await _replace(gateway, serials[-1]))
            await asyncio.sleep(_BETWEEN_S)
            stop.set()
        await client.cancel(job.id)
        watched = await watching
    return ReloadReport(made[0], tuple(failures), watched.finished, tuple(serials))


async def _replace(gateway: GatewayUnderTest, before: int) -> int:
    """Renew the certificate on disk; return the serial number once new connections see another."""
    tls = gateway.keys.gateway_tls
    renewed = issue_gateway(authority_of(gateway))
    write_private(tls.private_key, renewed.private_key)
    write_public(tls.certificate, renewed.certificate)
    async with asyncio.timeout(_PATIENCE_S):
        while (seen := (await peer_certificate(gateway)).serial_number) == before:
            await asyncio.sleep(0.1)
    return seen

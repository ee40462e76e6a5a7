"""Sends mutated messages to a real gateway over a real channel; counts the statuses that come."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import grpc

from client.proto import ingest_pb2
from tests.fuzz.message_mutations import MESSAGES, mutate_message
from tests.fuzz.targets import message_seeds
from tests.gateways import TENANT, GatewayUnderTest

__all__ = ("UNTYPED", "send_mutated")

UNTYPED = frozenset({"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"})
"""What no mutated message may be answered with: a fault of the gateway, or silence."""
_SERVICE = "/hounsfield.ingest.v1.Ingest/"
_DEADLINE_S = 10.0
_Metadata = tuple[tuple[str, str], ...]
_METHODS = tuple(ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].methods)


async def send_mutated(gateway: GatewayUnderTest, count: int, seed: int) -> Counter[str]:
    """Send so many mutated requests; return how often each status came."""
    rng = Random(seed)
    seeds = {type_.DESCRIPTOR.name: message_seeds()[n] for n, type_ in enumerate(MESSAGES)}
    tls = gateway.keys.sender_tls(TENANT)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(), tls.private_key.read_bytes(), tls.certificate.read_bytes()
    )
    statuses: Counter[str] = Counter()
    async with grpc.aio.secure_channel(gateway.address, credentials) as channel:
        for _ in range(count):
            method = rng.choice(_METHODS)
            healthy = seeds[method.input_type.name]
            raw = [mutate_message(healthy, rng)[1:] for _ in range(rng.choice((1, 1, 2, 3)))]
            statuses[await _status(channel, method, raw, _token(rng))] += 1
    return statuses


def _token(rng: Random) -> _Metadata:
    """Mostly none, as the certificate is enough; else a bearer token that is none."""
    if rng.random() < 0.8:
        return ()
    parts = [_part(rng) for _ in range(rng.choice((1, 2, 3, 3, 3, 4)))]
    return (("authorization", rng.choice(("Bearer ", "bearer ", "Basic ", "")) + ".".join(parts)),)


def _part(rng: Random) -> str:
    claims = rng.choice(
        (b"{}", b"[]", b"[" * 2000, b'{"alg":"none"}', b'{"alg":"HS256","kid":"../x"}', b"\xff\xfe")
    )
    return base64.urlsafe_b64encode(rng.choice((claims, rng.randbytes(40)))).decode().rstrip("=")


async def _status(
    channel: grpc.aio.Channel, method: Any, raw: list[bytes], metadata: _Metadata
) -> str:
    path = f"{_SERVICE}{method.name}"
    call: Any
    try:
        if method.client_streaming:
            call = channel.stream_unary(path)
            await call(_all(raw), timeout=_DEADLINE_S, metadata=metadata)
        elif method.server_streaming:
            call = channel.unary_stream(path)
            stream = call(raw[0], timeout=_DEADLINE_S, metadata=metadata)
            await stream.read()
            stream.cancel()
        else:
            call = channel.unary_unary(path)
            await call(raw[0], timeout=_DEADLINE_S, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def _all(raw: list[bytes]) -> AsyncIterator[bytes]:
    for each in raw:
        yield each

"""The endpoints of metrics and health: what they answer, and where they do not listen."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.addresses import host_and_port, next_port
from client.errors import ConfigurationError, Transient
from client.telemetry.exposition import make_registry, shown
from client.telemetry.health import READY, serve_health
from client.telemetry.metrics import GatewayMetrics
from tests.scrapes import scrape

pytestmark = pytest.mark.unit

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:50051", ("::1", 50051)),
        ("worker.example:0", ("worker.example", 0)),
    ],
)
def test_an_address_has_two_parts(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize("address", ["9464", ":9464", "::1:50051", "host:", "host:-1", "h:65536"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ConfigurationError, match="Expected"):
        host_and_port(address)


def test_the_next_port() -> None:
    assert next_port("") == ""
    assert next_port("127.0.0.1:9464") == "127.0.0.1:9465"
    assert next_port("[::1]:50051") == "[::1]:50052"
    with pytest.raises(ConfigurationError, match="65535"):
        next_port("127.0.0.1:65535")


async def test_a_scrape_is_answered_while_the_loop_is_busy() -> None:
    registry = make_registry()
    GatewayMetrics(registry).reconciled(2, 0)
    async with shown(registry, "127.0.0.1:0") as port:
        seen = scrape(f"127.0.0.1:{port}")  # blocks this loop
    assert seen.total("hounsfield_requeued_total") == 2
    assert seen.total("process_resident_memory_bytes") > 1e6
    assert "_created" not in seen.text
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(scrape, f"127.0.0.1:{port}")


async def test_nothing_listens_where_nothing_is_asked_for() -> None:
    async with shown(make_registry(), "") as metrics, serve_health("", ready) as health:
        assert (metrics, health) == (0, 0)


@pytest.mark.parametrize("address", ["nowhere", "203.0.113.7:9464"])
async def test_a_wrong_address_is_an_error_of_configuration(address: str) -> None:
    for context in (shown(make_registry(), address), serve_health(address, ready)):
        with pytest.raises(ConfigurationError):
            await context.__aenter__()


async def test_a_taken_port_is_an_error_of_configuration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for context in (shown(make_registry(), address), serve_health(address, ready)):
            with pytest.raises(ConfigurationError, match=address):
                await context.__aenter__()


async def ready() -> None:
    """A process that wants nothing."""


async def asked(port: int, service: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return int(answer.status)


async def until(port: int, status: int) -> None:
    async with asyncio.timeout(5):
        while await asked(port, READY) != status:
            await asyncio.sleep(0.02)


async def test_ready_follows_what_is_found_and_live_does_not() -> None:
    wrong: list[Exception] = []

    async def check() -> None:
        for error in wrong:
            raise error

    async with serve_health("127.0.0.1:0", check, interval_s=0.02) as port:
        await until(port, SERVING)
        for error in (Transient("away"), ConfigurationError("refused"), ValueError("broken")):
            wrong[:] = [error]
            await until(port, NOT_SERVING)
            assert await asked(port, "") == SERVING
        wrong.clear()
        await until(port, SERVING)


async def test_what_is_told_of_has_the_name_it_is_given() -> None:
    async with serve_health("127.0.0.1:0", ready, name="triton", interval_s=0.02) as port:
        async with asyncio.timeout(5):
            while await asked(port, "triton") != SERVING:
                await asyncio.sleep(0.02)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked(port, READY)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_loop_that_does_not_turn_is_not_alive() -> None:
    def ask(port: int, timeout_s: float) -> int:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s).status)

    async with serve_health("127.0.0.1:0", ready) as port:
        assert await asyncio.to_thread(ask, port, 5.0) == SERVING
        asking = asyncio.get_running_loop().run_in_executor(None, ask, port, 0.3)
        time.sleep(1.0)  # what a blocked loop does
        with pytest.raises(grpc.RpcError) as caught:
            await asking
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await asyncio.to_thread(ask, port, 5.0) == SERVING


@pytest.mark.parametrize("check", [lambda: asyncio.sleep(60)])
async def test_what_does_not_answer_is_not_ready(check: Callable[[], Awaitable[None]]) -> None:
    async with serve_health("127.0.0.1:0", check, interval_s=0.01, timeout_s=0.05) as port:
        for _ in range(10):
            assert await asked(port, READY) == NOT_SERVING
            assert await asked(port, "") == SERVING
            await asyncio.sleep(0.02)

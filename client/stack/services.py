"""Which processes make up the local stack, and how to know that each one works.

Settings ──▶ queue ─ triton ─ gateway ─ worker, as ServiceSpec
"""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.addresses import next_port
from client.crypto.keydirectory import KeyDirectory
from client.faultpoints import fault_environment
from client.jobqueue.embedded import embedded_queue_url, queue_is_ready, valkey_command
from client.secretfiles import CLOUD_PREFIXES
from client.settings import Settings
from client.stack.supervisor import ServiceSpec
from client.triton.embedded import is_ready, lost_a_model
from client.triton.server import TritonSettings, server_command

__all__ = ("LocalServices", "local_services")

_PROBE_TIMEOUT_S = 2.0
_SETTLE_S = 20.0
"""What a worker needs to give back its studies and to leave, after its time to finish them."""


@dataclass(frozen=True)
class LocalServices:
    """What to supervise.

    Attributes:
        services: In start order.
        triton: The embedded server, for its watchdog; None when an external one is used.
        settings: With the addresses of the embedded parts filled in.
    """

    services: tuple[ServiceSpec, ...]
    triton: TritonSettings | None
    settings: Settings


def local_services(settings: Settings) -> LocalServices:
    """Decide which parts are embedded and how to start them.

    Raises:
        ConfigurationError: A part is not installed, or a path is too long.
    """
    services: list[ServiceSpec] = []
    triton = None
    if not settings.queue_url:
        folder = Path(settings.home) / "queue"
        settings = replace(settings, queue_url=embedded_queue_url(folder))
        services.append(_queue(folder, settings.queue_url))
    if not settings.triton_url:
        triton = TritonSettings(
            repository=Path(settings.model_repository),
            profile=settings.profile,
            otlp_endpoint=settings.otlp_endpoint,
        ).resolved()
        settings = replace(
            settings, triton_url=triton.grpc_url, triton_worker_key=triton.worker_key
        )
        services.append(_triton(triton))
    services += [_gateway(replace(settings, triton_worker_key="")), _worker(_beside(settings))]
    return LocalServices(tuple(services), triton, settings)


def _beside(settings: Settings) -> Settings:
    """Give the worker the next ports: the gateway on the same machine has those of the settings."""
    return replace(
        settings,
        health_listen=next_port(settings.health_listen),
        metrics_listen=next_port(settings.metrics_listen),
    )


def _addresses(settings: Settings, *own: str) -> str:
    """Say to people where a process listens."""
    more = {"metrics": settings.metrics_listen, "health": settings.health_listen}
    return ", ".join([*own, *(f"{name} {address}" for name, address in more.items() if address)])


def _queue(folder: Path, url: str) -> ServiceSpec:
    return ServiceSpec(
        name="queue",
        argv=valkey_command(folder),
        env={"PATH": os.defpath},
        ready=lambda: queue_is_ready(url),
        address=url,
    )


def _triton(triton: TritonSettings) -> ServiceSpec:
    command = server_command(triton)
    return ServiceSpec(
        name="triton",
        argv=command.argv,
        env=command.env,
        ready=lambda: is_ready(triton),
        doomed=lost_a_model,
        address=triton.grpc_url,
        start_timeout_s=120.0,
        grace_s=triton.exit_timeout_s + 5.0,
    )


def _gateway(settings: Settings) -> ServiceSpec:
    return ServiceSpec(
        name="gateway",
        argv=(sys.executable, "-m", "client.ingest.process"),
        env=_environment(settings),
        ready=lambda: _gateway_is_ready(settings),
        address=_addresses(settings, settings.gateway),
    )


def _worker(settings: Settings) -> ServiceSpec:
    async def ready() -> bool:
        return ready_file.exists()

    ready_file = Path(settings.home) / "run" / "worker.ready"
    return ServiceSpec(
        name="worker",
        argv=(sys.executable, "-m", "client.worker", "--ready-file", str(ready_file)),
        env=_environment(settings),
        ready=ready,
        address=_addresses(settings),
        grace_s=settings.drain_s + _SETTLE_S,
    )


def _environment(settings: Settings) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {
        "PATH": f"{sysconfig.get_path('scripts')}:{os.defpath}",
        "PYTHONPATH": root,
        "PYTHONUNBUFFERED": "1",
        "HOME": str(Path.home()),
        **{name: value for name, value in os.environ.items() if name.startswith(CLOUD_PREFIXES)},
        **settings.environment(),
        **fault_environment(),
    }


async def _gateway_is_ready(settings: Settings) -> bool:
    keys = KeyDirectory(Path(settings.keys)).sender_tls(settings.tenant)
    credentials = grpc.ssl_channel_credentials(
        keys.authority.read_bytes(), keys.private_key.read_bytes(), keys.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(settings.gateway, credentials) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(
            health_pb2.HealthCheckRequest(service="ready"), timeout=_PROBE_TIMEOUT_S
        )
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

"""The gateway as a process of its own: settings in, served until SIGTERM, with the reconciler.

python -m client.ingest.process
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

from client.access.identity import AccessSettings
from client.crypto.keydirectory import KeyDirectory
from client.crypto.kms import open_key_manager
from client.discretion import be_discreet
from client.ingest.gateway import GatewaySettings, serve
from client.ingest.intake import Behind
from client.jobqueue.streams import StreamsQueue
from client.ledger.ledger import Ledger
from client.limits import ServiceLimits
from client.objectstore.stores import open_store
from client.settings import Settings, load_settings
from client.telemetry.exposition import make_registry, shown
from client.telemetry.logs import begin_logs
from client.telemetry.metrics import GatewayMetrics
from client.telemetry.tracestart import MOST_SENDERS_TRACES_PER_S, tracing
from client.telemetry.watching import GatewayWatch
from client.upkeep.reconcile import Reconciler, ReconcilerSettings
from client.upkeep.retention import RetentionRules
from client.vault.vault import Vault

__all__ = ("main", "run_gateway")

_MIB = 1 << 20


async def run_gateway(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set.

    Raises:
        ConfigurationError: A certificate is missing, an address taken or a setting wrong.
    """
    keys = KeyDirectory(Path(settings.keys))
    store = open_store(settings.store_url)
    name = f"gateway-{socket.gethostname()}-{os.getpid()}"
    registry = make_registry()
    metrics = GatewayMetrics(registry)
    async with (
        shown(registry, settings.metrics_listen),
        Ledger(settings.ledger_url, keys.audit_key(), max_attempts=settings.max_attempts) as ledger,
        Vault(settings.vault_url, open_key_manager(settings.kek, keys.kek)) as vault,
        StreamsQueue(settings.queue_url, name) as queue,
        serve(
            _gateway_settings(settings, keys),
            Behind(store, ledger, vault, queue, keys.worker_keys),
            metrics,
        ),
    ):
        reconciler = Reconciler(ledger, queue, store, _reconciler_settings(settings), metrics)
        works = [reconciler.run()]
        if settings.metrics_listen:
            watch = GatewayWatch(metrics, ledger, queue, store, certificates=_certificates(keys))
            works.append(watch.run())
        await _until(stop, works)


async def _until(stop: asyncio.Event, works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Work until ``stop`` is set; work that ends by itself ends everything, with its error."""
    tasks = [asyncio.create_task(work) for work in works]
    stopped = asyncio.create_task(stop.wait())
    try:
        ended, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)


def _gateway_settings(settings: Settings, keys: KeyDirectory) -> GatewaySettings:
    return GatewaySettings(
        listen=settings.gateway,
        tls=keys.gateway_tls,
        access=AccessSettings(
            authority=keys.authority,
            revoked=keys.revoked,
            token_issuer=settings.token_issuer,
            token_audience=settings.token_audience,
            token_jwks=settings.token_jwks,
            tokens_required=settings.tokens == "required",
        ),
        health_listen=settings.health_listen,
        limits=ServiceLimits(
            max_study_bytes=settings.max_study_mib * _MIB,
            max_unfinished_jobs=settings.max_queued,
        ),
    )


def _certificates(keys: KeyDirectory) -> dict[str, Path]:
    """Everything of the gateway that ends one day, by the name that metrics give it."""
    return {
        "gateway": keys.gateway_tls.certificate,
        "authority": keys.authority,
        "revocations": keys.revoked,
    }


def _reconciler_settings(settings: Settings) -> ReconcilerSettings:
    return ReconcilerSettings(
        interval_s=settings.reconcile_s,
        waiting_s=2 * settings.reconcile_s,
        retention=RetentionRules(settings.study_retention_days, settings.result_retention_days),
    )


async def _serve() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = load_settings()
    begin_logs(settings)
    with tracing(settings, "gateway", most_joined_per_s=MOST_SENDERS_TRACES_PER_S):
        await run_gateway(settings, stop)


def main() -> None:
    """Run until SIGTERM."""
    be_discreet()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())


if __name__ == "__main__":
    main()

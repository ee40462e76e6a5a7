"""The gateway as a process of its own: settings in, served until SIGTERM, with the reconciler.

python -m client.ingest.process
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

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
    async with (
        Ledger(settings.ledger_url, keys.audit_key(), max_attempts=settings.max_attempts) as ledger,
        Vault(settings.vault_url, open_key_manager(settings.kek, keys.kek)) as vault,
        StreamsQueue(settings.queue_url, name) as queue,
        serve(
            _gateway_settings(settings, keys),
            Behind(store, ledger, vault, queue, keys.worker_keys),
        ),
    ):
        reconciler = Reconciler(ledger, queue, store, _reconciler_settings(settings))
        reconciling = asyncio.create_task(reconciler.run())
        try:
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, reconciling}, return_when=asyncio.FIRST_COMPLETED)
            if reconciling.done():
                reconciling.result()
        finally:
            reconciling.cancel()
            await asyncio.gather(reconciling, return_exceptions=True)


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
        limits=ServiceLimits(
            max_study_bytes=settings.max_study_mib * _MIB,
            max_unfinished_jobs=settings.max_queued,
        ),
    )


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
    await run_gateway(load_settings(), stop)


def main() -> None:
    """Run until SIGTERM."""
    be_discreet()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())


if __name__ == "__main__":
    main()

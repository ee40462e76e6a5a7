"""A real gateway on loopback for tests: TLS, SQLite, a local store and a real queue."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from client.access.identity import AccessSettings
from client.access.issuer import JWKS_FILE
from client.crypto.digest import Digest
from client.crypto.keydirectory import KeyDirectory, create_key_directory
from client.crypto.keyring import Keyring
from client.crypto.kms import open_key_manager
from client.crypto.studies import open_study, seal_result
from client.ingest.bundle import read_bundle, result_bundle
from client.ingest.calls import SenderSettings
from client.ingest.gateway import Gateway, GatewaySettings, serve
from client.ingest.intake import Behind
from client.ingest.sender import IngestClient
from client.jobqueue.base import JobQueue
from client.jobqueue.embedded import embedded_queue
from client.jobqueue.streams import StreamsQueue
from client.jobs import Job
from client.ledger.ledger import Ledger
from client.ledger.records import JobResult, ServedModel
from client.limits import BundleLimits, ServiceLimits, TransportLimits
from client.objectstore.localobjects import LocalObjectStore
from client.objectstore.objects import ObjectStore, result_key
from client.telemetry.metrics import GatewayMetrics
from client.vault.headers import open_rewrapped, open_study_header, seal_result_header
from client.vault.vault import Vault
from tests.ledgers import served

__all__ = ("LEASE_S", "TENANT", "GatewayUnderTest", "access_settings", "running_gateway")

TENANT = "radiology"
LEASE_S = 10
"""How long ``work_once`` owns a job between two signs of life."""
_MAX_BYTES = 1 << 28


@dataclass
class GatewayUnderTest:
    """A serving gateway and everything behind it."""

    gateway: Gateway
    keys: KeyDirectory
    store: ObjectStore
    store_root: Path
    ledger: Ledger
    vault: Vault
    queue: JobQueue
    behind: Behind
    registry: CollectorRegistry
    """Its metrics."""
    models: list[ServedModel] = field(default_factory=lambda: [served()])
    """What ``work_once`` serves."""

    @property
    def address(self) -> str:
        return f"localhost:{self.gateway.port}"

    def sender_settings(self, tenant: str = TENANT) -> SenderSettings:
        return SenderSettings(
            address=self.address,
            tenant=tenant,
            tls=self.keys.sender_tls(tenant),
            result_keys=self.keys.result_keys(tenant),
            pseudonym_key=self.keys.pseudonym_key(tenant),
            attempts=3,
            backoff_s=0.05,
        )

    @contextlib.asynccontextmanager
    async def sender(self, tenant: str = TENANT, token: str = "") -> AsyncIterator[IngestClient]:
        async with IngestClient(replace(self.sender_settings(tenant), token=token)) as client:
            yield client

    def stored_files(self) -> list[Path]:
        return [path for path in self.store_root.rglob("*") if path.is_file()]

    async def work_once(self, results: Mapping[str, bytes]) -> tuple[Job, list[bytes]]:
        """Do what a worker does with the next job; return it and the files that came."""
        entry = await self.queue.take(5)
        assert entry is not None
        await self.ledger.serve("test", self.models)
        job = await self.ledger.claim(entry.job_id, "test", LEASE_S)
        header = await open_study_header(self.vault, job)
        keyring = Keyring(self.keys.worker_keys)
        study = await open_study(
            header,
            self.store.get(job.object_key),
            keyring,
            max_bytes=_MAX_BYTES,
            rewrapped=await open_rewrapped(self.vault, job),
        )
        files = [bytes(content) for _, content in read_bundle(study, BundleLimits())]
        await self.ledger.heartbeat(job, "infer", 0.5, LEASE_S)
        bundle = result_bundle(results)
        sealed = seal_result(header, job.id, bundle.chunks(), Digest.of(bundle.chunks()))

        async def ciphertext() -> AsyncIterator[bytes]:
            for chunk in sealed.chunks:
                yield chunk

        stored = await self.store.put(result_key(job.id, job.attempt), ciphertext())
        told = await seal_result_header(self.vault, job, sealed.header)
        done = await self.ledger.finish(job, JobResult(stored, told))
        await self.queue.ack(entry)
        return done, files


@contextlib.asynccontextmanager
async def running_gateway(
    folder: Path,
    limits: ServiceLimits | None = None,
    *,
    health: bool = False,
    tokens_required: bool = False,
    transport: TransportLimits | None = None,
) -> AsyncIterator[GatewayUnderTest]:
    """Serve on a free port while the context lasts."""
    keys = KeyDirectory(folder / "keys")
    create_key_directory(keys.root, TENANT)
    store = LocalObjectStore(folder / "objects")
    settings = GatewaySettings(
        listen="127.0.0.1:0",
        tls=keys.gateway_tls,
        access=access_settings(keys, tokens_required=tokens_required),
        health_listen="127.0.0.1:0" if health else "",
        limits=limits or ServiceLimits(watch_interval_s=0.02),
        transport=transport or TransportLimits(),
        ready_interval_s=0.1,
        grace_s=1.0,
    )
    async with (
        embedded_queue(folder / "q") as url,
        StreamsQueue(url, "test") as queue,
        Ledger(f"sqlite+aiosqlite:///{folder / 'ledger.sqlite'}", keys.audit_key()) as ledger,
        Vault(
            f"sqlite+aiosqlite:///{folder / 'vault.sqlite'}", open_key_manager("", keys.kek)
        ) as vault,
    ):
        behind = Behind(store, ledger, vault, queue, keys.worker_keys)
        registry = CollectorRegistry()
        async with serve(settings, behind, GatewayMetrics(registry)) as gateway:
            objects = folder / "objects"
            yield GatewayUnderTest(
                gateway, keys, store, objects, ledger, vault, queue, behind, registry
            )


def access_settings(keys: KeyDirectory, *, tokens_required: bool = False) -> AccessSettings:
    """Return what a gateway takes callers by, with the local token issuer."""
    return AccessSettings(
        authority=keys.authority,
        revoked=keys.revoked,
        token_issuer="hounsfield",
        token_audience="hounsfield",
        token_jwks=str(keys.tokens / JWKS_FILE),
        tokens_required=tokens_required,
    )

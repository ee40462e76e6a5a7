"""The gateway holds no key that opens a study or a result: not on disk, not in memory.

    python -m tests.proof.gateway_secrets

A real gateway process gets only the files it needs; studies and results go through it. Then its
memory, its environment and everything it wrote are searched for the secrets that open them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from client.addresses import free_ports
from client.crypto.binding import result_binding, study_binding
from client.crypto.keydirectory import KeyDirectory, create_key_directory
from client.crypto.keyring import Keyring
from client.crypto.kms import open_key_manager
from client.ingest.gateway import Gateway
from client.ingest.intake import Behind
from client.jobqueue.embedded import embedded_queue
from client.jobqueue.streams import StreamsQueue
from client.ledger.ledger import Ledger
from client.objectstore.localobjects import LocalObjectStore
from client.process import tied_command
from client.settings import Settings
from client.vault.headers import open_result_header, open_study_header
from client.vault.vault import Vault
from tests.gateways import TENANT, GatewayUnderTest
from tests.proof.fresh_keys import data_key_bytes
from tests.proof.records import Check, Proof, write_proof

__all__ = ("main", "memory_of", "prove")

_GATEWAY_FILES = ("ca.pem", "gateway.pem", "gateway.key", "audit.key")
_LEAST_BYTES = 16
_STARTS_S = 90.0


async def prove(studies: int = 20) -> Proof:
    """Send studies through, then search."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hounsfield-secrets-") as name:
        async with _served(Path(name)) as (site, pid, home):
            public = Keyring(site.keys.worker_keys).newest()
            secrets = await _use(site, studies)
            memory = b"".join(memory_of(pid))
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            files = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    needles = [needle for secret in secrets for needle in _spelled(secret)]
    places = {"memory": memory, "environment": environment, "files": files}
    hits = {
        place: sum(needle in content for needle in needles) for place, content in places.items()
    }
    checks = (
        Check(
            "The search finds what the gateway does have: a worker's public key",
            "found",
            "found" if public.key_id.encode() in memory else "not found",
            public.key_id.encode() in memory,
        ),
        Check(
            "Memory, environment and files of the gateway hold no private key of worker or sender "
            "and no data key",
            "0 hits",
            f"{sum(hits.values())} hits",
            not any(hits.values()),
        ),
    )
    figures = {
        "studies and results": studies,
        "secrets": len(secrets),
        "spellings searched": len(needles),
        "bytes of memory": len(memory),
        "bytes of files": len(files),
        "hits": hits,
        "seconds": round(time.monotonic() - began, 1),
    }
    title = "The gateway holds no key that opens a study or a result"
    command = "python -m tests.proof.gateway_secrets"
    return Proof("gateway-secrets", title, command, checks, figures)


@contextlib.asynccontextmanager
async def _served(folder: Path) -> AsyncIterator[tuple[GatewayUnderTest, int, Path]]:
    """Run a gateway process with its own folder; the worker's and senders' keys lie elsewhere."""
    keys, home = KeyDirectory(folder / "keys"), folder / "gateway"
    create_key_directory(keys.root, TENANT)
    _hand_over(keys, home / "keys")
    (port,) = free_ports(1)
    async with embedded_queue(folder / "q") as queue_url, contextlib.AsyncExitStack() as owned:
        settings = Settings(
            home=str(home), gateway=f"127.0.0.1:{port}", queue_url=queue_url
        ).resolved()
        process = await asyncio.create_subprocess_exec(
            *tied_command([sys.executable, "-m", "client.ingest.process"]),
            env={**os.environ, **settings.environment()},
            cwd=Path(__file__).parents[2],
            stderr=asyncio.subprocess.DEVNULL,
        )
        owned.push_async_callback(process.wait)
        owned.callback(process.terminate)
        ledger = await owned.enter_async_context(Ledger(settings.ledger_url, keys.audit_key()))
        kek = open_key_manager("", keys.kek)
        vault = await owned.enter_async_context(Vault(settings.vault_url, kek))
        queue = await owned.enter_async_context(StreamsQueue(queue_url, "test"))
        store = LocalObjectStore(home / "objects")
        behind = Behind(store, ledger, vault, queue, keys.worker_keys)
        registry = CollectorRegistry()
        objects = home / "objects"
        site = GatewayUnderTest(
            Gateway(port, 0), keys, store, objects, ledger, vault, queue, behind, registry
        )
        await _until_ready(site, process)
        yield site, process.pid, home


def _hand_over(keys: KeyDirectory, target: Path) -> None:
    """Copy what a gateway needs, and nothing that opens a study."""
    target.mkdir(parents=True, mode=0o700)
    for name in _GATEWAY_FILES:
        shutil.copy2(keys.root / name, target / name)
    shutil.copytree(keys.kek, target / "kek")
    (target / "worker").mkdir()
    for public in keys.worker_keys.glob("*.public.json"):
        shutil.copy2(public, target / "worker")


async def _until_ready(site: GatewayUnderTest, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_STARTS_S):
        async with site.sender() as client:
            while not await client.is_ready():
                if process.returncode is not None:
                    raise RuntimeError(f"The gateway ended with {process.returncode}.")
                await asyncio.sleep(0.1)


async def _use(site: GatewayUnderTest, studies: int) -> list[bytes]:
    """Send studies and fetch their results; return every secret that opens one of them."""
    worker = Keyring(site.keys.worker_keys)
    sender = Keyring(site.keys.result_keys(TENANT))
    secrets = [_private(site.keys.worker_keys), _private(site.keys.result_keys(TENANT))]
    async with site.sender() as client:
        for number in range(studies):
            await client.submit([b"study %d" % number * 1000])
            job, _ = await site.work_once({"measurements.json": b"{}\n"})
            await client.fetch(job.id)
            study = await open_study_header(site.vault, job)
            result = await open_result_header(site.vault, job)
            for ring, key_id, wrapped, binding in (
                (worker, study.key_id, study.wrapped_dek, study_binding(study)),
                (sender, result.recipient_key_id, result.wrapped_dek, result_binding(result)),
            ):
                secrets.append(data_key_bytes(ring.unwrap(key_id, wrapped, binding)))
    return secrets


def _private(folder: Path) -> bytes:
    """Return the secret part of a keyring's only key."""
    from tink.proto import hpke_pb2

    (path,) = folder.glob("*.private.json")
    value = json.loads(path.read_text())["key"][0]["keyData"]["value"]
    return bytes(hpke_pb2.HpkePrivateKey.FromString(base64.b64decode(value)).private_key)


def _spelled(secret: bytes) -> Iterator[bytes]:
    """Yield a secret as it is, in hexadecimal, and in base64 at each of the three alignments."""
    yield secret
    yield secret.hex().encode()
    for shift in range(3):
        # The first and last characters depend on what stands beside the secret.
        yield base64.b64encode(bytes(shift) + secret)[4 : -_LEAST_BYTES // 4]


def memory_of(pid: int) -> Iterator[bytes]:
    """Yield every readable and private piece of a process's memory. See proc(5), maps and mem."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in lines:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) r.*", line)
            if found is None or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = int(found[1], 16), int(found[2], 16)
            memory.seek(start)
            with contextlib.suppress(OSError):  # a mapping that is not backed, or gone since
                yield memory.read(end - start)


def main() -> int:
    """Run it and write docs/proof/gateway-secrets.json; 1 when a secret was found."""
    proof = asyncio.run(prove())
    write_proof(proof)
    sys.stdout.write("; ".join(check.seen for check in proof.checks) + "\n")
    return 0 if proof.held else 1


if __name__ == "__main__":
    sys.exit(main())

"""Keys rotate while studies go in and results come out: no call fails and no object changes.

python -m tests.proof.rotation
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from client.crypto.keyring import Keyring
from client.crypto.kms import LocalKeyManager, open_key_manager
from client.errors import ClientError, NotFound
from client.jobs import Actor
from client.vault.headers import open_study_header
from client.vault.rotation import KeyKeeper
from client.vault.vault import Vault
from tests.gateways import GatewayUnderTest, running_gateway
from tests.proof.records import Check, Proof, write_proof

__all__ = ("main", "prove")

T = TypeVar("T")
_RESULT = {"measurements.json": b"{}\n"}


class Load:
    """One sender and one worker, busy until told to stop; counts calls and failures."""

    def __init__(self, site: GatewayUnderTest) -> None:
        self._site = site
        self.stop = asyncio.Event()
        self.calls: Counter[str] = Counter()
        self.failures: list[str] = []

    async def run(self) -> None:
        """Send, process, fetch and list."""
        number = 0
        async with self._site.sender() as client:
            while not self.stop.is_set():
                number += 1
                content = b"study %d" % number * 100
                job = await self._counted("submit", client.submit([content]))
                worked = await self._counted("process", self._site.work_once(_RESULT))
                if job is None or worked is None or worked[1] != [content]:
                    continue
                await self._counted("fetch", client.fetch(job.id))
                await self._counted("list", client.list_jobs())

    async def _counted(self, name: str, call: Awaitable[T]) -> T | None:
        self.calls[name] += 1
        try:
            return await call
        except ClientError as error:
            self.failures.append(f"{name}: {error}")
            return None


async def prove(kek_rotations: int = 10, worker_rotations: int = 3) -> Proof:
    """Rotate so often under load."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hounsfield-rotation-") as name:
        async with running_gateway(Path(name)) as site:
            async with site.sender() as client:
                waiting = [(await client.submit([b"waits %d" % n])).id for n in range(5)]
                for _ in waiting:  # they stay claimed, so that every rotation meets them
                    entry = await site.queue.take(5)
                    assert entry is not None
                    await site.queue.ack(entry)
            before = {path: _digest(path) for path in site.stored_files()}
            old_vault = Path(name, "vault.sqlite").read_bytes()
            load = Load(site)
            loading = asyncio.create_task(load.run())
            rewrapped = await _rotate(site, kek_rotations, worker_rotations)
            load.stop.set()
            await loading
            changed = sum(_digest(path) != digest for path, digest in before.items())
            Path(name, "old.sqlite").write_bytes(old_vault)
            revived = await _revived(site, Path(name), waiting[0])
    checks = (
        Check(
            f"{load.calls.total()} calls during {kek_rotations} rotations of the key-encrypting "
            f"key and {worker_rotations} of the worker key succeed",
            "0 failed",
            f"{len(load.failures)} failed",
            not load.failures and load.calls.total() > 0,
        ),
        Check("No stored object changes", "0 changed", f"{changed} changed", changed == 0),
        Check(
            "A copy of the vault from before opens nothing once the old key is destroyed",
            "refused",
            "opened" if revived else "refused",
            not revived,
        ),
    )
    figures = {
        "calls": dict(load.calls),
        "failures": load.failures[:10],
        "keys wrapped anew": rewrapped,
        "objects compared": len(before),
        "seconds": round(time.monotonic() - began, 1),
    }
    title = "Keys rotate under load without a failed call or a changed object"
    return Proof("rotation", title, "python -m tests.proof.rotation", checks, figures)


async def _rotate(site: GatewayUnderTest, kek_rotations: int, worker_rotations: int) -> int:
    local = LocalKeyManager(site.keys.kek)
    keyring = Keyring(site.keys.worker_keys)
    keeper = KeyKeeper(
        site.ledger, site.vault, keyring, local, local, actor=Actor("proof"), settle_s=0.5
    )
    rewrapped = 0
    for _ in range(kek_rotations):
        old = local.key_id
        rewrapped += (await keeper.rotate_kek()).rewrapped
        await keeper.retire(old)
    for _ in range(worker_rotations):
        rewrapped += (await keeper.rotate_worker_key()).rewrapped
    return rewrapped


async def _revived(site: GatewayUnderTest, folder: Path, job_id: str) -> bool:
    kek = open_key_manager("", site.keys.kek)
    async with Vault(f"sqlite+aiosqlite:///{folder / 'old.sqlite'}", kek) as old:
        try:
            await open_study_header(old, await site.ledger.get(job_id))
        except NotFound:
            return False
    return True


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def main() -> int:
    """Run it and write docs/proof/rotation.json; 1 when a promise did not hold."""
    logging.disable(logging.INFO)
    proof = asyncio.run(prove())
    write_proof(proof)
    sys.stdout.write("; ".join(check.seen for check in proof.checks) + "\n")
    return 0 if proof.held else 1


if __name__ == "__main__":
    sys.exit(main())

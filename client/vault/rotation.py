"""Rotates keys: what an old key wraps is wrapped anew, and no object is touched.

    worker key: ledger ──jobs of the old key──▶ data key ──HPKE, new key──▶ ledger
    key-encrypting key: vault ──rows of the old key──▶ subject key ──wrap, new key──▶ vault

Each job and each row is one transaction, so a rotation that was killed is finished by the next run.
An old key is destroyed only when nothing needs it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from client.audittrail import AuditEntry
from client.crypto.keyring import Keyring, PublicKey
from client.crypto.kms import KeyManager, LocalKeyManager
from client.crypto.studies import rewrap_study
from client.errors import Conflict, Erased, NotFound, Rejected
from client.jobs import Actor, Job
from client.ledger.audit import SYSTEM_TENANT
from client.ledger.ledger import Ledger
from client.vault.headers import open_rewrapped, open_study_header, seal_rewrapped
from client.vault.vault import Vault

__all__ = ("KeyKeeper", "Rotation")

_PAGE = 100
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did.

    Attributes:
        key_id: The key in use now.
        rewrapped: Studies or patients' keys that were wrapped for it.
        damaged: Jobs whose header does not open, so that they keep the old key.
    """

    key_id: str
    rewrapped: int
    damaged: tuple[str, ...] = ()


class KeyKeeper:
    """Rotates and retires keys, and says so in the audit trail.

    Args:
        ledger: Has the studies' data keys.
        vault: Has the patients' keys.
        worker_keys: With the private halves.
        kek: What wraps the patients' keys.
        local_kek: The folder of local ones among them.
        actor: Who does it.
        settle_s: How long what began before a key was withdrawn may take to reach the database.
    """

    def __init__(
        self,
        ledger: Ledger,
        vault: Vault,
        worker_keys: Keyring,
        kek: KeyManager,
        local_kek: LocalKeyManager,
        *,
        actor: Actor,
        settle_s: float = _SETTLE_S,
    ) -> None:
        self._ledger = ledger
        self._vault = vault
        self._worker_keys = worker_keys
        self._kek = kek
        self._local_kek = local_kek
        self._actor = actor
        self._settle_s = settle_s

    async def rotate_worker_key(self) -> Rotation:
        """Make a new worker key, and wrap every study's data key for it."""
        fresh = await asyncio.to_thread(self._worker_keys.create)
        await self._record("key.rotated", f"worker key {fresh.key_id} is in use")
        return await self.rewrap_studies()

    async def rewrap_studies(self) -> Rotation:
        """Wrap the data keys that an older worker key wraps for the newest one.

        Raises:
            ConfigurationError: There is no worker key.
        """
        newest = self._worker_keys.newest()
        rewrapped = 0
        damaged: list[str] = []
        for old in self._worker_keys.private_ids() - {newest.key_id}:
            after = ""
            while page := await self._ledger.to_rewrap(old, after, _PAGE):
                for job in page:
                    try:
                        rewrapped += await self._rewrap(job, newest)
                    except Rejected:
                        damaged.append(job.id)
                after = page[-1].id
        detail = f"{rewrapped} studies for worker key {newest.key_id}"
        await self._record("key.rewrapped", detail)
        return Rotation(newest.key_id, rewrapped, tuple(damaged))

    async def _rewrap(self, job: Job, newest: PublicKey) -> bool:
        try:
            header = await open_study_header(self._vault, job)
            present = await open_rewrapped(self._vault, job)
            fresh = await asyncio.to_thread(
                rewrap_study, header, self._worker_keys, newest, present
            )
            sealed = await seal_rewrapped(self._vault, job, fresh)
        except Erased:
            return False
        return await self._ledger.set_rewrapped(job.id, job.key_id, newest.key_id, sealed)

    async def rotate_kek(self) -> Rotation:
        """Make a new key-encrypting key, and wrap every patient's key with it.

        A key management service makes no key here: the setting names its new one.
        """
        if "://" not in self._kek.key_id:
            await asyncio.to_thread(self._local_kek.create)
        await self._record("key.rotated", f"key-encrypting key {self._kek.key_id} is in use")
        return await self.rewrap_patients()

    async def rewrap_patients(self) -> Rotation:
        """Wrap the patients' keys that an older key-encrypting key wraps with the present one."""
        rewrapped, key_id = await self._vault.rewrap(), self._kek.key_id
        detail = f"{rewrapped} patients' keys with key-encrypting key {key_id}"
        await self._record("key.rewrapped", detail)
        return Rotation(key_id, rewrapped)

    async def retire(self, key_id: str) -> None:
        """Destroy a worker key or a local key-encrypting key that nothing needs any more.

        Raises:
            NotFound: There is no such key.
            Conflict: It is in use, or something still needs it.
        """
        if key_id in self._worker_keys.private_ids():
            await self._retire_worker_key(key_id)
        else:
            await self._retire_kek(key_id)

    async def _retire_worker_key(self, key_id: str) -> None:
        keys = self._worker_keys
        if key_id == keys.newest().key_id:
            raise Conflict(f"Worker key {key_id} is in use: `hounsfield keys rotate` first.")

        async def check() -> None:
            if await self._ledger.to_rewrap(key_id, limit=1):
                raise Conflict(
                    f"Studies are encrypted for worker key {key_id}: "
                    "`hounsfield keys rotate --finish` first."
                )

        if key_id in {key.key_id for key in keys.public_keys()}:
            keys.withdraw(key_id)
        await self._destroy(f"worker key {key_id}", check, lambda: keys.destroy(key_id))

    async def _retire_kek(self, key_id: str) -> None:
        held = self._local_kek.keys()
        if key_id not in {key.key_id for key in held}:
            raise NotFound(f"No key-encrypting key {key_id} is here.")
        if key_id == self._kek.key_id:
            raise Conflict(
                f"Key-encrypting key {key_id} is in use: `hounsfield keys rotate --kek` first."
            )

        async def check() -> None:
            if (await self._vault.kek_uses()).get(key_id):
                raise Conflict(
                    f"Patients' keys are wrapped with key-encrypting key {key_id}: "
                    "`hounsfield keys rotate --kek --finish` first."
                )

        await self._destroy(
            f"key-encrypting key {key_id}", check, lambda: self._local_kek.destroy(key_id)
        )

    async def _destroy(
        self, what: str, check: Callable[[], Awaitable[None]], destroy: Callable[[], None]
    ) -> None:
        await check()
        # What began while the key was still offered is in the database after this.
        await asyncio.sleep(self._settle_s)
        await check()
        await self._record("key.retiring", what)
        await asyncio.to_thread(destroy)
        await self._record("key.retired", what)

    async def _record(self, action: str, detail: str) -> None:
        entry = AuditEntry(action, detail=detail)
        await self._ledger.record(SYSTEM_TENANT, self._actor, entry)

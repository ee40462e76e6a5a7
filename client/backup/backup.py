"""Saves a running system's ledger and objects; what is saved is consistent in itself.

ledger rows of one moment ──▶ objects those rows name ──▶ rows' files ──▶ manifest

Objects never change, so those that a former backup holds are kept. An object that is deleted while
the copy goes on (erased, expired, replaced by a new attempt) makes the rows be read again.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.backup.checking import ObjectFault, fault_of, in_parallel
from client.backup.generations import Generation, Manifest
from client.backup.snapshot import LedgerRows, Snapshot
from client.errors import NotFound, Transient
from client.ledger.migrations.upgrading import newest_revision
from client.objectstore.objects import ObjectStore, StoredObject

__all__ = ("BackupReport", "back_up")

_ROUNDS = 5
_OBJECT_FOLDERS = ("studies", "results")


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did.

    Attributes:
        manifest: Of what is saved now.
        objects: Objects that are saved.
        copied: How many of them are new, and ``copied_bytes`` their size.
        faults: Objects that the system itself no longer has as they were; they are not saved.
    """

    manifest: Manifest
    objects: int
    copied: int
    copied_bytes: int
    faults: tuple[ObjectFault, ...]


async def back_up(rows: LedgerRows, store: ObjectStore, target: ObjectStore) -> BackupReport:
    """Save everything; one backup at a time may write to a target.

    Args:
        rows: The ledger.
        store: Its objects.
        target: Where to save; what a former backup left there is used again.

    Raises:
        Transient: A part is away or full, or objects go faster than they are copied. What was
            saved before still counts.
    """
    await target.sweep_partial(0)
    copy = _Copy(store, target)
    missing: frozenset[str] = frozenset()
    for _ in range(_ROUNDS):
        snapshot = await rows.snapshot()
        try:
            faults = await copy.run(snapshot.objects)
            now_missing = frozenset(fault.key for fault in faults)
            if now_missing <= missing:  # the ledger still names them: they are lost
                return await _completed(target, snapshot, copy, faults)
            missing = now_missing
        finally:
            snapshot.close()
    raise Transient("Objects are deleted faster than they are saved; try again when it is calmer.")


async def _completed(
    target: ObjectStore, snapshot: Snapshot, copy: _Copy, faults: list[ObjectFault]
) -> BackupReport:
    lost = {fault.key for fault in faults}
    saved = [stored for stored in snapshot.objects if stored.key not in lost]
    generation = Generation(target, snapshot.at)
    for name, file in snapshot.files.items():
        await generation.add(name.replace("_", "-"), file)
    manifest = await generation.complete("ledger", newest_revision(), sorted(lost))
    wanted = {stored.key for stored in saved}
    for folder in _OBJECT_FOLDERS:
        async for entry in target.list(folder):
            if entry.key not in wanted:
                await target.delete(entry.key)
    return BackupReport(manifest, len(saved), copy.copied, copy.copied_bytes, tuple(faults))


class _Copy:
    """Copies objects that the target does not have yet."""

    def __init__(self, store: ObjectStore, target: ObjectStore) -> None:
        self._store = store
        self._target = target
        self._checked: set[str] = set()
        self.copied = 0
        self.copied_bytes = 0

    async def run(self, objects: list[StoredObject]) -> list[ObjectFault]:
        """Return what could not be copied as it should be."""
        new = [stored for stored in objects if stored.key not in self._checked]
        return [fault for fault in await in_parallel(self._one, new) if fault is not None]

    async def _one(self, expected: StoredObject) -> ObjectFault | None:
        if await fault_of(self._target, expected) is None:
            self._checked.add(expected.key)
            return None
        await self._target.delete(expected.key)
        try:
            saved = await self._target.put(expected.key, self._store.get(expected.key))
        except NotFound:
            return ObjectFault(expected.key, "is missing")
        if saved != expected:
            await self._target.delete(expected.key)
            return ObjectFault(expected.key, "was altered: length or SHA-256 is another")
        self._checked.add(expected.key)
        self.copied += 1
        self.copied_bytes += saved.length
        return None

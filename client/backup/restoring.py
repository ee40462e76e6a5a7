"""Brings back what a backup holds into an empty system, and makes sure that it is all there.

manifest ──▶ every file's hash ──▶ objects, each hash ──▶ rows, one transaction ──▶ chains verified
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from client.audittrail import AuditEntry
from client.backup.checking import ObjectFault, check_objects, fault_of, in_parallel
from client.backup.generations import Manifest, newest_manifest, read_file
from client.backup.rowfiles import decode_row, lines_of
from client.backup.snapshot import LEDGER_TABLES, LedgerRows, named_objects
from client.errors import ConfigurationError, RefusalCode
from client.jobs import Actor
from client.ledger.audit import SYSTEM_TENANT, AuditKey
from client.ledger.ledger import Ledger
from client.ledger.migrations.upgrading import newest_revision
from client.ledger.schema import chain_heads, jobs
from client.ledger.verification import ChainReport
from client.objectstore.objects import ObjectStore, StoredObject

__all__ = ("BackupCheck", "RestoreReport", "check_backup", "check_chains", "restore")

_OPERATOR = Actor("restore")


@dataclass(frozen=True, slots=True)
class BackupCheck:
    """What came of reading a backup again.

    Attributes:
        manifest: Of the newest generation.
        objects: How many objects it names.
        rows_whole: Whether its rows are as they were saved; else nothing more was looked at.
        faults: What is gone or altered.
    """

    manifest: Manifest
    objects: int
    rows_whole: bool
    faults: tuple[ObjectFault, ...]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was brought back.

    Attributes:
        manifest: Of the backup.
        objects: How many objects, every one read again.
        chains: What came of the audit trail.
        erased_keys: Ids of the patients' keys that the ledger calls destroyed.
    """

    manifest: Manifest
    objects: int
    chains: tuple[ChainReport, ...]
    erased_keys: frozenset[str]


async def check_backup(source: ObjectStore) -> BackupCheck:
    """Read every byte of a backup's newest generation.

    Raises:
        ConfigurationError: There is no complete backup, or it is of another version.
        Transient: It is away.
    """
    manifest = await _ledger_manifest(source)
    faults = await check_objects(source, manifest.files.values())
    if faults:
        return BackupCheck(manifest, 0, False, faults)
    expected = await _expected(source, manifest)
    return BackupCheck(manifest, len(expected), True, await check_objects(source, expected))


async def check_chains(
    source: ObjectStore, manifest: Manifest, audit_key: bytes
) -> tuple[ChainReport, ...]:
    """Recompute the audit trail of a backup, in a ledger that is thrown away afterwards."""
    with tempfile.TemporaryDirectory(prefix="hounsfield-verify-") as folder:
        url = f"sqlite+aiosqlite:///{folder}/ledger.sqlite"
        async with LedgerRows(url) as rows:
            await rows.restore({table: _rows(source, manifest, table) for table in LEDGER_TABLES})
        async with Ledger(url, audit_key) as ledger:
            return await ledger.verify_chains()


async def restore(
    source: ObjectStore, url: str, audit_key: bytes, store: ObjectStore
) -> RestoreReport:
    """Bring a backup back into an empty ledger and an empty store.

    A restore that was stopped is taken up by the next: rows come last, and objects that are there
    already count when they are the backup's own.

    Args:
        source: The backup.
        url: SQLAlchemy URL of the new ledger.
        audit_key: The key under which the backup's audit trail was made.
        store: The new store.

    Raises:
        ConfigurationError: There is something else in the ledger or the store, the backup is
            damaged, or it was made under another audit key; nothing is lost then.
        Transient: A part is away or full.
    """
    checked = await check_backup(source)
    if checked.faults:
        first = checked.faults[0]
        raise ConfigurationError(
            f"The backup is damaged in {len(checked.faults)} places; {first.key} {first.what}."
        )
    await _refuse_other_key(source, checked.manifest, AuditKey(audit_key))
    async with LedgerRows(url) as rows:
        await rows.refuse_unless_empty()
        expected = await _expected(source, checked.manifest)
        await _bring_objects(source, store, expected)
        await rows.restore(
            {table: _rows(source, checked.manifest, table) for table in LEDGER_TABLES}
        )
    async with Ledger(url, audit_key) as ledger:
        chains = await ledger.verify_chains()
        entry = AuditEntry("ledger.restored", detail=f"backup of {checked.manifest.made_at}")
        await ledger.record(SYSTEM_TENANT, _OPERATOR, entry)
    erased = await _erased_keys(source, checked.manifest)
    return RestoreReport(checked.manifest, len(expected), chains, erased)


async def _bring_objects(
    source: ObjectStore, store: ObjectStore, expected: list[StoredObject]
) -> None:
    wanted = {stored.key for stored in expected}
    async for entry in store.list(""):
        if entry.key not in wanted:
            raise ConfigurationError(
                f"Expected an empty object store, got one with {entry.key}: restore into a new one."
            )

    async def bring(stored: StoredObject) -> None:
        if await fault_of(store, stored) is None:
            return
        await store.delete(stored.key)
        if await store.put(stored.key, source.get(stored.key)) != stored:
            await store.delete(stored.key)
            raise ConfigurationError(f"The backup is damaged: {stored.key} was altered.")

    await in_parallel(bring, expected)
    faults = await check_objects(store, expected)
    if faults:
        raise ConfigurationError(
            f"The new store does not keep what is written: {faults[0].key} {faults[0].what}."
        )


async def _ledger_manifest(source: ObjectStore) -> Manifest:
    manifest = await newest_manifest(source, "ledger")
    if manifest.schema != newest_revision():
        raise ConfigurationError(
            f"The backup's tables are of revision {manifest.schema}, this version's of "
            f"{newest_revision()}: restore with version {manifest.software}, then upgrade."
        )
    return manifest


async def _expected(source: ObjectStore, manifest: Manifest) -> list[StoredObject]:
    lost = set(manifest.faults)
    return [
        stored
        async for row in _rows(source, manifest, jobs)
        for stored in named_objects(row)
        if stored.key not in lost
    ]


async def _erased_keys(source: ObjectStore, manifest: Manifest) -> frozenset[str]:
    return frozenset(
        [
            row["subject_key_id"]
            async for row in _rows(source, manifest, jobs)
            if row["code"] == RefusalCode.ERASED
        ]
    )


async def _refuse_other_key(source: ObjectStore, manifest: Manifest, key: AuditKey) -> None:
    async for row in _rows(source, manifest, chain_heads):
        if key.head_mac(row["tenant"], row["number"], row["hash"]) != row["mac"]:
            raise ConfigurationError(
                "The backup's audit trail was made under another audit key than the one in KEYS: "
                "bring back the KEYS folder of the saved system first."
            )


async def _rows(
    source: ObjectStore, manifest: Manifest, table: Table
) -> AsyncIterator[dict[str, Any]]:
    pieces = read_file(source, manifest, table.name.replace("_", "-"))
    async for line in lines_of(pieces):
        yield decode_row(table, line)

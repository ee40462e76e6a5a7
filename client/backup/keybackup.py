"""Saves the vault apart from everything else, and knows which of the saved keys must not live on.

vault rows ──▶ a backup of their own, for another place
a backup older than an erasure still holds the erased key: ``erased_since`` tells, ``restore_keys``
leaves it out

The keys are saved as they lie in the vault, wrapped: KEYS/kek, or the key management service, is
needed to open them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from client.backup.generations import Generation, Manifest, newest_manifest, read_file, spool
from client.backup.rowfiles import decode_row, encode_row, lines_of
from client.errors import ConfigurationError
from client.objectstore.objects import ObjectStore
from client.sql.transactions import Database
from client.vault.subjectkeys import VAULT_SCHEMA, prepare_vault, subject_keys

__all__ = ("ErasedKey", "back_up_keys", "erased_since", "restore_keys")

_BATCH = 500
_FILE = "subject-keys"


@dataclass(frozen=True, slots=True)
class ErasedKey:
    """A key that a backup still holds although it was destroyed; ``at`` None: it is unknown now."""

    id: str
    tenant: str
    subject: str
    at: datetime | None


async def back_up_keys(url: str, target: ObjectStore) -> Manifest:
    """Save the vault's rows; the former backup there is removed once this one is complete.

    Args:
        url: SQLAlchemy URL of the vault.
        target: Where to save; never where the ledger and its objects are saved.

    Raises:
        Transient: The vault or the target is away.
    """
    await target.sweep_partial(0)
    generation = Generation(target, datetime.now(UTC))
    with spool() as file:
        for row in await _all(url):
            file.write(encode_row(subject_keys, row))
        await generation.add(_FILE, file)
    return await generation.complete("keys", str(VAULT_SCHEMA))


async def restore_keys(source: ObjectStore, url: str, erased: Collection[str]) -> int:
    """Bring the keys back into an empty vault; return how many can be used.

    Args:
        source: The backup.
        url: SQLAlchemy URL of the new vault.
        erased: Ids of keys that were destroyed: they stay so.

    Raises:
        ConfigurationError: The vault is not empty, or the backup is damaged or incomplete.
        Transient: A part is away.
    """
    now = datetime.now(UTC)
    rows = [row async for row in _saved(source)]
    for row in rows:
        if row["id"] in erased and row["erased_at"] is None:
            row.update(wrapped_key=None, erased_at=now)

    async def work(connection: AsyncConnection) -> None:
        if await connection.scalar(select(func.count()).select_from(subject_keys)):
            raise ConfigurationError(
                "Expected an empty vault: restore into a new one, or move the old one away first."
            )
        for start in range(0, len(rows), _BATCH):
            await connection.execute(subject_keys.insert(), rows[start : start + _BATCH])

    vault = _vault(url)
    await vault.open(prepare_vault)
    try:
        await vault.write(work)
    finally:
        await vault.close()
    return sum(row["wrapped_key"] is not None for row in rows)


async def erased_since(source: ObjectStore, url: str) -> tuple[ErasedKey, ...]:
    """Return the keys that a backup holds and the vault no longer does.

    Raises:
        ConfigurationError: The backup is damaged or incomplete.
        Transient: A part is away.
    """
    now = {row["id"]: row for row in await _all(url)}
    found = []
    async for row in _saved(source):
        living = now.get(row["id"])
        if row["wrapped_key"] is not None and (living is None or living["wrapped_key"] is None):
            at = None if living is None else living["erased_at"]
            found.append(ErasedKey(row["id"], row["tenant"], row["subject"], at))
    return tuple(found)


async def _all(url: str) -> list[dict[str, Any]]:
    vault = _vault(url)
    await vault.open(prepare_vault)
    try:
        rows = await vault.fetch(select(subject_keys).order_by(subject_keys.c.id))
    finally:
        await vault.close()
    return [row._asdict() for row in rows]


async def _saved(source: ObjectStore) -> AsyncIterator[dict[str, Any]]:
    manifest = await newest_manifest(source, "keys")
    if manifest.schema != str(VAULT_SCHEMA):
        raise ConfigurationError(
            f"The backup's vault is of version {manifest.schema}, this software's of "
            f"{VAULT_SCHEMA}: use version {manifest.software}."
        )
    async for line in lines_of(read_file(source, manifest, _FILE)):
        yield decode_row(subject_keys, line)


def _vault(url: str) -> Database:
    return Database(url, "vault", write_ahead=False)

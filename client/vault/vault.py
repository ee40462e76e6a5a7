"""The vault: one key for each patient, whose destruction makes every copy unreadable.

    header ──seal under the subject's key──▶ opaque bytes in the ledger ──open──▶ header
    subject key ──wrap (KeyManager)──▶ the vault's database, nowhere else

What is sealed here is the header of a study or a result, without which the ciphertext in the
object store opens with no key in the world. The layer opens nothing alone: inside lies the data
key, wrapped for a worker or a sender.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

import tink
from tink import aead, proto_keyset_format, secret_key_access

from client.crypto.binding import encode_fields
from client.crypto.kms import KeyManager
from client.errors import Erased, NotFound, RefusalCode, Rejected
from client.vault.subjectkeys import SubjectKey, SubjectKeyTable

__all__ = ("Sealed", "Vault")

_TEMPLATE = aead.aead_key_templates.AES256_GCM
_PURPOSE = b"hounsfield/subject-key/v1"
_CACHED_KEYS = 4096
_CACHED_S = 300.0
_PAGE = 100

aead.register()


class Sealed(NamedTuple):
    """Something sealed: under whose key, the bytes, and the context they are bound to."""

    subject_key_id: str
    content: bytes
    context: bytes


class Vault:
    """Subject keys in a SQL database, wrapped by a key-encrypting key.

    Args:
        url: SQLAlchemy URL; never the ledger's, so that a copy of the ledger has no key.
        kek: Wraps the subject keys. An opened key is kept in memory for five minutes, so that a
            key management service is not asked for every header; the database is asked each time.

    Every method raises Transient when the database or the key management service is away.
    """

    def __init__(self, url: str, kek: KeyManager) -> None:
        self._table = SubjectKeyTable(url)
        self._kek = kek
        self._opened: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    async def __aenter__(self) -> Self:
        """Connect, and create the tables that are missing."""
        await self._table.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection and forget every key."""
        self._opened.clear()
        await self._table.close()

    async def ping(self) -> None:
        """Ask the database for a sign of life."""
        await self._table.ping()

    async def key_for(self, tenant: str, subject: str) -> str:
        """Return the id of a subject's living key; it is made when there is none.

        Args:
            tenant: Whose patient.
            subject: The patient's pseudonym, or ``upload:<upload id>`` where there is none.
        """
        while (found := await self._table.living(tenant, subject)) is None:
            await self._make(tenant, subject)
        return found

    async def _make(self, tenant: str, subject: str) -> None:
        key_id = uuid.uuid4().hex
        handle = tink.new_keyset_handle(_TEMPLATE)
        secret = proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
        context = _row_context(key_id, tenant, subject)
        kek_id, wrapped = await asyncio.to_thread(self._kek.wrap, secret, context)
        key = SubjectKey(key_id, tenant, subject, wrapped, kek_id)
        if await self._table.insert(key, datetime.now(UTC)):
            self._keep(key_id, handle.primitive(aead.Aead))

    async def seal(self, subject_key_id: str, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt under a subject's key (AES-256-GCM), bound to ``context``.

        Raises:
            NotFound: There is no such key.
            Erased: It was destroyed.
        """
        rows = await self._table.find((subject_key_id,))
        primitive = await self._primitive(subject_key_id, rows)
        sealed: bytes = primitive.encrypt(plaintext, context)
        return sealed

    async def open(self, subject_key_id: str, sealed: bytes, context: bytes) -> bytes:
        """Return what was sealed under that key and context.

        Raises:
            NotFound: There is no such key.
            Erased: It was destroyed.
            Rejected: BAD_ENVELOPE; damaged, or sealed under another key or context.
        """
        rows = await self._table.find((subject_key_id,))
        return _opened(await self._primitive(subject_key_id, rows), sealed, context)

    async def open_many(self, items: Sequence[Sealed]) -> list[bytes | None]:
        """Open each, with one look at the database; None stands for what was erased.

        Raises:
            NotFound: A key never existed.
            Rejected: BAD_ENVELOPE; something is damaged, or sealed under another key or context.
        """
        rows = await self._table.find({item.subject_key_id for item in items})
        contents: list[bytes | None] = []
        for item in items:
            try:
                primitive = await self._primitive(item.subject_key_id, rows)
            except Erased:
                contents.append(None)
            else:
                contents.append(_opened(primitive, item.content, item.context))
        return contents

    async def destroy(self, tenant: str, subject: str) -> tuple[str, ...]:
        """Destroy a subject's key; what it sealed can never be opened again.

        When this returns the wrapped key is gone from the database: from SQLite's file and journal;
        in PostgreSQL the dead row stays on disk, wrapped, until the next vacuum (docs/keys.md).

        Returns:
            The ids of the keys that were destroyed; none when the subject had no key.
        """
        ids = await self._table.erase(tenant, subject, datetime.now(UTC))
        for key_id in ids:
            self._opened.pop(key_id, None)
        return ids

    async def rewrap(self) -> int:
        """Wrap every living key with the newest key-encrypting key; return how many changed.

        Each key is one transaction, so a run that was killed is taken up by the next.

        Raises:
            NotFound: The key-encrypting key of a row is gone; nothing else can open the row.
        """
        changed = 0
        while rows := await self._table.wrapped_otherwise(self._kek.key_id, _PAGE):
            for row in rows:
                context = _row_context(row.id, row.tenant, row.subject)
                secret = await self._unwrap(row)
                kek_id, wrapped = await asyncio.to_thread(self._kek.wrap, secret, context)
                changed += await self._table.replace(row, kek_id, wrapped)
        return changed

    async def kek_uses(self) -> dict[str, int]:
        """Return how many living keys each key-encrypting key wraps."""
        return await self._table.counts()

    async def _primitive(self, key_id: str, rows: dict[str, SubjectKey]) -> Any:
        row = rows.get(key_id)
        if row is None:
            raise NotFound(f"No subject key {key_id}.")
        if row.wrapped is None:
            self._opened.pop(key_id, None)
            raise Erased("The patient's key was destroyed; no copy can be read any more.")
        cached = self._opened.get(key_id)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        handle = proto_keyset_format.parse(await self._unwrap(row), secret_key_access.TOKEN)
        primitive = handle.primitive(aead.Aead)
        self._keep(key_id, primitive)
        return primitive

    async def _unwrap(self, row: SubjectKey) -> bytes:
        context = _row_context(row.id, row.tenant, row.subject)
        return await asyncio.to_thread(self._kek.unwrap, row.kek_id, row.wrapped or b"", context)

    def _keep(self, key_id: str, primitive: Any) -> None:
        now = time.monotonic()
        self._opened[key_id] = (now + _CACHED_S, primitive)
        self._opened.move_to_end(key_id)
        while len(self._opened) > _CACHED_KEYS or next(iter(self._opened.values()))[0] < now:
            self._opened.popitem(last=False)


def _row_context(key_id: str, tenant: str, subject: str) -> bytes:
    return encode_fields(_PURPOSE, key_id, tenant, subject)


def _opened(primitive: Any, sealed: bytes, context: bytes) -> bytes:
    try:
        content: bytes = primitive.decrypt(sealed, context)
    except tink.TinkError as error:
        raise Rejected(
            RefusalCode.BAD_ENVELOPE,
            "A header in the ledger does not open with its patient's key: it was damaged or "
            "exchanged. Restore the ledger from a backup, or send the study again.",
        ) from error
    return content

"""Stores ciphertext under keys that are used once, in any store of the obstore library.

    chunks ──put──▶ object, durable when put returns ──get──▶ chunks

Object stores answer when an object is durable; `localobjects` does the like for a local disk.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import obstore
from obstore import exceptions as obstore_errors

from client.errors import ConfigurationError, Conflict, NotFound
from client.objectstore.transfer import MeasuredStream, translated

__all__ = (
    "CHECKS",
    "ObjectStore",
    "StoredEntry",
    "StoredObject",
    "job_id_of",
    "result_key",
    "study_key",
)

_PART_BYTES = 5 * 1024 * 1024
"""Smallest part that S3 takes; smaller objects are written in one request."""
_PARTS_AT_ONCE = 1
"""On the way to the store, of one object, while the next one fills: 10 MiB for each upload."""
_RANGE_BYTES = 4 * 1024 * 1024
"""Read at a time; obstore's own stream reads a local disk in crumbs, for twenty times the CPU."""
_PIECE_BYTES = 1024 * 1024
CHECKS = "checks"
"""Folder of what ``check`` writes."""
_CHECK_BYTES = 1024 * 1024
_KEY = re.compile(r"[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*")


def study_key(job_id: str) -> str:
    """Return where a job's study lies."""
    return f"studies/{job_id}"


def result_key(job_id: str, attempt: int) -> str:
    """Return where the result of one attempt lies; no two attempts share a key."""
    return f"results/{job_id}-{attempt}"


def job_id_of(key: str) -> str:
    """Return whose study or result a key is of."""
    return key.partition("/")[2][:36]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What ``put`` stored: key, length in bytes, SHA-256 in hexadecimal."""

    key: str
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One line of a listing."""

    key: str
    length: int
    modified_at: datetime


class ObjectStore:
    """A bucket, or a prefix of one.

    Args:
        store: Any store of the obstore library.
    """

    def __init__(self, store: obstore.store.ObjectStore) -> None:
        self._store = store

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> StoredObject:
        """Store a stream; nothing is visible unless the whole of it was stored.

        A few parts are held in memory at a time.

        Args:
            key: A new key: slash-separated words of lower-case letters, digits and hyphens.
            chunks: The content; what it raises ends the upload and is raised again.

        Raises:
            Conflict: The key exists.
            Transient: The store is away or full.
            ConfigurationError: The store refuses our credentials or the key is not a key.
        """
        if not _KEY.fullmatch(key):
            raise ConfigurationError(f"Not an object key: {key!r}.")
        source = MeasuredStream(chunks)
        first = await source.take(_PART_BYTES)
        with translated(key):
            if source.ended:
                await self._create(key, b"".join(first))
            else:
                await self._put_in_parts(key, first, source)
            await self._settle(key)
        return StoredObject(key, source.length, source.sha256)

    async def _create(self, key: str, content: bytes) -> None:
        try:
            await obstore.put_async(self._store, key, content, mode="create", use_multipart=False)
        except obstore_errors.AlreadyExistsError:
            # When the answer to the first try was lost, the second meets what the first stored.
            if b"".join([piece async for piece in self.get(key)]) != content:
                raise

    async def _put_in_parts(self, key: str, first: deque[bytes], rest: MeasuredStream) -> None:
        # Object stores cannot both stream and refuse to overwrite. Keys hold a fresh UUID or an
        # attempt number that one worker owns, so this look is a guard against mistakes only.
        with contextlib.suppress(FileNotFoundError):
            await obstore.head_async(self._store, key)
            raise Conflict(f"Object {key} exists already; keys are used once.")

        async def whole() -> AsyncIterator[bytes]:
            while first:  # each piece is let go as soon as it is passed on
                yield first.popleft()
            async for chunk in rest:
                yield chunk

        await obstore.put_async(
            self._store,
            key,
            whole(),
            use_multipart=True,
            chunk_size=_PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        )

    async def _settle(self, key: str) -> None:
        """Make a written object durable; object stores have done so already."""

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object's content in pieces of at most 1 MiB.

        Raises:
            NotFound: There is no such object.
            Transient: The store is away.
        """
        with translated(key):
            length = (await obstore.head_async(self._store, key))["size"]
            for start in range(0, length, _RANGE_BYTES):
                end = min(start + _RANGE_BYTES, length)
                found = memoryview(
                    await obstore.get_range_async(self._store, key, start=start, end=end)
                )
                for at in range(0, len(found), _PIECE_BYTES):
                    yield bytes(found[at : at + _PIECE_BYTES])

    async def delete(self, key: str) -> None:
        """Remove an object; it need not exist."""
        with contextlib.suppress(NotFound), translated(key):
            await obstore.delete_async(self._store, key)

    async def list(self, prefix: str) -> AsyncIterator[StoredEntry]:
        """Yield the objects below a folder, in no order."""
        with translated(prefix):
            async for page in obstore.list(self._store, prefix=prefix, chunk_size=500):
                for entry in page:
                    yield StoredEntry(entry["path"], entry["size"], entry["last_modified"])

    async def check(self) -> None:
        """Write and delete an object; what is left of it after a kill is swept.

        Raises:
            Transient: The store is away or full.
            ConfigurationError: The store refuses our credentials.
        """

        async def content() -> AsyncIterator[bytes]:
            yield bytes(_CHECK_BYTES)

        key = f"{CHECKS}/{uuid.uuid4()}"
        await self.put(key, content())
        await self.delete(key)

    async def sweep_partial(self, older_than_s: float) -> int:
        """Remove what interrupted uploads left, where that is ours to do; return how many.

        Object stores do it by a rule of the bucket ("abort incomplete multipart uploads").
        """
        del older_than_s
        return 0

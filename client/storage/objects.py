"""Stores ciphertext under keys that are used once: local disk, S3, GCS, Azure or memory.

    chunks ──put──▶ object, durable when put returns ──get──▶ chunks

On a local disk the store fsyncs the file and its directories before it answers. Object stores
answer only after they have done the like.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions as obstore_errors
from obstore.store import LocalStore, MemoryStore, from_url

from client.crypto.privatefiles import make_private_directory
from client.errors import ConfigurationError, Conflict, NotFound, Transient

__all__ = (
    "LocalObjectStore",
    "ObjectStore",
    "StoredEntry",
    "StoredObject",
    "open_store",
    "result_key",
    "study_key",
)

_PART_BYTES = 5 * 1024 * 1024
"""Smallest part that S3 takes; smaller objects are written in one request."""
_PARTS_AT_ONCE = 2
_READ_BYTES = 512 * 1024
_KEY = re.compile(r"[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*")


def study_key(job_id: str) -> str:
    """Return where a job's study lies."""
    return f"studies/{job_id}"


def result_key(job_id: str, attempt: int) -> str:
    """Return where the result of one attempt lies; no two attempts share a key."""
    return f"results/{job_id}-{attempt}"


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
        source = _Measured(chunks)
        first = await source.take(_PART_BYTES)
        with _translated(key):
            if source.ended:
                await obstore.put_async(self._store, key, first, mode="create", use_multipart=False)
            else:
                await self._put_in_parts(key, first, source)
            await self._settle(key)
        return StoredObject(key, source.length, source.sha256)

    async def _put_in_parts(self, key: str, first: bytes, rest: _Measured) -> None:
        # Object stores cannot both stream and refuse to overwrite. Keys hold a fresh UUID or an
        # attempt number that one worker owns, so this look is a guard against mistakes only.
        with contextlib.suppress(FileNotFoundError):
            await obstore.head_async(self._store, key)
            raise Conflict(f"Object {key} exists already; keys are used once.")

        async def whole() -> AsyncIterator[bytes]:
            yield first
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
        with _translated(key):
            found = await obstore.get_async(self._store, key)
            async for piece in found.stream(min_chunk_size=_READ_BYTES):
                view = memoryview(piece)
                for start in range(0, len(view), 2 * _READ_BYTES):
                    yield bytes(view[start : start + 2 * _READ_BYTES])

    async def delete(self, key: str) -> None:
        """Remove an object; it need not exist."""
        with contextlib.suppress(NotFound), _translated(key):
            await obstore.delete_async(self._store, key)

    async def list(self, prefix: str) -> AsyncIterator[StoredEntry]:
        """Yield the objects below a folder, in no order."""
        with _translated(prefix):
            async for page in obstore.list(self._store, prefix=prefix, chunk_size=500):
                for entry in page:
                    yield StoredEntry(entry["path"], entry["size"], entry["last_modified"])

    async def sweep_partial(self, older_than_s: float) -> int:
        """Remove what interrupted uploads left, where that is ours to do; return how many.

        Object stores do it by a rule of the bucket ("abort incomplete multipart uploads").
        """
        del older_than_s
        return 0


class LocalObjectStore(ObjectStore):
    """A folder of a local disk that only its owner may enter.

    Args:
        root: The folder; made when missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = make_private_directory(root)
        super().__init__(LocalStore(prefix=root))

    async def _settle(self, key: str) -> None:
        try:
            await asyncio.to_thread(self._sync, key)
        except BaseException:
            await self.delete(key)
            raise

    def _sync(self, key: str) -> None:
        path = self._root / key
        path.chmod(0o600)
        _fsync(path)
        for folder in path.parents:
            _fsync(folder)
            if folder == self._root:
                break

    async def sweep_partial(self, older_than_s: float) -> int:
        """Remove staged files (``name#1``) whose writer was killed that long ago."""
        return await asyncio.to_thread(self._sweep, time.time() - older_than_s)

    def _sweep(self, before: float) -> int:
        swept = 0
        for path in self._root.rglob("*#*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime < before:
                    path.unlink()
                    swept += 1
        return swept


def open_store(url: str) -> ObjectStore:
    """Return the store that a URL names.

    Args:
        url: ``file:///folder``, ``memory://``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.
            Credentials and regions come from the variables that the cloud's own tools read.

    Raises:
        ConfigurationError: The URL or its options are not those of a store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ConfigurationError(f"Expected file:///absolute/folder, got {url}.")
        return LocalObjectStore(Path(unquote(parts.path)))
    if parts.scheme == "memory":
        return ObjectStore(MemoryStore())
    if parts.scheme not in ("s3", "gs", "az"):
        raise ConfigurationError(
            f"Expected an object store URL (file, memory, s3, gs, az), got {parts.scheme!r}."
        )
    try:
        return ObjectStore(from_url(url))
    except (obstore_errors.BaseError, ValueError) as error:
        raise ConfigurationError(
            f"The object store {parts.scheme}://{parts.hostname} cannot be opened: set the "
            "credentials and region its provider's own tools read."
        ) from error


class _Measured:
    """Counts and hashes a stream on its way."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._hash = hashlib.sha256()
        self.length = 0
        self.ended = False

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __aiter__(self) -> _Measured:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.ended = True
            raise
        self._hash.update(chunk)
        self.length += len(chunk)
        return chunk

    async def take(self, at_least: int) -> bytes:
        taken = bytearray()
        while len(taken) < at_least:
            try:
                taken += await anext(self)
            except StopAsyncIteration:
                break
        return bytes(taken)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"No object {key}.") from error
    except obstore_errors.AlreadyExistsError as error:
        raise Conflict(f"Object {key} exists already; keys are used once.") from error
    except (
        obstore_errors.PermissionDeniedError,
        obstore_errors.UnauthenticatedError,
        obstore_errors.NotSupportedError,
        obstore_errors.InvalidPathError,
        PermissionError,
    ) as error:
        raise ConfigurationError(f"The object store refuses access to {key}.") from error
    except (obstore_errors.BaseError, OSError) as error:
        raise Transient(
            f"The object store failed on {key} ({type(error).__name__}); try again."
        ) from error

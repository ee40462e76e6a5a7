"""How a backup lies in its store: files of one moment, and a manifest that comes last.

    generations/<moment>-<file> … ──▶ generations/<moment>-manifest ──▶ the generation counts

A run that was stopped leaves files without a manifest: they count for nothing, the generation
before them still does, and the next run removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, cast

from client.errors import ConfigurationError, NotFound
from client.objectstore.objects import ObjectStore, StoredObject
from client.version import SOFTWARE_VERSION

__all__ = ("Generation", "Manifest", "newest_manifest", "read_file", "spool")

_FORMAT = "hounsfield-backup-1"
_FOLDER = "generations"
_SPOOLED_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one generation holds.

    Attributes:
        kind: "ledger" or "keys".
        made_at: When its rows were read, ISO 8601.
        software: Version that made it.
        schema: Revision of the tables.
        files: By name: where it lies, its length and SHA-256.
        faults: Objects that were lost or damaged already when the backup was made.
    """

    kind: str
    made_at: str
    software: str
    schema: str
    files: Mapping[str, StoredObject]
    faults: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """Return the manifest as JSON, with the hash of itself."""
        body = {"format": _FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**body, "sha256": _hash(body)}, indent=1).encode()

    @staticmethod
    def decoded(content: bytes) -> Manifest:
        """Return the manifest that ``encoded`` made.

        Raises:
            ConfigurationError: It is damaged, or of another format.
        """
        try:
            body = json.loads(content)
            if body.pop("sha256") != _hash(body) or body.pop("format") != _FORMAT:
                raise ValueError("hash or format")
            files = {name: StoredObject(**file) for name, file in body.pop("files").items()}
            faults = tuple(body.pop("faults"))
            return Manifest(files=files, faults=faults, **body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"Expected the manifest of a backup ({_FORMAT}); what lies there is damaged or of "
                "another version."
            ) from error


def _hash(body: Mapping[str, object]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Generation:
    """Files of one moment on their way into a store.

    Args:
        target: The store.
        at: The moment.
    """

    def __init__(self, target: ObjectStore, at: datetime) -> None:
        self._target = target
        self._at = at
        self._prefix = f"{_FOLDER}/{at.astimezone(UTC):%Y%m%dt%H%M%S%f}z"
        self._files: dict[str, StoredObject] = {}

    async def add(self, name: str, content: IO[bytes]) -> None:
        """Store a file from its beginning."""
        content.seek(0)
        self._files[name] = await self._target.put(f"{self._prefix}-{name}", _pieces(content))

    async def complete(self, kind: str, schema: str, faults: Iterable[str] = ()) -> Manifest:
        """Store the manifest: from now on this generation counts; then remove all older files."""
        moment = self._at.astimezone(UTC).isoformat()
        manifest = Manifest(
            kind, moment, SOFTWARE_VERSION, schema, dict(self._files), tuple(faults)
        )
        with spool() as content:
            content.write(manifest.encoded())
            content.seek(0)
            await self._target.put(f"{self._prefix}-manifest", _pieces(content))
        async for entry in self._target.list(_FOLDER):
            if not entry.key.startswith(f"{self._prefix}-"):
                await self._target.delete(entry.key)
        return manifest


async def newest_manifest(source: ObjectStore, kind: str) -> Manifest:
    """Return the manifest of the newest complete generation.

    Raises:
        ConfigurationError: There is none, it is damaged, or of another kind.
    """
    complete = [
        entry.key async for entry in source.list(_FOLDER) if entry.key.endswith("-manifest")
    ]
    if not complete:
        raise ConfigurationError(
            "There is no complete backup: nothing was saved there, or the run that did was "
            "stopped. Run `hounsfield backup` again."
        )
    content = b"".join([piece async for piece in source.get(max(complete))])
    manifest = Manifest.decoded(content)
    if manifest.kind != kind:
        raise ConfigurationError(f"Expected a backup of the {kind}, got one of {manifest.kind}.")
    return manifest


async def read_file(source: ObjectStore, manifest: Manifest, name: str) -> AsyncIterator[bytes]:
    """Yield a file of a backup, and make sure at its end that it is the one that was saved.

    Raises:
        ConfigurationError: It is damaged or gone.
    """
    file = manifest.files[name]
    digest = hashlib.sha256()
    with contextlib.suppress(NotFound):
        async for piece in source.get(file.key):
            digest.update(piece)
            yield piece
    if digest.hexdigest() != file.sha256:
        raise ConfigurationError(f"The backup is damaged: its file {file.key} is not what it was.")


def spool() -> IO[bytes]:
    """Return a temporary file that stays in memory while it is small."""
    return cast("IO[bytes]", tempfile.SpooledTemporaryFile(_SPOOLED_BYTES))


async def _pieces(content: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := content.read(_PIECE_BYTES):
        yield piece

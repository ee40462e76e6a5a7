"""Brings releases of models into an object store, and from there into a pod, hash by hash.

    python -m client.triton.delivery digest FOLDER            names what lies in a folder
    python -m client.triton.delivery publish FOLDER           folder ─▶ store; names it
    python -m client.triton.delivery fetch sha256:… FOLDER    store ─▶ folder, every file compared

The store is the one of HOUNSFIELD_STORE_URL. Objects are named by the hash of their content
(``models/files/…``, ``models/releases/…``), so releases share files, none is ever changed, and
whoever pins a release's name has pinned every byte of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from client.errors import ClientError, ConfigurationError, Conflict
from client.objectstore.objects import ObjectStore
from client.objectstore.stores import open_store
from client.settings import load_settings
from client.triton.release import ReleaseFile, describe, name_of, parse

__all__ = ("fetch", "main", "publish")

_PIECE_BYTES = 1 << 20
_MOST_MANIFEST_BYTES = 4 << 20
EX_FAILED = 1


async def publish(store: ObjectStore, repository: Path) -> str:
    """Store a folder's files and its manifest; what is there already is not sent again.

    Returns:
        The release's name.

    Raises:
        ConfigurationError: The folder has no file, or changed meanwhile.
        Transient: The store is away.
    """
    manifest = await asyncio.to_thread(describe, repository)
    name = name_of(manifest)
    for file in parse(manifest, name):
        # Whole or not at all, under its hash: one that is there is the same.
        with contextlib.suppress(Conflict):
            sent = await store.put(_file_key(file.sha256), _content(repository / file.path))
            if sent.sha256 != file.sha256:
                await store.delete(_file_key(file.sha256))
                raise ConfigurationError(f"{file.path} changed while it was published.")
    # Last: a release that can be named is complete.
    with contextlib.suppress(Conflict):
        await store.put(_release_key(name), _one(manifest))
    return name


async def fetch(store: ObjectStore, name: str, folder: Path) -> int:
    """Make a folder hold exactly one release; what is there and right is not fetched again.

    Returns:
        Bytes of the release.

    Raises:
        NotFound: The store has no such release.
        ConfigurationError: A file or the manifest is not what its hash says.
        Transient: The store is away.
    """
    files = parse(await _small(store, _release_key(name)), name)
    await asyncio.to_thread(_remove_others, folder, frozenset(folder / f.path for f in files))
    for file in files:
        await _fetch_file(store, file, folder / file.path)
    return sum(file.length for file in files)


async def _fetch_file(store: ObjectStore, file: ReleaseFile, path: Path) -> None:
    if await asyncio.to_thread(_sha256, path) == file.sha256:
        return
    fresh = path.with_name(f".{path.name}.part")
    digest = hashlib.sha256()
    with fresh.open("wb") as part:
        async for piece in store.get(_file_key(file.sha256)):
            digest.update(piece)
            part.write(piece)
    if digest.hexdigest() != file.sha256:
        fresh.unlink()
        raise ConfigurationError(
            f"{file.path}: expected SHA-256 {file.sha256}, got {digest.hexdigest()}: it was "
            "changed in the store. Delete that object and publish the release again."
        )
    fresh.replace(path)


async def _small(store: ObjectStore, key: str) -> bytes:
    content = bytearray()
    async for piece in store.get(key):
        content += piece
        if len(content) > _MOST_MANIFEST_BYTES:
            raise ConfigurationError(f"{key} is too long to be the manifest of a release.")
    return bytes(content)


async def _content(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _remove_others(folder: Path, wanted: frozenset[Path]) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in wanted]:
        path.unlink()


def _sha256(path: Path) -> str:
    """Hash of a file, "" if there is none; its folder is there afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_key(sha256: str) -> str:
    return f"models/files/{sha256}"


def _release_key(name: str) -> str:
    return f"models/releases/{name.removeprefix('sha256:')}"


async def _act(options: argparse.Namespace) -> str:
    if options.action == "digest":
        return name_of(describe(options.folder))
    store = open_store(load_settings().store_url)
    if options.action == "publish":
        return await publish(store, options.folder)
    length = await fetch(store, options.release, options.folder)
    return f"{options.release} is in {options.folder}: {length} bytes, every file compared."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0, or 1 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m client.triton.delivery", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for action in ("digest", "publish", "fetch"):
        parts = actions.add_parser(action)
        if action == "fetch":
            parts.add_argument("release", help="sha256:…")
        parts.add_argument("folder", type=Path)
    try:
        sys.stdout.write(f"{asyncio.run(_act(parser.parse_args(argv)))}\n")
    except ClientError as error:
        sys.stderr.write(f"{error}\n")
        return EX_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The object store on a local disk: private, and on the disk before it answers.

chunks ──put──▶ name#1 ──rename──▶ name ──fsync file, folder, every folder above──▶ answer
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from obstore.store import LocalStore

from client.crypto.privatefiles import make_private_directory
from client.objectstore.objects import ObjectStore

__all__ = ("LocalObjectStore",)


class LocalObjectStore(ObjectStore):
    """A folder of a local disk that only its owner may enter.

    Args:
        root: The folder; made when missing.
    """

    def __init__(self, root: Path) -> None:
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
        self._root = make_private_directory(root)
        for folder in missing:
            _fsync(folder.parent)
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


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Puts objects into a local store until it is killed, and says which were acknowledged."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from client.objectstore.localobjects import LocalObjectStore

__all__ = ("main",)


async def _chunks(content: bytes, pause_s: float) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 20):
        yield content[start : start + (1 << 20)]
        await asyncio.sleep(pause_s)


async def _write(root: Path, name: str, number: int, pause_s: float) -> None:
    store = LocalObjectStore(root)
    for index in range(number):
        content = os.urandom(random.randrange(12 << 20))
        stored = await store.put(f"studies/{name}-{index}", _chunks(content, pause_s))
        digest = hashlib.sha256(content).hexdigest()
        # One write, so that a kill leaves a whole line or none.
        os.write(1, f"{stored.key} {digest}\n".encode())


def main() -> None:
    """``python -m tests.store_writer ROOT NAME NUMBER [PAUSE_S]``."""
    root, name, number, pause_s = (*sys.argv[1:], "0")[:4]
    asyncio.run(_write(Path(root), name, int(number), float(pause_s)))


if __name__ == "__main__":
    main()

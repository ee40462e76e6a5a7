"""Shared memory that studies lie in while they are worked on, wiped and used again.

pool ──take──▶ Block (worker and isolated children see the same bytes) ──wipe──▶ pool

Fresh memory costs more CPU time than decrypting into it, since the kernel clears it page by page:
for shared memory 1 ms per MiB. A block that goes back is overwritten with zeros, which costs a
twentieth, so no study finds anything of another one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ("Block", "BlockPool", "map_block")

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_STEP_BYTES = 64 << 20


class Block:
    """One piece of anonymous shared memory.

    A child that maps it can't change its length, which would kill whoever reads beyond the end.

    Args:
        capacity: Bytes; pages that are never touched cost nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.fd = os.memfd_create("hounsfield", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, capacity)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self.fd, capacity)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        """All of it."""
        self.used: int | None = None
        """Bytes from its beginning that may have been written; None as long as nobody has said."""
        self.held = 0
        """Bytes from its beginning that hold memory while the block is free, all zero."""

    def holds(self, array: NDArray[Any]) -> bool:
        """Say whether an array, contiguous, lies in this block."""
        return np.may_share_memory(self.bytes, array)

    def keep(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Copy an array to the beginning of the block; return the copy."""
        self.used = array.nbytes
        copy = self.bytes[: array.nbytes].reshape(array.shape)
        np.copyto(copy, array)
        return copy

    def wipe(self) -> None:
        """Overwrite what was written; where that is not known, give all memory back."""
        if self.used is None:
            self._map.madvise(mmap.MADV_REMOVE)
            self.held = 0
        else:
            self.bytes[: self.used] = 0
            self.held = max(self.held, self.used)
        self.used = None

    def close(self) -> None:
        """Give up the block; arrays in it keep its memory until they end."""
        os.close(self.fd)


def map_block(fd: int) -> NDArray[np.uint8]:
    """Map another process's block; the descriptor is closed."""
    try:
        return np.frombuffer(mmap.mmap(fd, os.fstat(fd).st_size), np.uint8)
    finally:
        os.close(fd)


class BlockPool:
    """Blocks to take and give back, from any thread.

    Args:
        keep_bytes: Memory that blocks may hold while nobody uses them.
    """

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._free: list[Block] = []
        self._lock = Lock()

    @contextmanager
    def block(self, length: int) -> Iterator[Block]:
        """Lend a block of zeros; nothing may read or write it after the ``with``.

        Args:
            length: Bytes that it must hold at least.
        """
        block = self._take(length)
        try:
            yield block
        finally:
            block.wipe()
            self._give_back(block)

    def close(self) -> None:
        """Give all memory back."""
        with self._lock:
            while self._free:
                self._free.pop().close()

    def _take(self, length: int) -> Block:
        with self._lock:
            fitting = [block for block in self._free if block.capacity >= length]
            if not fitting:
                return Block(-(-max(length, 1) // _STEP_BYTES) * _STEP_BYTES)
            # The one that already holds most of the memory that will be written.
            best = max(fitting, key=lambda block: (min(block.held, length), -block.capacity))
            self._free.remove(best)
            return best

    def _give_back(self, block: Block) -> None:
        with self._lock:
            self._free.append(block)
            while sum(one.held for one in self._free) > self._keep_bytes:
                largest = max(self._free, key=lambda one: one.held)
                self._free.remove(largest)
                largest.close()

"""What identifies a plaintext: its length and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ("Digest",)


@dataclass(frozen=True, slots=True)
class Digest:
    """Length in bytes and SHA-256 of a plaintext."""

    length: int
    sha256: bytes

    @classmethod
    def of(cls, chunks: Iterable[bytes]) -> Digest:
        """Read a stream to its end."""
        running, length = hashlib.sha256(), 0
        for chunk in chunks:
            running.update(chunk)
            length += len(chunk)
        return cls(length, running.digest())

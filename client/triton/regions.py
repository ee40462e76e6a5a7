"""Memory that this process and a server on the same machine both see, and the proof of its owner.

Region: a file in /dev/shm, closed to other users, that loses its name as soon as both have it open
Owner: a name that the kernel gives back the moment its process ends, however it ends
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import socket
from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.triton.installation import SHARED_MEMORY

__all__ = ("Owner", "Region", "clear_names", "lives", "owner_of")

_PREFIX = "hounsfield_slices_"
_NAME = re.compile(rf"{_PREFIX}([0-9a-f]{{32}})_[0-9a-f]{{32}}")


class Region:
    """Bytes that can be shared by name until ``unlink``; mapped until ``close``.

    The pages are there from the start: writing cannot fail for want of memory.

    Args:
        owner: Whose it is.
        size_bytes: Its size.

    Raises:
        OSError: /dev/shm is full, or there is none.
    """

    def __init__(self, owner: Owner, size_bytes: int) -> None:
        self.name = f"{_PREFIX}{owner.token}_{secrets.token_hex(16)}"
        self.size_bytes = size_bytes
        path = SHARED_MEMORY / self.name
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(file, 0, size_bytes)
            self._map = mmap.mmap(file, size_bytes)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)
        self.content: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)

    @property
    def key(self) -> str:
        """What shm_open(3) knows it by."""
        return f"/{self.name}"

    def unlink(self) -> None:
        """Takes its name away: who has it open keeps it, nobody else can open it any more."""
        (SHARED_MEMORY / self.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlinks it and lets go of this process's mapping, once no array lies in it any more."""
        self.unlink()
        self.content = np.empty(0, dtype=np.uint8)
        with contextlib.suppress(BufferError):  # an array in use holds it, and frees it later
            self._map.close()


class Owner:
    """Shows others on this machine that the process which made a region still lives.

    It is a socket with a name that lies in no folder (unix(7), abstract): nobody can connect to it
    for anything, and no crash leaves it behind. Inside the context the name is taken.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(_address(self.token))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def owner_of(name: str) -> str:
    """The token in a region's name; "" if it is none of ours."""
    found = _NAME.fullmatch(name)
    return found[1] if found else ""


def lives(token: str) -> bool:
    """Whether the owner with this token is alive, as far as this network namespace shows."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_address(token))
        except ConnectionRefusedError:
            return False
    return True


def clear_names() -> None:
    """Removes what processes left behind that died before the server had their memory open."""
    for path in SHARED_MEMORY.glob(f"{_PREFIX}*"):
        owner = owner_of(path.name)
        if owner and not lives(owner):
            path.unlink(missing_ok=True)


def _address(token: str) -> str:
    return f"\0{_PREFIX}{token}"

"""Files that only their owner may read, written so that a crash leaves the old or the new one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from client.errors import ConfigurationError

__all__ = (
    "destroy_private",
    "make_private_directory",
    "read_private",
    "write_private",
    "write_public",
)


def make_private_directory(path: Path) -> Path:
    """Create a directory, with its parents, that only the owner may enter; return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a secret: mode 0600, atomically, on disk before this returns."""
    _write(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Write what others may read (certificates, public keys): mode 0644, else as a secret."""
    _write(path, content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fchmod(handle.fileno(), mode)
        os.fsync(handle.fileno())
    fresh.replace(path)
    _sync_directory(path.parent)


def destroy_private(path: Path) -> None:
    """Overwrite a secret with zeros and delete it, on disk before this returns.

    The zeros reach the old blocks only on storage that writes in place; flash and copy-on-write
    file systems keep them until they are reused.

    Raises:
        FileNotFoundError: It is not there.
    """
    with path.open("r+b") as handle:
        handle.write(bytes(os.fstat(handle.fileno()).st_size))
        handle.flush()
        os.fsync(handle.fileno())
    path.unlink()
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_private(path: Path) -> bytes:
    """Return a secret's bytes.

    Raises:
        ConfigurationError: The file is missing, unreadable, or open to users outside its group.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o007:
            raise ConfigurationError(
                f"{path} is a secret but every user may use it (mode {mode:04o}): chmod 600 it, "
                "and make a new key if it may have been copied."
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read {path}: {error.strerror}. Make keys with `hounsfield keys new`."
        ) from error

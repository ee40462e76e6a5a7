"""A study or a result as one stream: a POSIX tar of regular files with plain names, nothing else.

    files ──Bundle.chunks──▶ tar ──envelope──▶ … ──▶ tar in memory ──read_bundle──▶ (name, bytes)

Two readings of the same files give the same bytes: no times, owners or paths go in. The reader
takes nothing that could name a path, a link or a device, and never stops before the true end.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.crypto.digest import Digest
from client.errors import ConfigurationError, RefusalCode, Rejected
from client.limits import RESULT, BundleLimits

__all__ = ("Bundle", "read_bundle", "result_bundle", "study_bundle")

_BLOCK = 512
_END = bytes(2 * _BLOCK)
_READ_BYTES = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    source: Path | bytes | memoryview
    length: int


class Bundle:
    """Files that can be streamed as a tar, again and again, always the same bytes.

    Args:
        entries: Name, content or the file that holds it, and its length in bytes.
    """

    def __init__(self, entries: Iterable[tuple[str, Path | bytes | memoryview, int]]) -> None:
        self._entries = tuple(_Entry(*entry) for entry in entries)
        if not self._entries:
            raise ConfigurationError("Expected at least one file to send, got none.")
        self.length = sum(_BLOCK + _padded(e.length) for e in self._entries) + len(_END)
        """Length of the stream in bytes."""

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._entries)

    def chunks(self) -> Iterator[bytes]:
        """Yield the tar stream in pieces of at most 1 MiB.

        Raises:
            ConfigurationError: A file cannot be read, or its length changed.
        """
        for number, entry in enumerate(self._entries, start=1):
            yield _header(entry)
            yield from _content(entry, number)
            if padding := _padded(entry.length) - entry.length:
                yield bytes(padding)
        yield _END

    def digest(self) -> Digest:
        """Read everything once; return the stream's length and SHA-256."""
        return Digest.of(self.chunks())


def study_bundle(files: Iterable[Path | bytes]) -> Bundle:
    """Bundle DICOM Part 10 files under neutral names: 000001.dcm, 000002.dcm, and so on.

    Args:
        files: Files on disk or their content, in the order to send them.

    Raises:
        ConfigurationError: There is none, or one is not a readable regular file.
    """
    return Bundle(
        (f"{number:06d}.dcm", file, _length(file)) for number, file in enumerate(files, start=1)
    )


def result_bundle(files: Mapping[str, bytes | memoryview]) -> Bundle:
    """Bundle result files under their own plain names.

    Raises:
        ConfigurationError: There is none, or a name is not plain (letters, digits, ".", "_", "-").
    """
    for name in files:
        if not _is_plain(name, RESULT):
            raise ConfigurationError(f"Expected a plain file name, got {name!r}.")
    return Bundle((name, content, len(content)) for name, content in sorted(files.items()))


def read_bundle(
    buffer: bytes | bytearray | memoryview, limits: BundleLimits
) -> Iterator[tuple[str, memoryview]]:
    """Yield the files of a bundle one by one.

    Args:
        buffer: The whole stream.
        limits: What it may hold.

    Returns:
        Name and content of each file; contents are read-only views of the buffer, not copies.

    Raises:
        Rejected: BAD_BUNDLE; not a tar of regular files with distinct plain names, or it ends too
            early. TOO_LARGE; a limit is exceeded. Both name the position, never the file.
    """
    view = memoryview(buffer).toreadonly()
    if len(view) > limits.max_bytes:
        raise _too_large(f"at most {limits.max_bytes} bytes", f"{len(view)}")
    names: set[str] = set()
    at = 0
    while any(block := bytes(view[at : at + _BLOCK])):
        number = len(names) + 1
        name, length = _parse_header(block, number, limits)
        if name in names:
            raise _bad(f"file {number} repeats an earlier name")
        if number > limits.max_files:
            raise _too_large(f"at most {limits.max_files} files", "more")
        if length > limits.max_file_bytes:
            raise _too_large(f"files of at most {limits.max_file_bytes} bytes", f"{length}")
        at += _BLOCK
        if at + _padded(length) > len(view):
            raise _bad(f"it ends inside file {number}")
        yield name, view[at : at + length]
        names.add(name)
        at += _padded(length)
    if not names:
        raise _bad("it holds no file")
    if not len(_END) <= len(view) - at <= limits.max_padding_bytes or any(view[at:]):
        raise _bad("it does not end with two empty blocks")


def _parse_header(block: bytes, number: int, limits: BundleLimits) -> tuple[str, int]:
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise _bad(f"file {number} has a damaged tar header") from error
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise _bad(f"entry {number} is not a regular file (type {info.type!r})")
    if not _is_plain(info.name, limits):
        raise _bad(f"the name of file {number} is not plain (letters, digits, '.', '_', '-')")
    if info.size < 0:
        raise _bad(f"file {number} has a negative length")
    return info.name, info.size


def _is_plain(name: str, limits: BundleLimits) -> bool:
    return len(name) <= limits.max_name_chars and _NAME.fullmatch(name) is not None


def _header(entry: _Entry) -> bytes:
    info = tarfile.TarInfo(entry.name)
    info.size, info.mode = entry.length, 0o600
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _content(entry: _Entry, number: int) -> Iterator[bytes]:
    if not isinstance(entry.source, Path):
        for start in range(0, entry.length, _READ_BYTES):
            yield bytes(entry.source[start : start + _READ_BYTES])
        return
    try:
        with entry.source.open("rb") as handle:
            left = entry.length
            while left and (piece := handle.read(min(left, _READ_BYTES))):
                left -= len(piece)
                yield piece
            changed = left or handle.read(1)
    except OSError as error:
        raise ConfigurationError(f"File {number} cannot be read: {error.strerror}.") from error
    if changed:
        raise ConfigurationError(
            f"File {number} changed while it was read: expected {entry.length} bytes. "
            "Send it again when nothing writes to it."
        )


def _length(file: Path | bytes) -> int:
    if isinstance(file, bytes):
        return len(file)
    if not file.is_file():
        raise ConfigurationError(f"Expected a regular file, got {file}.")
    return file.stat().st_size


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _bad(why: str) -> Rejected:
    return Rejected(
        RefusalCode.BAD_BUNDLE,
        f"Expected a tar stream of regular files, but {why}. docs/protocol.md describes it.",
    )


def _too_large(expected: str, came: str) -> Rejected:
    return Rejected(
        RefusalCode.TOO_LARGE,
        f"Expected {expected} in a bundle, got {came}: send fewer series at a time.",
    )

"""Data elements as bytes in Explicit VR Little Endian (PS3.5 7.1.2), to take apart and to join.

encoded data set ─▶ elements (tag ▶ bytes) ─▶ some exchanged ─▶ joined
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = ("element", "elements", "item", "items", "joined", "padded", "sequence")

LONG = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Value representations with four bytes of length (PS3.5 table 7.1-1)."""

ITEM = b"\xfe\xff\x00\xe0"
LONGEST = 0xFFFFFFFE


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One data element.

    Args:
        tag: Group and element number, as 0x00280008.
        vr: Value representation.
        value: The encoded value, of even length.
        length: Length of a value that the caller appends himself; ``value`` is empty then.

    Raises:
        ValueError: The value is longer than its length field can say, or of odd length.
    """
    size = len(value) if length is None else length
    if size > (LONGEST if vr in LONG else 0xFFFE) or size % 2:
        raise ValueError(f"expected an even length up to {LONGEST} of {tag:08X}, got {size}")
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + struct.pack("<xxI" if vr in LONG else "<H", size) + value


def item(content: bytes) -> bytes:
    """One item of a sequence, with its length stated."""
    return ITEM + struct.pack("<I", len(content)) + content


def sequence(tag: int, contents: Iterable[bytes]) -> bytes:
    """A sequence of items, with its length stated; ``contents`` are the items' data sets."""
    return element(tag, b"SQ", b"".join(map(item, contents)))


def elements(encoded: bytes) -> dict[int, bytes]:
    """The elements of a data set whose sequences all state their lengths, by tag, each whole."""
    found, at = {}, 0
    while at < len(encoded):
        group, number, vr = struct.unpack_from("<HH2s", encoded, at)
        head = 12 if vr in LONG else 8
        (size,) = struct.unpack_from("<8xI" if vr in LONG else "<6xH", encoded, at)
        found[group << 16 | number] = encoded[at : at + head + size]
        at += head + size
    return found


def items(encoded: bytes) -> list[bytes]:
    """The items' data sets of an encoded sequence."""
    found, at = [], 12
    while at < len(encoded):
        (size,) = struct.unpack_from("<I", encoded, at + 4)
        found.append(encoded[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def joined(parts: dict[int, bytes]) -> bytes:
    """A data set of elements by tag, the other way round than ``elements``."""
    return b"".join(parts[tag] for tag in sorted(parts))


def padded(text: str, filler: bytes) -> bytes:
    """The value of plain text, with an even number of bytes (PS3.5 6.2)."""
    return text.encode("ascii") + filler * (len(text) % 2)

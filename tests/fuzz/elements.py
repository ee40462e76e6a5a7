"""Finds the elements of a DICOM file that is to be broken, and swaps bytes in it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from struct import unpack_from

__all__ = ("ITEM", "LENGTHS", "SHORTS", "UNDEFINED", "Element", "index_of", "pick", "spliced")

_LONG_VRS = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR"))
LENGTHS = (
    0,
    1,
    2,
    7,
    0x7FFF,
    0xFFFE,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0xFFFFFFF0,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
SHORTS = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    12,
    15,
    16,
    17,
    32,
    64,
    127,
    255,
    256,
    8191,
    8192,
    8193,
    32768,
    65535,
)
UNDEFINED = 0xFFFFFFFF
ITEM = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True, slots=True)
class Element:
    """Where an element of a little-endian file stands."""

    tag: int
    start: int
    length_at: int
    long: bool
    value: int
    end: int


def index_of(data: bytes, limit: int = 2000) -> list[Element]:
    """The elements of a file, sequences entered; explicit VR by sight, else implicit."""
    found: list[Element] = []
    at = 132
    while at + 8 <= len(data) and len(found) < limit:
        group, element = unpack_from("<HH", data, at)
        tag = group << 16 | element
        vr = data[at + 4 : at + 6]
        if group == 0xFFFE:
            at += 8
            continue
        if not (vr.isalpha() and vr.isupper()):
            length_at, long, value = at + 4, True, at + 8
        elif vr in _LONG_VRS:
            length_at, long, value = at + 8, True, at + 12
        else:
            length_at, long, value = at + 6, False, at + 8
        if value > len(data):
            break
        length = unpack_from("<L" if long else "<H", data, length_at)[0]
        inside = vr == b"SQ" or length == UNDEFINED
        end = value if inside else value + length
        found.append(Element(tag, at, length_at, long, value, end))
        if tag == 0x7FE00010 and length == UNDEFINED:
            break
        at = end
    return found


def pick(data: bytes, rng: Random, tags: tuple[int, ...] = ()) -> Element:
    return rng.choice([one for one in index_of(data) if not tags or one.tag in tags])


def spliced(data: bytes, start: int, end: int, new: bytes) -> bytes:
    return data[:start] + new + data[end:]

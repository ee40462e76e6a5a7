"""Walks the structure of a data set before it is parsed, so that nothing deep or endless is built.

bytes ──tags and lengths only──▶ depth, elements, private groups, fragments, text lengths │ refusal

It reads by the same rules as the parser (PS3.5 7.1 and 7.5, and a switch to implicit VR where a VR
is missing), but keeps no values and uses no recursion. Where the structure is damaged it stops:
the parser says what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, unpack_from

from pydicom._dicom_dict import DicomDictionary
from pydicom.tag import Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from client.dicom.headers import HEADER_KEYWORDS
from client.errors import RefusalCode, Rejected
from client.limits import ReadLimits

__all__ = ("Encoding", "check_structure")

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_LONG_VRS = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)
_SEQUENCES = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
_KEPT = frozenset(int(Tag(keyword)) for keyword in HEADER_KEYWORDS)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written: Transfer Syntax (PS3.5 10)."""

    implicit: bool
    little_endian: bool


@dataclass(slots=True)
class _Level:
    """One open sequence or item: where it ends, None if by a delimiter."""

    end: int | None
    is_sequence: bool
    implicit: bool


def check_structure(content: bytes, start: int, encoding: Encoding, limits: ReadLimits) -> None:
    """Holds a data set to the limits on its structure.

    Args:
        content: A file.
        start: Where its data set begins.
        encoding: How it is written.
        limits: What it may hold.

    Raises:
        Rejected: ``TOO_LARGE``.
    """
    vr = content[start + 4 : start + 6]
    implicit = encoding.implicit if len(vr) < 2 else not _is_vr(vr)
    _Walk(content, start, encoding, limits).run(implicit=implicit)


class _Walk:
    """One walk over a data set; memory is bounded by the depth."""

    def __init__(self, content: bytes, start: int, encoding: Encoding, limits: ReadLimits) -> None:
        self._content = content
        self._at = start
        self._limits = limits
        endian = "<" if encoding.little_endian else ">"
        self._tag = Struct(f"{endian}HH")
        self._long = f"{endian}L"
        self._short = f"{endian}H"
        self._levels: list[_Level] = []
        self._depth = 0
        self._elements = 0
        self._private: set[int] = set()

    def run(self, *, implicit: bool) -> None:
        self._levels = [_Level(len(self._content), is_sequence=False, implicit=implicit)]
        while self._levels and self._at + 8 <= len(self._content):
            level = self._levels[-1]
            if level.end is not None and self._at >= level.end:
                self._close()
                continue
            group, element = self._tag.unpack_from(self._content, self._at)
            tag = group << 16 | element
            if level.is_sequence:
                self._item(tag, level)
            elif tag == _ITEM_END:
                self._at += 8
                self._close()
            else:
                self._element(tag, level)

    def _close(self) -> None:
        level = self._levels.pop()
        if level.end is not None:
            self._at = level.end
        self._depth -= level.is_sequence

    def _item(self, tag: int, sequence: _Level) -> None:
        """An item; like the parser, takes any tag but the delimiter for one."""
        length = unpack_from(self._long, self._content, self._at + 4)[0]
        self._at += 8
        if tag == _SEQUENCE_END:
            self._close()
            return
        end = None if length == _UNDEFINED else self._at + length
        self._levels.append(_Level(end, is_sequence=False, implicit=sequence.implicit))

    def _element(self, tag: int, level: _Level) -> None:
        vr, length = self._head(level)
        self._count(tag, length)
        if tag == _PIXEL_DATA and length == _UNDEFINED:
            self._fragments()
        elif self._is_sequence(tag, vr, length):
            self._depth += 1
            if self._depth > self._limits.max_depth:
                raise _too_large(f"sequences nested at most {self._limits.max_depth} deep")
            end = None if length == _UNDEFINED else self._at + length
            self._levels.append(_Level(end, is_sequence=True, implicit=level.implicit))
        elif length == _UNDEFINED:
            found = self._content.find(self._tag.pack(0xFFFE, 0xE0DD), self._at)
            self._at = len(self._content) if found < 0 else found + 8
        else:
            self._at += length

    def _head(self, level: _Level) -> tuple[bytes, int]:
        """VR, empty if implicit, and length of the element here; moves on to its value."""
        at, content = self._at, self._content
        vr = b"" if level.implicit else content[at + 4 : at + 6]
        self._at += 8
        if not _is_vr(vr):
            return b"", unpack_from(self._long, content, at + 4)[0]
        if vr not in _LONG_VRS:
            return vr, unpack_from(self._short, content, at + 6)[0]
        self._at += 4
        if self._at > len(content):
            return vr, 0
        return vr, unpack_from(self._long, content, at + 8)[0]

    def _is_sequence(self, tag: int, vr: bytes, length: int) -> bool:
        if vr == b"SQ":
            return True
        if vr not in (b"", b"UN"):
            return False
        if length == _UNDEFINED:
            known = vr == b"UN" or tag in _SEQUENCES
            return known or self._content[self._at : self._at + 4] == self._tag.pack(0xFFFE, 0xE000)
        return tag in _SEQUENCES

    def _count(self, tag: int, length: int) -> None:
        limits = self._limits
        self._elements += 1
        if self._elements > limits.max_elements:
            raise _too_large(f"at most {limits.max_elements} data elements")
        if tag & 0x10000:
            self._private.add(tag >> 16)
            if len(self._private) > limits.max_private_groups:
                raise _too_large(f"at most {limits.max_private_groups} private groups")
        if tag in _KEPT and not self._depth and _UNDEFINED > length > limits.max_text_bytes:
            raise _too_large(
                f"at most {limits.max_text_bytes} bytes in ({tag >> 16:04X},{tag & 0xFFFF:04X})"
            )

    def _fragments(self) -> None:
        """Encapsulated pixel data (PS3.5 A.4): an offset table, then fragments."""
        count = -1
        while self._at + 8 <= len(self._content):
            group, element = self._tag.unpack_from(self._content, self._at)
            length = unpack_from(self._long, self._content, self._at + 4)[0]
            self._at += 8
            if group << 16 | element != _ITEM or length == _UNDEFINED:
                return
            self._at += length
            count += 1
            if count > self._limits.max_fragments:
                raise _too_large(f"pixel data of at most {self._limits.max_fragments} fragments")


def _is_vr(two: bytes) -> bool:
    return len(two) == 2 and b"A" <= two[:1] <= b"Z" and b"A" <= two[1:] <= b"Z"


def _too_large(expected: str) -> Rejected:
    return Rejected(
        RefusalCode.TOO_LARGE,
        f"A file was expected to hold {expected}, and holds more; export the instance again "
        "without the attributes that make it so, or leave it out.",
    )

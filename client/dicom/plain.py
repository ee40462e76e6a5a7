"""Reads files that keep every rule in one walk; every other file is left to the parser.

bytes ──one walk: tags, lengths, limits──▶ PlainFile (elements as bytes, pixels as a view) │ None
PlainAttributes ──element's bytes, once per study──▶ pydicom ──▶ value

Plain is a file in explicit or implicit VR little endian whose elements all have a known VR, rise by
tag and end where they say, in which none of the attributes we use is a sequence. Of such a file
the parser would make the same: the test compares both ways on healthy, damaged and forged files.
Whatever is unusual is no error here: it makes the file one for the parser, which says what is
wrong. Values are converted by pydicom from the bytes of their element.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from struct import Struct
from typing import Any, TypeVar, cast

from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from client.dicom.attributes import Attributes
from client.dicom.headers import HEADER_KEYWORDS, PIXEL_KEYWORDS
from client.limits import ReadLimits

__all__ = ("Conversions", "PlainAttributes", "PlainFile", "once", "read_plain")

Made = TypeVar("Made")

_META_START = 132
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_CHARACTER_SET, _PIXEL_DATA = 0x00080005, 0x7FE00010
_META_LENGTH, _META_CLASS, _META_SYNTAX = 0x00020000, 0x00020002, 0x00020010
_LONGEST_BYTES = 0x4000
"""Of a value that is converted: longer ones in implicit VR can be mistaken for explicit VR."""

_LONG_VRS = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)
_HEAD_BYTES = {
    vr: 12 if vr in _LONG_VRS else 8 for vr in (str(vr).encode() for vr in VR) if len(vr) == 2
}
_SEQUENCES = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
_LISTED = {int(Tag(keyword)): keyword for keyword in (*HEADER_KEYWORDS, *PIXEL_KEYWORDS)}
_FOREIGN = ("FloatPixelData", "DoubleFloatPixelData")
_SYNTAXES = frozenset(AllTransferSyntaxes) - {DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}

_EXPLICIT = Struct("<HH2sH").unpack_from
_IMPLICIT = Struct("<HHL").unpack_from
_LONG = Struct("<L").unpack_from

_UID_ELEMENT = re.compile(rb".{4}UI..([0-9.]+)\x00?", re.DOTALL)
_NUMBER = rb"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"
_TRIPLE_ELEMENT = re.compile(rb".{4}DS..(%b)\\(%b)\\(%b) *" % ((_NUMBER,) * 3), re.DOTALL)


class _NotPlain(Exception):
    """The file is one for the parser."""


class Conversions:
    """Values of elements by their bytes, for the files of one study: nearly all repeat."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[bool, bytes, bytes], _Context] = {}

    def context(self, *, implicit: bool, character_set: bytes, representation: bytes) -> _Context:
        """What conversions depend on beside the element itself."""
        key = (implicit, character_set, representation)
        found = self._contexts.get(key)
        if found is None:
            found = self._contexts[key] = _Context(*key)
        return found


class _Context:
    """Converts elements of files that share VR encoding, character set and pixel sign."""

    def __init__(self, implicit: bool, character_set: bytes, representation: bytes) -> None:
        self._implicit = implicit
        self._character_set = character_set
        self._representation = representation
        self._values: dict[bytes, Any] = {}
        self.made: dict[tuple[object, ...], object] = {}
        self._dataset(b"")

    def value(self, keyword: str, element: bytes) -> Any:
        """What the attribute of a dataset that was read from these bytes would be."""
        try:
            return self._values[element]
        except KeyError:
            found = self._values[element] = self._convert(keyword, element)
            return found

    def _convert(self, keyword: str, element: bytes) -> Any:
        if not self._implicit:
            if keyword == "SOPInstanceUID" and (uid := _UID_ELEMENT.fullmatch(element)):
                return uid[1].decode("ascii")
            if keyword == "ImagePositionPatient" and (xyz := _TRIPLE_ELEMENT.fullmatch(element)):
                return [float(part) for part in xyz.groups()]
        return self._dataset(element).get(keyword)

    def _dataset(self, element: bytes) -> Dataset:
        """In the order of tags, as in their file; the element itself may be one of the others."""
        parts = sorted({self._character_set, self._representation, element}, key=_tag_order)
        return read_dataset(BytesIO(b"".join(parts)), self._implicit, True)


def _tag_order(element: bytes) -> bytes:
    return element[1::-1] + element[3:1:-1]


class PlainAttributes:
    """The listed attributes of a plain file, pixel data excluded.

    Args:
        elements: Bytes of each element by its keyword.
        context: What converts them.
    """

    __slots__ = ("_context", "_elements")

    def __init__(self, elements: dict[str, bytes], context: _Context) -> None:
        self._elements = elements
        self._context = context

    def get(self, keyword: str, /) -> Any:
        """Return the attribute's value, None where it is absent."""
        element = self._elements.get(keyword)
        return None if element is None else self._context.value(keyword, element)

    def once(self, keywords: tuple[str, ...], make: Callable[[Attributes], Made]) -> Made:
        """Return ``make`` of these attributes, made once for all files with the same bytes."""
        made = self._context.made
        key = (make, *map(self._elements.get, keywords))
        found = made.get(key)
        if found is None:
            found = made[key] = make(self)
        return cast("Made", found)


def once(
    dataset: Attributes, keywords: tuple[str, ...], make: Callable[[Attributes], Made]
) -> Made:
    """Make something of some attributes, once for all plain files of a study that share them.

    Args:
        dataset: Where they stand.
        keywords: All that ``make`` looks at.
        make: A pure function, never of None.

    Returns:
        What it made; what it raises is raised every time.
    """
    if isinstance(dataset, PlainAttributes):
        return dataset.once(keywords, make)
    return make(dataset)


@dataclass(frozen=True, slots=True)
class PlainFile:
    """One file that keeps every rule.

    Attributes:
        attributes: The listed attributes but pixel data.
        media_class_uid: Media Storage SOP Class UID as it stands, None where absent.
        transfer_syntax: Transfer Syntax UID.
        pixels: View of the pixel data's value, None without any.
        header_bytes: Where pixel data begins, or the file ends.
    """

    attributes: PlainAttributes
    media_class_uid: Any
    transfer_syntax: str
    pixels: memoryview | None
    header_bytes: int


def read_plain(
    content: memoryview, limits: ReadLimits, conversions: Conversions
) -> PlainFile | None:
    """Read a file that keeps every rule and limit.

    Args:
        content: A Part 10 file.
        limits: What it may hold.
        conversions: Values that files of the same study had.

    Returns:
        None for every other file.
    """
    walk = _Walk(content, limits)
    try:
        media_class, syntax = walk.meta()
        implicit = syntax == ImplicitVRLittleEndian
        (walk.implicit if implicit else walk.explicit)()
        context = conversions.context(
            implicit=implicit,
            character_set=walk.elements.get("SpecificCharacterSet", b""),
            representation=walk.elements.get("PixelRepresentation", b""),
        )
        if media_class is not None:
            bare = conversions.context(implicit=False, character_set=b"", representation=b"")
            media_class = bare.value("MediaStorageSOPClassUID", media_class)
    except Exception:  # what breaks here is the parser's to judge
        return None
    attributes = PlainAttributes(walk.elements, context)
    return PlainFile(attributes, media_class, syntax, walk.pixels, walk.header_bytes)


class _Walk:
    """One walk over a file; keeps the bytes of listed elements, and no others."""

    def __init__(self, content: memoryview, limits: ReadLimits) -> None:
        self._content = content
        self._limits = limits
        self._at = _META_START
        self._count = 0
        self._private: set[int] = set()
        self.elements: dict[str, bytes] = {}
        self.pixels: memoryview | None = None
        self.header_bytes = len(content)

    def meta(self) -> tuple[bytes | None, str]:
        """File meta information (PS3.10 7.1): the SOP class's element, and the transfer syntax."""
        content, at, last = self._content, self._at, 0
        found: dict[int, bytes] = {}
        while True:
            group, element, vr, length = _EXPLICIT(content, at)
            if group != 2:
                break
            tag = group << 16 | element
            head = _HEAD_BYTES[vr]
            if head == 12:
                length = _LONG(content, at + 8)[0]
            end = at + head + length
            _require(last < tag and end <= len(content) and vr not in (b"SQ", b"UN"))
            if tag in (_META_LENGTH, _META_CLASS, _META_SYNTAX):
                found[tag] = bytes(content[at:end])
            at, last = end, tag
        syntax = _UID_ELEMENT.fullmatch(found[_META_SYNTAX])
        _require(found[_META_LENGTH][4:8] == b"UL\4\0" and syntax is not None)
        media_class = found.get(_META_CLASS)
        _require(media_class is None or media_class[4:6] == b"UI")
        name = syntax[1].decode("ascii") if syntax else ""
        _require(name in _SYNTAXES and bytes(content[128:132]) == b"DICM")
        self._at = at
        return media_class, name

    def explicit(self) -> None:
        """The data set in explicit VR little endian (PS3.5 7.1.2)."""
        content, size, at, last = self._content, len(self._content), self._at, 0x2FFFF
        elements, private, listed, heads = self.elements, self._private, _LISTED, _HEAD_BYTES
        longest = min(_LONGEST_BYTES, self._limits.max_text_bytes)
        count = 0
        while at < size:
            group, element, vr, length = _EXPLICIT(content, at)
            tag = group << 16 | element
            _require(tag > last)
            start = at + heads[vr]
            if start - at == 12:
                length = _LONG(content, at + 8)[0]
            end = start + length
            if tag in listed:
                if tag == _PIXEL_DATA:
                    _require(vr in (b"OB", b"OW"))
                    end = self._pixel_data(at, start, length)
                else:
                    _require(length <= longest and end <= size and vr not in (b"SQ", b"UN"))
                    elements[listed[tag]] = bytes(content[at:end])
            elif vr == b"SQ":
                self._at = start
                self._sequence(None if length == _UNDEFINED else end, 1, self._explicit_item)
                end = self._at
            elif length == _UNDEFINED or (vr == b"UN" and tag in _SEQUENCES):
                raise _NotPlain
            if group & 1:
                private.add(group)
            count += 1
            at, last = end, tag
        self._finish(at, last, count)

    def implicit(self) -> None:
        """The data set in implicit VR little endian (PS3.5 7.1.3)."""
        content, size, at, last = self._content, len(self._content), self._at, 0x2FFFF
        longest = min(_LONGEST_BYTES, self._limits.max_text_bytes)
        _require(_IMPLICIT(content, at)[2] <= longest)
        count = 0
        while at < size:
            group, element, length = _IMPLICIT(content, at)
            tag = group << 16 | element
            _require(tag > last)
            start = at + 8
            end = start + length
            if tag in _LISTED:
                if tag == _PIXEL_DATA:
                    _require(length != _UNDEFINED)
                    end = self._pixel_data(at, start, length)
                else:
                    _require(length <= longest and end <= size and tag not in _SEQUENCES)
                    self.elements[_LISTED[tag]] = bytes(content[at:end])
            elif tag in _SEQUENCES:
                self._at = start
                self._sequence(None if length == _UNDEFINED else end, 1, self._implicit_item)
                end = self._at
            elif length == _UNDEFINED:
                raise _NotPlain
            if group & 1:
                self._private.add(group)
            count += 1
            at, last = end, tag
        self._finish(at, last, count)

    def _finish(self, at: int, last: int, count: int) -> None:
        limits = self._limits
        _require(last >> 16 != 0xFFFE and self.elements.keys().isdisjoint(_FOREIGN))
        _require(at == len(self._content) and self._count + count <= limits.max_elements)
        _require(len(self._private) <= limits.max_private_groups)

    def _pixel_data(self, at: int, start: int, length: int) -> int:
        """Notes where the value lies; returns where it ends."""
        self.header_bytes = at
        if length != _UNDEFINED:
            end = start + length
            _require(end <= len(self._content))
            self.pixels = self._content[start:end]
            return end
        end = start
        for _ in range(self._limits.max_fragments + 2):  # an offset table, fragments, the end
            group, element, length = _IMPLICIT(self._content, end)
            if group << 16 | element == _SEQUENCE_END:
                _require(length == 0)
                self.pixels = self._content[start:end]
                return end + 8
            _require(group << 16 | element == _ITEM)
            end += 8 + length
        raise _NotPlain

    def _sequence(self, end: int | None, depth: int, item: _ReadItem) -> None:
        """Items (PS3.5 7.5), up to an end or a delimiter."""
        _require(depth <= self._limits.max_depth and (end or 0) <= len(self._content))
        while end is None or self._at < end:
            group, element, length = _IMPLICIT(self._content, self._at)
            self._at += 8
            tag = group << 16 | element
            if tag == _SEQUENCE_END and end is None:
                _require(length == 0)
                return
            _require(tag == _ITEM)
            item(None if length == _UNDEFINED else self._at + length, depth)
        _require(self._at == end)

    def _explicit_item(self, end: int | None, depth: int) -> None:
        content = self._content
        while end is None or self._at < end:
            at = self._at
            group, element, vr, length = _EXPLICIT(content, at)
            tag = group << 16 | element
            if tag == _ITEM_END and end is None:
                _require(_LONG(content, at + 4)[0] == 0)
                self._at += 8
                return
            head = _HEAD_BYTES[vr]
            if head == 12:
                length = _LONG(content, at + 8)[0]
            self._nested(tag, vr == b"UN")
            self._at += head
            if vr == b"SQ":
                stop = None if length == _UNDEFINED else self._at + length
                self._sequence(stop, depth + 1, self._explicit_item)
            else:
                _require(length != _UNDEFINED)
                self._at += length
        _require(self._at == end)

    def _implicit_item(self, end: int | None, depth: int) -> None:
        while end is None or self._at < end:
            group, element, length = _IMPLICIT(self._content, self._at)
            tag = group << 16 | element
            self._at += 8
            if tag == _ITEM_END and end is None:
                _require(length == 0)
                return
            self._nested(tag, unknown=False)
            if tag in _SEQUENCES:
                stop = None if length == _UNDEFINED else self._at + length
                self._sequence(stop, depth + 1, self._implicit_item)
            else:
                _require(length != _UNDEFINED)
                self._at += length
        _require(self._at == end)

    def _nested(self, tag: int, unknown: bool) -> None:
        """An element of an item: character sets of its own are for the parser."""
        _require(tag >> 16 not in (0xFFFE, 0) and tag != _CHARACTER_SET)
        _require(not (unknown and tag in _SEQUENCES))
        self._count += 1
        _require(self._count <= self._limits.max_elements)
        if tag & 0x10000:
            self._private.add(tag >> 16)


_ReadItem = Callable[[int | None, int], None]


def _require(holds: bool) -> None:
    if not holds:
        raise _NotPlain

"""Breaks DICOM files where it hurts: lengths, nesting, sizes, pixel bits, codestreams, containers.

file ──index of elements──▶ one to four attacks, drawn at random ──▶ file
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from struct import error as struct_error
from struct import pack, pack_into, unpack_from

__all__ = ("mutate_file",)

_LONG_VRS = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR"))
_VRS = (b"SQ", b"UN", b"OB", b"OW", b"US", b"SS", b"IS", b"DS", b"UI", b"LO", b"PN", b"AT", b"FD")
_LENGTHS = (
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
_SHORTS = (
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
_SIZES = (0x00280010, 0x00280011)
_PIXEL_TAGS = (
    *_SIZES,
    0x00280002,  # Samples per Pixel
    0x00280006,  # Planar Configuration
    0x00280100,  # Bits Allocated
    0x00280101,  # Bits Stored
    0x00280102,  # High Bit
    0x00280103,  # Pixel Representation
)
_TEXTS = (
    b"",
    b"0",
    b"-1",
    b"1",
    b"2147483648",
    b"99999999999999999999",
    b"9" * 400,
    b"1e308",
    b"1e400",
    b"nan",
    b"inf\\-inf\\nan",
    b"0\\0\\0\\0\\0\\0",
    b"1\\0\\0\\0\\1\\0",
    b"\\" * 500,
    b"\x00" * 16,
    b"\xff\xfe\xfd",
    b"\x1b$B\x1b(B\x1b$)C",
    b"ISO 2022 IR 87\\ISO_IR 192\\GBK",
    b"MONOCHROME1",
    b"PALETTE COLOR",
    b"../../../etc/passwd",
    b"1." * 40,
    b"1" * 70_000,
)
_SYNTAXES = (
    b"1.2.840.10008.1.2",
    b"1.2.840.10008.1.2.1",
    b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.2",
    b"1.2.840.10008.1.2.5",
    b"1.2.840.10008.1.2.4.50",
    b"1.2.840.10008.1.2.4.51",
    b"1.2.840.10008.1.2.4.57",
    b"1.2.840.10008.1.2.4.70",
    b"1.2.840.10008.1.2.4.80",
    b"1.2.840.10008.1.2.4.90",
    b"1.2.840.10008.1.2.4.100",
    b"1.2.840.10008.1.2.4.201",
    b"1.2.3",
)
_UNDEFINED = 0xFFFFFFFF
_BOMBS = (*(0, 1 << 10, 1 << 16, 1 << 18, 1 << 25) * 5, 1 << 22)
"""Zeros in a deflated file; 4 MiB of them are 500,000 elements, 32 MiB are more than allowed."""
_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_ITEM_END = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
_PIXEL_DATA = b"\xe0\x7f\x10\x00"


@dataclass(frozen=True, slots=True)
class _Element:
    """Where an element of a little-endian file stands."""

    tag: int
    start: int
    length_at: int
    long: bool
    value: int
    end: int


def mutate_file(data: bytes, rng: Random) -> bytes:
    """Return a DICOM file with one to four faults."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        attack = rng.choices(_ATTACKS, _WEIGHTS)[0]
        try:
            data = attack(data, rng)
        except (struct_error, IndexError, ValueError, zlib.error):
            data = _noise(data, rng)
    return data


def _index(data: bytes, limit: int = 2000) -> list[_Element]:
    """The elements of a file, sequences entered; explicit VR by sight, else implicit."""
    found: list[_Element] = []
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
        inside = vr == b"SQ" or length == _UNDEFINED
        end = value if inside else value + length
        found.append(_Element(tag, at, length_at, long, value, end))
        if tag == 0x7FE00010 and length == _UNDEFINED:
            break
        at = end
    return found


def _pick(data: bytes, rng: Random, tags: tuple[int, ...] = ()) -> _Element:
    return rng.choice([one for one in _index(data) if not tags or one.tag in tags])


def _spliced(data: bytes, start: int, end: int, new: bytes) -> bytes:
    return data[:start] + new + data[end:]


def _noise(data: bytes, rng: Random) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 32))):
        if broken:
            broken[rng.randrange(len(broken))] = rng.choice(
                (0, 1, 127, 128, 255, rng.randrange(256))
            )
    return bytes(broken)


def _cut(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data) + 1)]
    one = _pick(data, rng)
    return data[: rng.choice((one.start, one.length_at, one.value, one.end - 1, one.end))]


def _length(data: bytes, rng: Random) -> bytes:
    one = _pick(data, rng)
    broken = bytearray(data)
    near = one.end - one.value + rng.choice((-2, -1, 1, 2, len(data)))
    value = rng.choice((*_LENGTHS, max(0, near)))
    pack_into(
        "<L" if one.long else "<H",
        broken,
        one.length_at,
        value & (_UNDEFINED if one.long else 0xFFFF),
    )
    return bytes(broken)


def _vr(data: bytes, rng: Random) -> bytes:
    one = _pick(data, rng)
    new = rng.choice((*_VRS, b"zz", b"\x00\x00", b"ZZ", b"A\xff"))
    return _spliced(data, one.start + 4, one.start + 6, new)


def _tag(data: bytes, rng: Random) -> bytes:
    one, other = _pick(data, rng), _pick(data, rng)
    tag = rng.choice(
        (other.tag, rng.getrandbits(32), 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010)
    )
    return _spliced(data, one.start, one.start + 4, pack("<HH", tag >> 16, tag & 0xFFFF))


def _element(data: bytes, rng: Random) -> bytes:
    """Drop, repeat or move an element."""
    one, other = _pick(data, rng), _pick(data, rng)
    piece = data[one.start : one.end]
    kind = rng.randrange(3)
    if kind == 0:
        return _spliced(data, one.start, one.end, b"")
    if kind == 1:
        return _spliced(data, one.end, one.end, piece * rng.choice((1, 2, 50)))
    return _spliced(data, other.start, other.start, piece)


def _value(data: bytes, rng: Random) -> bytes:
    """Another text in an element, its length kept right."""
    one = _pick(data, rng)
    text = rng.choice(_TEXTS)
    text += b" " * (len(text) % 2)
    if not one.long:
        text = text[:0xFFFE]
    head = bytearray(data[one.start : one.value])
    pack_into("<L" if one.long else "<H", head, one.length_at - one.start, len(text))
    return _spliced(data, one.start, one.end, bytes(head) + text)


def _pixel_attributes(data: bytes, rng: Random) -> bytes:
    broken = bytearray(data)
    for tag in rng.sample(_PIXEL_TAGS, rng.choice((1, 1, 2, 3))):
        one = _pick(data, rng, (tag,))
        pack_into("<H", broken, one.value, rng.choice((*_SHORTS, rng.getrandbits(16))))
    return bytes(broken)


def _palette(data: bytes, rng: Random) -> bytes:
    """Palette colour with a table of any first index, entries and depth (PS3.3 C.7.6.3.1.5)."""
    one = _pick(data, rng, (0x00280004,))
    end = _pick(data, rng, (0x00280103,)).end
    tables = b""
    for tag in (0x1101, 0x1102, 0x1103):
        values = (rng.choice(_SHORTS), rng.choice(_SHORTS), rng.choice((8, 16, 0, 65535)))
        tables += pack("<HH2sH3H", 0x28, tag, b"US", 6, *values)
    for tag in (0x1201, 0x1202, 0x1203):
        tables += pack("<HH2sHL", 0x28, tag, b"OW", 0, 4) + bytes(4)
    broken = _spliced(data, end, end, tables)
    return _spliced(
        broken, one.start, one.end, pack("<HH2sH", 0x28, 4, b"CS", 14) + b"PALETTE COLOR "
    )


def _modality_table(data: bytes, rng: Random) -> bytes:
    """A Modality LUT Sequence (PS3.3 C.11.1) whose descriptor and data disagree."""
    end = _pick(data, rng, (0x00280103, 0x00281053)).end
    values = (rng.choice(_SHORTS), rng.choice(_SHORTS), rng.choice((8, 12, 16, 0, 65535)))
    table = rng.randbytes(rng.choice((0, 1, 2, 512)))
    inside = pack("<HH2sH3H", 0x28, 0x3002, b"US", 6, *values)
    inside += pack("<HH2sHL", 0x28, 0x3006, b"OW", 0, len(table)) + table
    item = _ITEM + pack("<L", len(inside)) + inside
    return _spliced(data, end, end, pack("<HH2sHL", 0x28, 0x3000, b"SQ", 0, len(item)) + item)


def _frames(data: bytes, rng: Random) -> bytes:
    """Number of Frames; with the sizes, products beyond 32 and 64 bits."""
    text = rng.choice(
        (b"0 ", b"-1", b"2 ", b"16", b"8192", b"65536 ", b"2147483647", b"4294967297", b"1\\2 ")
    )
    new = pack("<HH2sH", 0x28, 8, b"IS", len(text)) + text
    known = [one for one in _index(data) if one.tag == 0x00280008]
    if known:
        return _spliced(data, known[0].start, known[0].end, new)
    at = _pick(data, rng, (0x00280010,)).start
    return _spliced(data, at, at, new)


def _syntax(data: bytes, rng: Random) -> bytes:
    one = _pick(data, rng, (0x00020010,))
    uid = rng.choice(_SYNTAXES)
    uid += b"\x00" * (len(uid) % 2)
    return _spliced(data, one.start, one.end, pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid)


def _nested(data: bytes, rng: Random) -> bytes:
    """Sequences in sequences, of undefined or of defined length, in a known or a private group."""
    depth = rng.choice((1, 5, 15, 16, 17, 100, 1000))
    tag = rng.choice(
        (pack("<HH", 0x5200, 0x9229), pack("<HH", 0x5200, 0x9230), pack("<HH", 0x0029, 0x1010))
    )
    vr = rng.choice((b"SQ", b"UN"))
    if rng.random() < 0.5 or depth > 100:
        body = (tag + vr + b"\0\0\xff\xff\xff\xff" + _ITEM + b"\xff\xff\xff\xff") * depth
        body += (_ITEM_END + _SEQUENCE_END) * rng.choice((depth, depth - 1, 0))
    else:
        body = b""
        for _ in range(depth):
            item = _ITEM + pack("<L", len(body)) + body
            body = tag + vr + b"\0\0" + pack("<L", len(item)) + item
    at = _pick(data, rng).start
    return _spliced(data, at, at, body)


def _private_groups(data: bytes, rng: Random) -> bytes:
    count = rng.choice((1, 300, 1500))
    body = b"".join(pack("<HH2sH", 2 * n + 0x11, 0x10, b"LO", 0) for n in range(count))
    at = _pick(data, rng).start
    return _spliced(data, at, at, body)


def _pixels_at(data: bytes) -> int:
    """Where the pixel data's value begins."""
    at = data.rindex(_PIXEL_DATA)
    return at + 12 if data[at + 4 : at + 6].isalpha() else at + 8


def _codestream(data: bytes, rng: Random) -> bytes:
    """Bytes of the pixel data: markers, tables, sizes and run lengths."""
    at = _pixels_at(data)
    broken = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        broken[rng.randrange(at, min(len(data), at + rng.choice((64, 256, 1 << 20))))] = rng.choice(
            (0, 1, 255, 0x7F, 0x80, rng.randrange(256))
        )
    return bytes(broken)


def _stated_size(data: bytes, rng: Random) -> bytes:
    """The size inside a codestream, and often the header's with it."""
    at = _pixels_at(data)
    broken = bytearray(data)
    sizes = (rng.choice(_SHORTS), rng.choice(_SHORTS))
    if (siz := data.find(b"\xff\x4f\xff\x51", at)) >= 0:
        fields = (*sizes, rng.choice((0, 1)), 0, *rng.choice((sizes, (1, 1), (0, 0))), 0, 0)
        pack_into(">8L", broken, siz + 8, *fields)
        pack_into(">H", broken, siz + 40, rng.choice((1, 1, 0, 3, 16384)))
    else:
        marker = rng.choice([m for m in (0xC0, 0xC1, 0xC3, 0xF7) if bytes((255, m)) in data[at:]])
        place = data.index(bytes((255, marker)), at)
        pack_into(
            ">BHHB",
            broken,
            place + 4,
            rng.choice((8, 12, 16, 2, 0)),
            *sizes,
            rng.choice((1, 1, 3, 0)),
        )
    if rng.random() < 0.7:
        for tag, size in zip(_SIZES, sizes, strict=True):
            pack_into("<H", broken, _pick(data, rng, (tag,)).value, size)
    return bytes(broken)


def _marker(data: bytes, rng: Random) -> bytes:
    """Drops, repeats or renames a segment of a codestream."""
    at = _pixels_at(data)
    places = [i for i in range(at, len(data) - 4) if data[i] == 0xFF and data[i + 1] > 0x4E][:200]
    one = rng.choice(places)
    size = 2 + unpack_from(">H", data, one + 2)[0]
    kind = rng.randrange(4)
    if kind == 0:
        return _spliced(data, one, one + size, b"")
    if kind == 1:
        return _spliced(data, one, one, data[one : one + size] * rng.choice((1, 20)))
    if kind == 2:
        return _spliced(
            data,
            one + 1,
            one + 2,
            bytes((rng.choice((0xC0, 0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xF7, 0xD9)),)),
        )
    return _spliced(data, one + 2, one + 4, pack(">H", rng.choice((0, 1, 2, 3, 65535, size + 1))))


def _fragments(data: bytes, rng: Random) -> bytes:
    """Offset table, lengths and number of fragments of encapsulated pixel data (PS3.5 A.4)."""
    at = _pixels_at(data)
    table = unpack_from("<L", data, at + 4)[0]
    first = at + 8 + table
    size = unpack_from("<L", data, first + 4)[0]
    fragment = data[first : first + 8 + size]
    kind = rng.randrange(6)
    if kind == 0:
        offsets = [
            rng.choice((0, 8, size, 0xFFFFFFF0, rng.getrandbits(32)))
            for _ in range(rng.choice((1, 2, 500)))
        ]
        return _spliced(data, at + 4, first, pack(f"<L{len(offsets)}L", 4 * len(offsets), *offsets))
    if kind == 1:
        return _spliced(
            data,
            first + 4,
            first + 8,
            pack("<L", rng.choice((*_LENGTHS, size + 2, size - 2)) & _UNDEFINED),
        )
    if kind == 2:
        return _spliced(data, first, first, fragment * rng.choice((1, 3, 40)))
    if kind == 3:
        return _spliced(data, first, first, (_ITEM + bytes(4)) * rng.choice((1, 1000, 4000)))
    if kind == 4:
        half = size // 4 * 2
        parts = _ITEM + pack("<L", half) + fragment[8 : 8 + half]
        parts += _ITEM + pack("<L", size - half) + fragment[8 + half :]
        return _spliced(data, first, first + 8 + size, parts)
    count = rng.choice((1, 2, 1000))
    offsets_table = pack("<HH2sHL", 0x7FE0, 1, b"OV", 0, 8 * count) + rng.randbytes(8 * count)
    start = at - 12
    return _spliced(data, start, start, offsets_table)


def _run_lengths(data: bytes, rng: Random) -> bytes:
    """Header and body of an RLE frame (PS3.5 G)."""
    at = _pixels_at(data)
    first = at + 8 + unpack_from("<L", data, at + 4)[0] + 8
    broken = bytearray(data)
    count = rng.choice((0, 1, 2, 3, 15, 16, 0x7FFFFFFF, _UNDEFINED))
    offsets = [rng.choice((0, 63, 64, 65, 66, len(data), 0x7FFFFFFF, _UNDEFINED)) for _ in range(3)]
    pack_into("<4L", broken, first, count, *offsets)
    return bytes(broken)


def _meta(data: bytes, rng: Random) -> bytes:
    """Preamble, mark and group length of the file meta information (PS3.10 7.1)."""
    broken = bytearray(data)
    if rng.random() < 0.3:
        broken[rng.randrange(132)] ^= 255
    else:
        pack_into("<L", broken, 140, rng.choice((*_LENGTHS, len(data), 4)))
    return bytes(broken)


def _deflated(data: bytes, rng: Random) -> bytes:
    """The data set deflated, cut, broken or a bomb of zeros (PS3.5 A.5)."""
    meta_end = 144 + unpack_from("<L", data, 140)[0]
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(data[meta_end:])
    body += packer.compress(bytes(rng.choice(_BOMBS))) + packer.flush()
    syntax = _pick(data, rng, (0x00020010,))
    uid = b"1.2.840.10008.1.2.1.99"
    head = (
        data[: syntax.start]
        + pack("<HH2sH", 2, 0x10, b"UI", len(uid))
        + uid
        + data[syntax.end : meta_end]
    )
    head = head[:140] + pack("<L", len(head) - 144) + head[144:]
    kind = rng.randrange(4)
    if kind == 0:
        body = body[: rng.randrange(len(body))]
    elif kind == 1:
        body = _noise(body, rng)
    return head + body


def _container(data: bytes, rng: Random) -> bytes:
    """What is no DICOM file, but holds one: gzip, zip (also of a false size), text."""
    kind = rng.randrange(4)
    if kind == 0:
        return gzip.compress(data + bytes(rng.choice((0, 1 << 22))))
    if kind == 1:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("1.dcm", data)
        packed = bytearray(stream.getvalue())
        pack_into("<L", packed, 22, rng.choice(_LENGTHS))
        return bytes(packed)
    if kind == 2:
        return bytes(128) + b"DICM" + gzip.compress(data)
    return rng.choice((b"", b"DICM", bytes(132), b"<html>", data[128:], data[132:]))


_WEIGHTED: tuple[tuple[Callable[[bytes, Random], bytes], int], ...] = (
    (_noise, 8),
    (_cut, 4),
    (_length, 8),
    (_vr, 4),
    (_tag, 4),
    (_element, 6),
    (_value, 12),
    (_pixel_attributes, 10),
    (_palette, 2),
    (_modality_table, 4),
    (_frames, 4),
    (_syntax, 3),
    (_nested, 5),
    (_private_groups, 2),
    (_codestream, 12),
    (_stated_size, 6),
    (_marker, 8),
    (_fragments, 8),
    (_run_lengths, 4),
    (_meta, 2),
    (_deflated, 3),
    (_container, 1),
)
_ATTACKS = tuple(attack for attack, _ in _WEIGHTED)
_WEIGHTS = tuple(weight for _, weight in _WEIGHTED)

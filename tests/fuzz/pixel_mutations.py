"""Breaks what says how pixels are stored, and the streams that hold them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from struct import pack, pack_into, unpack_from

from tests.fuzz.elements import ITEM, LENGTHS, SHORTS, UNDEFINED, index_of, pick, spliced

__all__ = ("PIXEL_ATTACKS",)

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
_PIXEL_DATA = b"\xe0\x7f\x10\x00"


def _pixel_attributes(data: bytes, rng: Random) -> bytes:
    broken = bytearray(data)
    for tag in rng.sample(_PIXEL_TAGS, rng.choice((1, 1, 2, 3))):
        one = pick(data, rng, (tag,))
        pack_into("<H", broken, one.value, rng.choice((*SHORTS, rng.getrandbits(16))))
    return bytes(broken)


def _palette(data: bytes, rng: Random) -> bytes:
    """Palette colour with a table of any first index, entries and depth (PS3.3 C.7.6.3.1.5)."""
    one = pick(data, rng, (0x00280004,))
    end = pick(data, rng, (0x00280103,)).end
    tables = b""
    for tag in (0x1101, 0x1102, 0x1103):
        values = (rng.choice(SHORTS), rng.choice(SHORTS), rng.choice((8, 16, 0, 65535)))
        tables += pack("<HH2sH3H", 0x28, tag, b"US", 6, *values)
    for tag in (0x1201, 0x1202, 0x1203):
        tables += pack("<HH2sHL", 0x28, tag, b"OW", 0, 4) + bytes(4)
    broken = spliced(data, end, end, tables)
    return spliced(
        broken, one.start, one.end, pack("<HH2sH", 0x28, 4, b"CS", 14) + b"PALETTE COLOR "
    )


def _modality_table(data: bytes, rng: Random) -> bytes:
    """A Modality LUT Sequence (PS3.3 C.11.1) whose descriptor and data disagree."""
    end = pick(data, rng, (0x00280103, 0x00281053)).end
    values = (rng.choice(SHORTS), rng.choice(SHORTS), rng.choice((8, 12, 16, 0, 65535)))
    table = rng.randbytes(rng.choice((0, 1, 2, 512)))
    inside = pack("<HH2sH3H", 0x28, 0x3002, b"US", 6, *values)
    inside += pack("<HH2sHL", 0x28, 0x3006, b"OW", 0, len(table)) + table
    item = ITEM + pack("<L", len(inside)) + inside
    return spliced(data, end, end, pack("<HH2sHL", 0x28, 0x3000, b"SQ", 0, len(item)) + item)


def _frames(data: bytes, rng: Random) -> bytes:
    """Number of Frames; with the sizes, products beyond 32 and 64 bits."""
    text = rng.choice(
        (b"0 ", b"-1", b"2 ", b"16", b"8192", b"65536 ", b"2147483647", b"4294967297", b"1\\2 ")
    )
    new = pack("<HH2sH", 0x28, 8, b"IS", len(text)) + text
    known = [one for one in index_of(data) if one.tag == 0x00280008]
    if known:
        return spliced(data, known[0].start, known[0].end, new)
    at = pick(data, rng, (0x00280010,)).start
    return spliced(data, at, at, new)


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
    sizes = (rng.choice(SHORTS), rng.choice(SHORTS))
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
            pack_into("<H", broken, pick(data, rng, (tag,)).value, size)
    return bytes(broken)


def _marker(data: bytes, rng: Random) -> bytes:
    """Drops, repeats or renames a segment of a codestream."""
    at = _pixels_at(data)
    places = [i for i in range(at, len(data) - 4) if data[i] == 0xFF and data[i + 1] > 0x4E][:200]
    one = rng.choice(places)
    size = 2 + unpack_from(">H", data, one + 2)[0]
    kind = rng.randrange(4)
    if kind == 0:
        return spliced(data, one, one + size, b"")
    if kind == 1:
        return spliced(data, one, one, data[one : one + size] * rng.choice((1, 20)))
    if kind == 2:
        return spliced(
            data,
            one + 1,
            one + 2,
            bytes((rng.choice((0xC0, 0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xF7, 0xD9)),)),
        )
    return spliced(data, one + 2, one + 4, pack(">H", rng.choice((0, 1, 2, 3, 65535, size + 1))))


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
        return spliced(data, at + 4, first, pack(f"<L{len(offsets)}L", 4 * len(offsets), *offsets))
    if kind == 1:
        return spliced(
            data,
            first + 4,
            first + 8,
            pack("<L", rng.choice((*LENGTHS, size + 2, size - 2)) & UNDEFINED),
        )
    if kind == 2:
        return spliced(data, first, first, fragment * rng.choice((1, 3, 40)))
    if kind == 3:
        return spliced(data, first, first, (ITEM + bytes(4)) * rng.choice((1, 1000, 4000)))
    if kind == 4:
        half = size // 4 * 2
        parts = ITEM + pack("<L", half) + fragment[8 : 8 + half]
        parts += ITEM + pack("<L", size - half) + fragment[8 + half :]
        return spliced(data, first, first + 8 + size, parts)
    count = rng.choice((1, 2, 1000))
    offsets_table = pack("<HH2sHL", 0x7FE0, 1, b"OV", 0, 8 * count) + rng.randbytes(8 * count)
    start = at - 12
    return spliced(data, start, start, offsets_table)


def _run_lengths(data: bytes, rng: Random) -> bytes:
    """Header and body of an RLE frame (PS3.5 G)."""
    at = _pixels_at(data)
    first = at + 8 + unpack_from("<L", data, at + 4)[0] + 8
    broken = bytearray(data)
    count = rng.choice((0, 1, 2, 3, 15, 16, 0x7FFFFFFF, UNDEFINED))
    offsets = [rng.choice((0, 63, 64, 65, 66, len(data), 0x7FFFFFFF, UNDEFINED)) for _ in range(3)]
    pack_into("<4L", broken, first, count, *offsets)
    return bytes(broken)


PIXEL_ATTACKS: dict[Callable[[bytes, Random], bytes], int] = {
    _pixel_attributes: 10,
    _palette: 2,
    _modality_table: 4,
    _frames: 4,
    _codestream: 12,
    _stated_size: 6,
    _marker: 8,
    _fragments: 8,
    _run_lengths: 4,
}
"""Each with how often it is drawn."""

"""Breaks DICOM files where it hurts: lengths, nesting, sizes, pixel bits, codestreams, containers.

file ──index of elements──▶ one to four attacks, drawn at random ──▶ file
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from struct import error as struct_error
from struct import pack, pack_into, unpack_from

from tests.fuzz.elements import ITEM, LENGTHS, UNDEFINED, pick, spliced
from tests.fuzz.pixel_mutations import PIXEL_ATTACKS

__all__ = ("mutate_file",)

_VRS = (b"SQ", b"UN", b"OB", b"OW", b"US", b"SS", b"IS", b"DS", b"UI", b"LO", b"PN", b"AT", b"FD")
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
_BOMBS = (*(0, 1 << 10, 1 << 16, 1 << 18, 1 << 25) * 5, 1 << 22)
"""Zeros in a deflated file; 4 MiB of them are 500,000 elements, 32 MiB are more than allowed."""
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_ITEM_END = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"


def mutate_file(data: bytes, rng: Random) -> bytes:
    """Return a DICOM file with one to four faults."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        attack = rng.choices(tuple(_ATTACKS), _WEIGHTS)[0]
        try:
            data = attack(data, rng)
        except (struct_error, IndexError, ValueError, zlib.error):
            data = _noise(data, rng)
    return data


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
    one = pick(data, rng)
    return data[: rng.choice((one.start, one.length_at, one.value, one.end - 1, one.end))]


def _length(data: bytes, rng: Random) -> bytes:
    one = pick(data, rng)
    broken = bytearray(data)
    near = one.end - one.value + rng.choice((-2, -1, 1, 2, len(data)))
    value = rng.choice((*LENGTHS, max(0, near)))
    pack_into(
        "<L" if one.long else "<H",
        broken,
        one.length_at,
        value & (UNDEFINED if one.long else 0xFFFF),
    )
    return bytes(broken)


def _vr(data: bytes, rng: Random) -> bytes:
    one = pick(data, rng)
    new = rng.choice((*_VRS, b"zz", b"\x00\x00", b"ZZ", b"A\xff"))
    return spliced(data, one.start + 4, one.start + 6, new)


def _tag(data: bytes, rng: Random) -> bytes:
    one, other = pick(data, rng), pick(data, rng)
    tag = rng.choice(
        (other.tag, rng.getrandbits(32), 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010)
    )
    return spliced(data, one.start, one.start + 4, pack("<HH", tag >> 16, tag & 0xFFFF))


def _element(data: bytes, rng: Random) -> bytes:
    """Drop, repeat or move an element."""
    one, other = pick(data, rng), pick(data, rng)
    piece = data[one.start : one.end]
    kind = rng.randrange(3)
    if kind == 0:
        return spliced(data, one.start, one.end, b"")
    if kind == 1:
        return spliced(data, one.end, one.end, piece * rng.choice((1, 2, 50)))
    return spliced(data, other.start, other.start, piece)


def _value(data: bytes, rng: Random) -> bytes:
    """Another text in an element, its length kept right."""
    one = pick(data, rng)
    text = rng.choice(_TEXTS)
    text += b" " * (len(text) % 2)
    if not one.long:
        text = text[:0xFFFE]
    head = bytearray(data[one.start : one.value])
    pack_into("<L" if one.long else "<H", head, one.length_at - one.start, len(text))
    return spliced(data, one.start, one.end, bytes(head) + text)


def _syntax(data: bytes, rng: Random) -> bytes:
    one = pick(data, rng, (0x00020010,))
    uid = rng.choice(_SYNTAXES)
    uid += b"\x00" * (len(uid) % 2)
    return spliced(data, one.start, one.end, pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid)


def _nested(data: bytes, rng: Random) -> bytes:
    """Sequences in sequences, of undefined or of defined length, in a known or a private group."""
    depth = rng.choice((1, 5, 15, 16, 17, 100, 1000))
    tag = rng.choice(
        (pack("<HH", 0x5200, 0x9229), pack("<HH", 0x5200, 0x9230), pack("<HH", 0x0029, 0x1010))
    )
    vr = rng.choice((b"SQ", b"UN"))
    if rng.random() < 0.5 or depth > 100:
        body = (tag + vr + b"\0\0\xff\xff\xff\xff" + ITEM + b"\xff\xff\xff\xff") * depth
        body += (_ITEM_END + _SEQUENCE_END) * rng.choice((depth, depth - 1, 0))
    else:
        body = b""
        for _ in range(depth):
            item = ITEM + pack("<L", len(body)) + body
            body = tag + vr + b"\0\0" + pack("<L", len(item)) + item
    at = pick(data, rng).start
    return spliced(data, at, at, body)


def _private_groups(data: bytes, rng: Random) -> bytes:
    count = rng.choice((1, 300, 1500))
    body = b"".join(pack("<HH2sH", 2 * n + 0x11, 0x10, b"LO", 0) for n in range(count))
    at = pick(data, rng).start
    return spliced(data, at, at, body)


def _meta(data: bytes, rng: Random) -> bytes:
    """Preamble, mark and group length of the file meta information (PS3.10 7.1)."""
    broken = bytearray(data)
    if rng.random() < 0.3:
        broken[rng.randrange(132)] ^= 255
    else:
        pack_into("<L", broken, 140, rng.choice((*LENGTHS, len(data), 4)))
    return bytes(broken)


def _deflated(data: bytes, rng: Random) -> bytes:
    """The data set deflated, cut, broken or a bomb of zeros (PS3.5 A.5)."""
    meta_end = 144 + unpack_from("<L", data, 140)[0]
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(data[meta_end:])
    body += packer.compress(bytes(rng.choice(_BOMBS))) + packer.flush()
    syntax = pick(data, rng, (0x00020010,))
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
        pack_into("<L", packed, 22, rng.choice(LENGTHS))
        return bytes(packed)
    if kind == 2:
        return bytes(128) + b"DICM" + gzip.compress(data)
    return rng.choice((b"", b"DICM", bytes(132), b"<html>", data[128:], data[132:]))


_ATTACKS: dict[Callable[[bytes, Random], bytes], int] = {
    _noise: 8,
    _cut: 4,
    _length: 8,
    _vr: 4,
    _tag: 4,
    _element: 6,
    _value: 12,
    _syntax: 3,
    _nested: 5,
    _private_groups: 2,
    _meta: 2,
    _deflated: 3,
    _container: 1,
    **PIXEL_ATTACKS,
}
_WEIGHTS = tuple(_ATTACKS.values())

"""Reads the size that a compressed frame states for itself, before a decoder gives memory to it.

frame ──JPEG, JPEG-LS: start of frame │ JPEG 2000: image and tile size │ RLE: length──▶ size │ None
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from

__all__ = ("FrameSize", "jpeg2000_size", "jpeg_size", "rle_capacity_bytes")

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_STARTS_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_BOXES_BYTES = 4096
_RLE_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True)
class FrameSize:
    """What a codestream says that it decodes to."""

    rows: int
    columns: int
    samples: int


def jpeg_size(frame: bytes) -> FrameSize | None:
    """The first start of frame of JPEG (ITU-T T.81 B.2.2) or JPEG-LS (T.87 C.2.2).

    Returns:
        None where none comes before the first scan.
    """
    at = frame.find(b"\xff\xd8")
    if at < 0:
        return None
    at += 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _STARTS_OF_FRAME:
            rows, columns, samples = unpack_from(">HHB", frame, at + 5)
            return FrameSize(rows, columns, samples)
        elif marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return None
        else:
            at += 2 + max(2, unpack_from(">H", frame, at + 2)[0])
    return None


def jpeg2000_size(frame: bytes) -> FrameSize | None:
    """Image and tile size of JPEG 2000 (ITU-T T.800 A.5.1), raw or in a JP2 file's boxes.

    Returns:
        None where there is no such segment, or it states no area.
    """
    at = frame.find(b"\xff\x4f\xff\x51", 0, _BOXES_BYTES)
    if at < 0 or at + 42 > len(frame):
        return None
    right, bottom, left, top = unpack_from(">4L", frame, at + 8)
    samples = unpack_from(">H", frame, at + 40)[0]
    if right <= left or bottom <= top:
        return None
    return FrameSize(bottom - top, right - left, samples)


def rle_capacity_bytes(frame: bytes) -> int:
    """The most that an RLE frame can decode to (PS3.5 G.3.1): two bytes make at most 128."""
    return 64 * max(0, len(frame) - _RLE_HEADER_BYTES)

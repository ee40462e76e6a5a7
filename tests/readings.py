"""What the reader made of files, in a form that can be compared field by field."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from unittest import mock

from client.dicom import parsing
from client.dicom.reader import read_study
from client.dicom.series import Series, StudyContent
from client.errors import Rejected
from client.limits import ReadLimits

__all__ = ("assert_same_both_ways", "content_of", "damaged", "reading")

Files = Sequence[tuple[str, bytes]]

_PIECES = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
    *(b"SQ", b"UN", b"OB", b"OW", b"US", b"SS", b"DS", b"IS", b"LO", b"UI", b"CS", b"FD", b"ZZ"),
    *(bytes((letter,)) for letter in b"0123456789\\ .+-eE"),
)


def reading(files: Files, limits: ReadLimits | None = None) -> object:
    """Everything that comes of reading, as plain values."""
    try:
        content = read_study(files, limits or ReadLimits())
    except Rejected as refusal:
        return refusal.code, refusal.reason
    return content_of(content)


def content_of(content: StudyContent) -> object:
    """A study's series and refusals, as plain values."""
    return [_series(series) for series in content.series], content.refusals


def assert_same_both_ways(files: Files, limits: ReadLimits | None = None) -> None:
    """The walk over plain files and the parser make the same of a study."""
    found = reading(files, limits)
    with mock.patch.object(parsing, "read_plain", return_value=None):
        assert reading(files, limits) == found


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file with one to three bytes, lengths, tags or VRs changed, most of them in its header."""
    broken = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        end = len(broken) if draw.random() < 0.1 else min(len(broken), 2500)
        at = draw.randrange(128, end) if end > 128 else 0
        match draw.randrange(6):
            case 0:
                broken[at : at + 1] = draw.randbytes(1)
            case 1:
                del broken[at : at + draw.choice((1, 2, 8, 50))]
            case 2:
                broken[at:at] = draw.randbytes(draw.choice((1, 2, 8)))
            case 3:
                piece = draw.choice(_PIECES)
                broken[at : at + len(piece)] = piece
            case 4:
                broken[at:at] = broken[at - 60 : at - 60 + draw.choice((8, 20, 60))]
            case _ if draw.random() < 0.3:
                del broken[at:]
    return bytes(broken)


def _series(series: Series) -> tuple[Any, ...]:
    header = [(e.tag, e.VR, type(e.value), repr(e.value)) for e in series.header]
    fields = {name: repr(found) for name, found in vars(series).items() if name != "header"}
    stored = (series.stored.dtype.str, series.stored.shape, series.stored.tobytes())
    return header, fields, stored

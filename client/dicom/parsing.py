"""Turns the bytes of one untrusted file into an instance with only the attributes we use.

bytes ──plain?──▶ one walk ─────────────────────────────────────────────▶ Instance
  └──limits──▶ file meta ──inflate if deflated──▶ structure ──▶ parser ──▶ Instance
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, config, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from client.dicom.attributes import Attributes, invalid, text, value
from client.dicom.headers import ALL_TAGS, header_of
from client.dicom.plain import Conversions, PlainAttributes, PlainFile, read_plain
from client.dicom.structure import Encoding, check_structure
from client.errors import RefusalCode, Rejected
from client.limits import ReadLimits

__all__ = ("Buffer", "Inflation", "Instance", "parse_instance")

Buffer = bytes | bytearray | memoryview

MEDIA_DIRECTORY_UID = "1.2.840.10008.1.3.10"
_PIECE_BYTES = 64 * 1024
_UID = re.compile(r"[0-9.]*")


class Inflation:
    """How much the deflated files of one study may grow, all of them together."""

    def __init__(self, limits: ReadLimits) -> None:
        self._factor = limits.max_expansion
        self._left = limits.free_expansion_bytes

    def room(self, deflated_bytes: int) -> int:
        """Bytes that one more file may inflate to."""
        return self._left + self._factor * deflated_bytes

    def take(self, deflated_bytes: int, inflated_bytes: int) -> None:
        """Count a file that was inflated."""
        self._left += self._factor * deflated_bytes - inflated_bytes


@dataclass(frozen=True, eq=False)
class Instance:
    """One parsed file.

    Attributes:
        content: The file, to tell a repeated file from a conflicting one.
        dataset: The listed attributes; with ``file_meta`` and pixel data where the parser made it.
        transfer_syntax: Transfer Syntax UID of the pixel data.
        pixels: The pixel data's value as it came, None without any or if it is not bytes.
        series_uid: Series Instance UID, "" where absent.
        sop_class_uid: SOP Class UID, of the file meta information where the dataset has none.
        sop_instance_uid: SOP Instance UID, "" where absent.
        has_pixels: Whether any kind of pixel data is present and not empty.
        cut_short: Whether the file ends inside its (encapsulated) pixel data.
        header_bytes: How much of the file holds the attributes of its header.
    """

    content: memoryview
    dataset: Dataset | PlainAttributes
    transfer_syntax: str
    pixels: bytes | memoryview | None
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    has_pixels: bool
    cut_short: bool
    header_bytes: int

    @property
    def is_directory(self) -> bool:
        """Whether this is a DICOMDIR."""
        return self.sop_class_uid == MEDIA_DIRECTORY_UID

    @property
    def encoded_bytes(self) -> int:
        """Length of the pixel data as it came, 0 without any."""
        return 0 if self.pixels is None else len(self.pixels)

    def header(self) -> Dataset:
        """The attributes that stay with a series, see ``headers.header_of``."""
        if isinstance(self.dataset, Dataset):
            return header_of(self.dataset)
        return header_of(_parse(bytes(self.content[: self.header_bytes]))[0])


def parse_instance(
    data: Buffer, limits: ReadLimits, inflation: Inflation, conversions: Conversions
) -> Instance:
    """Parses one file.

    Args:
        data: The file; the instance keeps views of it.
        limits: What it may hold.
        inflation: What the study's deflated files may still grow.
        conversions: Values that files of the study had.

    Raises:
        Rejected: ``TOO_LARGE``; ``NOT_DICOM``: not Part 10, no transfer syntax, or the structure
            of the dataset is broken; ``INVALID_ATTRIBUTE``: an identifying attribute is.
    """
    view = memoryview(data).toreadonly()
    if len(view) > limits.max_file_bytes:
        raise _too_large(limits)
    plain = read_plain(view, limits, conversions)
    if plain is not None:
        return _plain_instance(view, plain, limits)
    return _parsed_instance(view, limits, inflation)


def _plain_instance(view: memoryview, plain: PlainFile, limits: ReadLimits) -> Instance:
    media = {"MediaStorageSOPClassUID": plain.media_class_uid}
    meta_class = text(media, "MediaStorageSOPClassUID")
    return Instance(
        content=view,
        dataset=plain.attributes,
        transfer_syntax=plain.transfer_syntax,
        pixels=plain.pixels or None,
        series_uid=_uid(plain.attributes, "SeriesInstanceUID", limits),
        sop_class_uid=_uid(plain.attributes, "SOPClassUID", limits) or meta_class,
        sop_instance_uid=_uid(plain.attributes, "SOPInstanceUID", limits),
        has_pixels=bool(plain.pixels),
        cut_short=False,
        header_bytes=plain.header_bytes,
    )


def _parsed_instance(view: memoryview, limits: ReadLimits, inflation: Inflation) -> Instance:
    try:
        content = _content(bytes(view), limits, inflation)
        dataset, cut_short = _parse(content)
    except Rejected:
        raise
    except Exception as error:  # broken structures raise whatever the parser stumbles over
        raise _not_dicom("its data set can't be parsed") from error
    meta_class = text(dataset.file_meta, "MediaStorageSOPClassUID")
    series_uid = _uid(dataset, "SeriesInstanceUID", limits)
    sop_class_uid = _uid(dataset, "SOPClassUID", limits) or meta_class
    sop_instance_uid = _uid(dataset, "SOPInstanceUID", limits)
    has_pixels = cut_short or any(
        value(dataset, keyword) is not None
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    )
    pixels = value(dataset, "PixelData")  # not before: a first look may find what a second does not
    return Instance(
        content=view,
        dataset=dataset,
        transfer_syntax=str(dataset.file_meta.TransferSyntaxUID),
        pixels=pixels if isinstance(pixels, bytes) else None,
        series_uid=series_uid,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        has_pixels=has_pixels,
        cut_short=cut_short,
        header_bytes=len(content),
    )


def _uid(dataset: Attributes, keyword: str, limits: ReadLimits) -> str:
    found = text(dataset, keyword)
    if len(found) > limits.max_uid_chars or not _UID.fullmatch(found):
        raise invalid(keyword, f"a UID of at most {limits.max_uid_chars} digits and full stops")
    return found


def _content(data: bytes, limits: ReadLimits, inflation: Inflation) -> bytes:
    """The file itself, or, where it is deflated, the same file inflated."""
    if len(data) < 132 or data[128:132] != b"DICM":
        raise _not_dicom("it has no preamble with the DICM mark")
    stream = BytesIO(data)
    read_preamble(stream, force=False)
    meta = FileMetaDataset(read_dataset(stream, False, True, stop_when=_after_meta))
    syntax = text(meta, "TransferSyntaxUID")
    if not syntax:
        raise _not_dicom("its file meta information has no Transfer Syntax UID (0002,0010)")
    if syntax != DeflatedExplicitVRLittleEndian:
        check_structure(data, stream.tell(), _encoding(syntax), limits)
        return data
    inflated = DicomBytesIO()
    inflated.write(data[:132])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    write_file_meta_info(inflated, meta, enforce_standard=False)
    start = inflated.tell()
    inflated.write(_inflate(data[stream.tell() :], limits, inflation))
    content = inflated.getvalue()
    check_structure(content, start, _encoding(ExplicitVRLittleEndian), limits)
    return content


def _encoding(syntax: str) -> Encoding:
    return Encoding(
        implicit=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
    )


def _parse(content: bytes) -> tuple[Dataset, bool]:
    """Parses strictly first, because the lenient parser takes an early end for an empty dataset.

    Lenient is for whole files that break a rule, such as implicit VR declared explicit.
    """
    try:
        with _strict_reading():
            return _dataset(content), False
    except EOFError:
        return _dataset(content, stop_before_pixels=True), True
    except Exception:  # broken rules raise errors of many classes
        return _dataset(content), False


def _dataset(content: bytes, *, stop_before_pixels: bool = False) -> Dataset:
    return dcmread(BytesIO(content), specific_tags=ALL_TAGS, stop_before_pixels=stop_before_pixels)


@contextmanager
def _strict_reading() -> Iterator[None]:
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        yield
    finally:
        config.settings.reading_validation_mode = mode


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _inflate(data: bytes, limits: ReadLimits, inflation: Inflation) -> bytearray:
    """Deflated Explicit VR Little Endian (PS3.5 A.5), never more than the limits.

    The limit on growth holds for every beginning of the file, so that a bomb ends early.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = bytearray()
    for start in range(0, len(data), _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        room = inflation.room(start + len(piece))
        most = min(limits.max_file_bytes, room)
        content += inflater.decompress(piece, most + 1 - len(content))
        if len(content) > limits.max_file_bytes:
            raise _too_large(limits)
        if len(content) > room:
            raise Rejected(
                RefusalCode.TOO_LARGE,
                f"Deflated files were expected to grow at most {limits.max_expansion} times (and "
                f"{limits.free_expansion_bytes} bytes), and these grow more; send them without "
                "deflation (Explicit VR Little Endian).",
            )
    inflation.take(len(data), len(content))
    if not inflater.eof:
        raise _not_dicom("its deflated data set is cut short")
    return content


def _too_large(limits: ReadLimits) -> Rejected:
    return Rejected(
        RefusalCode.TOO_LARGE,
        f"A file was expected to hold at most {limits.max_file_bytes} bytes (inflated, if it is "
        "deflated) and holds more; split the instance or raise the limit.",
    )


def _not_dicom(what: str) -> Rejected:
    return Rejected(
        RefusalCode.NOT_DICOM,
        f"A DICOM Part 10 file was expected, but {what}; leave the file out or export it again.",
    )

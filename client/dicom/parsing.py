"""Turns the bytes of one untrusted file into an instance with only the attributes we use.

bytes ──limits──▶ file meta ──inflate if deflated──▶ listed attributes ──▶ Instance
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from client.dicom.attributes import text, value
from client.dicom.headers import ALL_TAGS
from client.dicom.series import ReadLimits
from client.errors import RefusalCode, Rejected

__all__ = ("Instance", "parse_instance")

MEDIA_DIRECTORY_UID = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, eq=False)
class Instance:
    """One parsed file.

    Attributes:
        dataset: The listed attributes, encoded pixel data included; ``file_meta`` is set.
        digest: Hash of the file, to tell a repeated file from a conflicting one.
        series_uid: Series Instance UID, "" where absent.
        sop_class_uid: SOP Class UID, of the file meta information where the dataset has none.
        sop_instance_uid: SOP Instance UID, "" where absent.
        has_pixels: Whether any kind of pixel data is present and not empty.
    """

    dataset: Dataset
    digest: bytes
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    has_pixels: bool

    @property
    def is_directory(self) -> bool:
        """Whether this is a DICOMDIR."""
        return self.sop_class_uid == MEDIA_DIRECTORY_UID

    @property
    def transfer_syntax(self) -> str:
        """Transfer Syntax UID of the pixel data."""
        return str(self.dataset.file_meta.TransferSyntaxUID)


def parse_instance(data: bytes, limits: ReadLimits) -> Instance:
    """Parses one file.

    Raises:
        Rejected: ``TOO_LARGE``; ``NOT_DICOM``: not Part 10, no transfer syntax, or the structure
            of the dataset is broken; ``INVALID_ATTRIBUTE``: an identifying attribute is.
    """
    if len(data) > limits.max_file_bytes:
        raise _too_large(limits)
    try:
        dataset = _parse(data, limits)
    except Rejected:
        raise
    except Exception as error:  # broken structures raise whatever the parser stumbles over
        raise _not_dicom("its data set can't be parsed") from error
    meta_class = text(dataset.file_meta, "MediaStorageSOPClassUID")
    return Instance(
        dataset=dataset,
        digest=hashlib.blake2b(data, digest_size=32).digest(),
        series_uid=text(dataset, "SeriesInstanceUID"),
        sop_class_uid=text(dataset, "SOPClassUID") or meta_class,
        sop_instance_uid=text(dataset, "SOPInstanceUID"),
        has_pixels=any(
            value(dataset, keyword) is not None
            for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
        ),
    )


def _parse(data: bytes, limits: ReadLimits) -> Dataset:
    stream = BytesIO(data)
    if len(data) < 132 or data[128:132] != b"DICM":
        raise _not_dicom("it has no preamble with the DICM mark")
    read_preamble(stream, force=False)
    meta = read_dataset(stream, False, True, stop_when=_after_meta)
    syntax = text(meta, "TransferSyntaxUID")
    if not syntax:
        raise _not_dicom("its file meta information has no Transfer Syntax UID (0002,0010)")
    if syntax != DeflatedExplicitVRLittleEndian:
        return dcmread(BytesIO(data), specific_tags=ALL_TAGS)
    dataset = read_dataset(
        BytesIO(_inflate(data[stream.tell() :], limits)), False, True, specific_tags=ALL_TAGS
    )
    dataset.file_meta = FileMetaDataset(meta)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _inflate(data: bytes, limits: ReadLimits) -> bytes:
    """Deflated Explicit VR Little Endian (PS3.5 A.5), never more than the limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(data, limits.max_file_bytes)
    if inflater.unconsumed_tail:
        raise _too_large(limits)
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

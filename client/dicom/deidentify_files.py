"""De-identifies the bytes of one Part 10 file.

file ──read──▶ data set ──deidentify──▶ data set ──new preamble and file meta──▶ file
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID

from client.dicom.attributes import text
from client.dicom.deidentify import Profile, deidentify
from client.dicom.quiet import quiet
from client.errors import RefusalCode, Rejected

__all__ = ("DeidentifiedFile", "deidentify_file")


@dataclass(frozen=True, slots=True)
class DeidentifiedFile:
    """A file under its new identity.

    Attributes:
        sop_instance_uid: The new SOP Instance UID, fit for a file's name.
        content: The Part 10 file.
    """

    sop_instance_uid: str
    content: bytes


def deidentify_file(content: bytes, profile: Profile) -> DeidentifiedFile:
    """Return a file of the same transfer syntax that no longer says who the patient is.

    Preamble and file meta information are made anew: both may hold anything (PS3.10, 7.1).

    Raises:
        Rejected: ``NOT_DICOM``: the file is not readable as one; what ``deidentify`` refuses.
    """
    with quiet():
        original, syntax = _read(content)
        try:
            result = deidentify(original, profile)
        except RecursionError as error:
            raise _unreadable("its sequences are nested too deep") from error
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(text(result, "SOPClassUID"))
        meta.MediaStorageSOPInstanceUID = UID(text(result, "SOPInstanceUID"))
        meta.TransferSyntaxUID = syntax
        meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
        result.file_meta = meta
        stream = BytesIO()
        try:
            result.save_as(stream, enforce_file_format=True)
        except Exception as error:  # what was read by force may not be writable by the rules
            raise _unreadable("its data set breaks the rules of its transfer syntax") from error
    return DeidentifiedFile(str(meta.MediaStorageSOPInstanceUID), stream.getvalue())


def _read(content: bytes) -> tuple[Dataset, UID]:
    try:
        dataset = dcmread(BytesIO(content))
        syntax = dataset.file_meta.get("TransferSyntaxUID")
    except InvalidDicomError as error:
        raise _unreadable("it has no DICM prefix") from error
    except Exception as error:  # broken files raise errors of many classes
        raise _unreadable("its elements cannot be told apart") from error
    if not syntax:
        raise _unreadable("it has no Transfer Syntax UID (0002,0010)")
    return dataset, UID(syntax)


def _unreadable(what: str) -> Rejected:
    return Rejected(
        RefusalCode.NOT_DICOM,
        f"A DICOM Part 10 file was expected, but {what}; leave the file out or export it again.",
    )

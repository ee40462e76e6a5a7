"""Reads who a study is of, from the headers alone, before it is encrypted.

    files ──first elements of each──▶ one patient ──▶ pseudonym, label │ ConfigurationError

It runs on the sender's machine. Nothing it reads goes into an error, a log or a warning.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from client.crypto.labels import StudyLabel
from client.errors import ConfigurationError

__all__ = ("StudyPatient", "patient_of")

_TAGS = [Tag(keyword) for keyword in ("StudyDate", "PatientName", "PatientID", "IssuerOfPatientID")]
_LAST = max(_TAGS)
_UNDECODABLE = "\ufffd"
_PADDING = " \0"
_QUIETLY = threading.Lock()
"""Warnings are silenced for the whole process, so one thread at a time may do it."""


@dataclass(frozen=True, slots=True)
class StudyPatient:
    """Whom all files of a study are of; blank where the files do not say.

    Attributes:
        patient_id: Patient ID (0010,0020).
        issuer: Issuer of Patient ID (0010,0021).
        name: Patient's Name (0010,0010), the alphabetic group.
        study_date: Study Date (0008,0020).
    """

    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    study_date: str = ""

    @property
    def label(self) -> StudyLabel:
        """What a person knows the study by."""
        return StudyLabel(self.name, self.patient_id, self.study_date)

    def __repr__(self) -> str:
        """Say nothing: a repr may end up in a log or a traceback."""
        return "StudyPatient(…)"


def patient_of(files: Iterable[Path | bytes]) -> StudyPatient:
    """Return the one patient that the files of a study name.

    A file that is not readable DICOM, or has no Patient ID, says nothing: whether it can be
    processed is the worker's to tell. An id that is no text in its declared character set counts
    as none, as different ids could look the same.

    Args:
        files: DICOM Part 10 files, as paths or content.

    Raises:
        ConfigurationError: The files name more than one patient.
    """
    found = StudyPatient()
    with _QUIETLY, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, file in enumerate(files, start=1):
            named = _read(file)
            if not found.patient_id:
                found = named if named.patient_id or not found.name else found
            elif named.patient_id and _identity(named) != _identity(found):
                raise ConfigurationError(
                    f"Expected the files of one patient, but file {number} names another Patient "
                    "ID (0010,0020) or Issuer of Patient ID (0010,0021) than those before it: "
                    "send each patient's study by a submission of its own."
                )
    return found


def _identity(patient: StudyPatient) -> tuple[str, str]:
    return patient.issuer, patient.patient_id


def _read(file: Path | bytes) -> StudyPatient:
    try:
        with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as handle:
            header = _header(handle)
            return StudyPatient(
                patient_id=_text(header, "PatientID"),
                issuer=_text(header, "IssuerOfPatientID"),
                name=_text(header, "PatientName").partition("=")[0],
                study_date=_text(header, "StudyDate"),
            )
    except Exception:  # broken files raise whatever the parser stumbles over
        return StudyPatient()


def _header(handle: BinaryIO) -> Dataset:
    return read_partial(handle, stop_when=_is_after, specific_tags=list(_TAGS))


def _is_after(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > _LAST)


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if value is None:
        return ""
    parts = value if isinstance(value, MultiValue) else [value]
    text = "\\".join(map(str, parts)).strip(_PADDING)
    return "" if _UNDECODABLE in text else text

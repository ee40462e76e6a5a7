"""What to call a study on a screen: readable by the sender alone, carried by everyone else.

    name, id, date ──pad, HPKE to the sender's own key──▶ header, ledger, JobStatus ──▶ name

A sealed label is 16 bytes of key id and an HPKE ciphertext; every one has the same length, so that
its length says nothing about a name. docs/protocol.md, "Labels".
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from client.crypto.keyring import Keyring, PublicKey
from client.crypto.pseudonyms import PseudonymKey
from client.errors import NotFound, Rejected

__all__ = ("StudyLabel", "open_label", "seal_label")

_MOST_CHARACTERS = 64
"""Longest Patient ID (LO), and longest component group of a name (PN): PS3.5, 6.2."""
_DATE_CHARACTERS = 8
_PLAINTEXT_BYTES = 640
_KEY_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class StudyLabel:
    """What a person knows a study by. Patient data: show it, never log it.

    Attributes:
        name: Patient's Name (0010,0010), the alphabetic group.
        patient_id: Patient ID (0010,0020).
        study_date: Study Date (0008,0020), YYYYMMDD.
    """

    name: str = ""
    patient_id: str = ""
    study_date: str = ""

    def __repr__(self) -> str:
        """Say nothing: a repr may end up in a log or a traceback."""
        return "StudyLabel(…)"


def seal_label(label: StudyLabel, key: PublicKey, secret: PseudonymKey, upload_id: str) -> bytes:
    """Encrypt a label for the sender itself.

    Args:
        label: Fields longer than DICOM allows are cut.
        key: The sender's own result key.
        secret: The sender's pseudonym key.
        upload_id: The upload it belongs to: a label moved to another one does not open.
    """
    values = [
        _printable(label.name),
        _printable(label.patient_id),
        _printable(label.study_date, _DATE_CHARACTERS),
    ]
    plain = json.dumps(values, ensure_ascii=False).encode()
    wrapped = key.wrap(plain.ljust(_PLAINTEXT_BYTES), secret.label_binding(upload_id))
    return bytes.fromhex(key.key_id) + wrapped


def open_label(
    sealed: bytes, keyring: Keyring, secret: PseudonymKey, upload_id: str
) -> StudyLabel | None:
    """Decrypt a label; None where there is none, or it is not ours to read.

    It is for display only: a label that was tampered with is no label.
    """
    try:
        plain = keyring.unwrap(
            sealed[:_KEY_ID_BYTES].hex(), sealed[_KEY_ID_BYTES:], secret.label_binding(upload_id)
        )
    except (NotFound, Rejected):
        return None
    name, patient_id, study_date = json.loads(plain)
    return StudyLabel(name, patient_id, study_date)


def _printable(value: str, most: int = _MOST_CHARACTERS) -> str:
    return "".join(c for c in value if c.isprintable())[:most]

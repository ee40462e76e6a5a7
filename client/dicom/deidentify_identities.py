"""Stands in for identities: the same UID or patient always gets the same name under one key.

    original UID ──HMAC-SHA256, key of the tenant──▶ 2.25.<UUID>     patient ──▶ pseudonym, days

Nobody without the key can go back or test a guess. A name made here carries a seal, so that a file
that is de-identified again with the same key keeps its names.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass, field

from pydicom.config import IGNORE
from pydicom.uid import UID

from client.crypto.binding import encode_fields

__all__ = ("Identities",)

_PURPOSE = "hounsfield/de-identification/v1"
_PATIENT_PREFIX = "HF"
_BODY_BITS, _SEAL_BITS = 74, 48
_MAX_SHIFT_DAYS = 3652


@dataclass(frozen=True, slots=True)
class Identities:
    """Names under one tenant's secret."""

    secret: bytes = field(repr=False)

    def uid(self, original: str) -> str:
        """Return the UID that stands for another one; UIDs that DICOM registered stay.

        It is a version 8 UUID (RFC 9562, 5.8) under 2.25 (PS3.5, B.2): 74 bits of the keyed hash,
        so that of 10^9 UIDs no two fall together (probability < 10^-4), and 48 bits of seal.
        """
        original = original.strip(" \0")
        if UID(original, IGNORE).name != original or self._is_ours(original):
            return original
        return _as_uid(self._sealed("uid", original))

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """Return the pseudonym that stands for a patient's id, "" where there is none."""
        patient_id = patient_id.strip(" \0")
        if not patient_id or self._is_ours(patient_id):
            return patient_id
        number = self._sealed("patient", issuer.strip(" \0"), patient_id)
        return f"{_PATIENT_PREFIX}{number:032X}"

    def days(self, subject: str, issuer: str = "") -> int:
        """Return by how many days a subject's dates move into the past: 1 to 3652, 0 if they have.

        Args:
            subject: Patient ID, or a UID where there is no id.
            issuer: Issuer of Patient ID.
        """
        subject = subject.strip(" \0")
        if self._is_ours(subject):
            return 0
        return 1 + int.from_bytes(self._mac("days", issuer.strip(" \0"), subject)) % _MAX_SHIFT_DAYS

    def _sealed(self, *fields: str) -> int:
        body = int.from_bytes(self._mac(*fields)) >> (256 - _BODY_BITS)
        return body << _SEAL_BITS | self._seal(body)

    def _seal(self, body: int) -> int:
        return int.from_bytes(self._mac("seal", str(body))) >> (256 - _SEAL_BITS)

    def _is_ours(self, name: str) -> bool:
        number = _number_of(name)
        if number is None:
            return False
        body, seal = number >> _SEAL_BITS, number & ((1 << _SEAL_BITS) - 1)
        return self._seal(body) == seal

    def _mac(self, *fields: str) -> bytes:
        return hmac.digest(self.secret, encode_fields(_PURPOSE, *fields), hashlib.sha256)


def _as_uid(number: int) -> str:
    """Lay 122 bits around a UUID's version and variant."""
    high, middle, low = number >> 74, number >> 62 & 0xFFF, number & ((1 << 62) - 1)
    return f"2.25.{high << 80 | 8 << 76 | middle << 64 | 2 << 62 | low}"


def _number_of(name: str) -> int | None:
    """The 122 bits of a name that may be ours, None if it has another form."""
    prefix, _, digits = name.rpartition(".")
    if prefix == "2.25" and digits.isascii() and digits.isdecimal() and len(digits) < 40:
        value = int(digits)
        if value >> 128 or uuid.UUID(int=value).version != 8:
            return None
        return value >> 80 << 74 | (value >> 64 & 0xFFF) << 62 | value & ((1 << 62) - 1)
    digits = name.removeprefix(_PATIENT_PREFIX)
    if len(name) == 34 and len(digits) == 32 and set(digits) <= set("0123456789ABCDEF"):
        return int(digits, 16)
    return None

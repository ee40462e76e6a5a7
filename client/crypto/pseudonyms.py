"""Names a patient so that only the sender can tell who it is: a keyed hash of issuer and id.

    issuer, id ──HMAC-SHA256, the sender's key──▶ pseudonym ──▶ header ──▶ ledger, vault

The key never leaves the sender's side. Who has pseudonyms only, the gateway and everyone who
steals its database included, can neither read nor guess ids from them; who has the key can find
and erase a patient's studies. docs/protocol.md, "Pseudonyms".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from client.crypto.binding import encode_fields
from client.crypto.privatefiles import read_private, write_private
from client.errors import ConfigurationError

__all__ = ("PseudonymKey",)

_KEY_BYTES = 32
_PATIENT = "hounsfield/patient/v1"
_LABEL = "hounsfield/label/v1"
_PADDING = " \0"
"""What may surround an LO value without being part of it (PS3.5, 6.2), and NUL, which writers pad
with against the rule."""


@dataclass(frozen=True, slots=True)
class PseudonymKey:
    """One sender's key; every machine that sends for the same tenant needs the same one."""

    secret: bytes = field(repr=False)

    @classmethod
    def create(cls, path: Path) -> PseudonymKey:
        """Make a new key and keep it in a file that only its owner may read."""
        key = cls(secrets.token_bytes(_KEY_BYTES))
        write_private(path, key.secret)
        return key

    @classmethod
    def load(cls, path: Path) -> PseudonymKey:
        """Read a key.

        Raises:
            ConfigurationError: It is missing, open to others, or not 32 bytes long.
        """
        secret = read_private(path)
        if len(secret) != _KEY_BYTES:
            raise ConfigurationError(
                f"{path}: expected {_KEY_BYTES} bytes, got {len(secret)}. Put the right file back: "
                "with another key, patients sent before can no longer be found or erased by id."
            )
        return cls(secret)

    def pseudonym(self, patient_id: str, issuer: str = "") -> str:
        """Return a patient's pseudonym: 64 hexadecimal digits, or "" where there is no id.

        Args:
            patient_id: Patient ID (0010,0020); padding does not count, case does.
            issuer: Issuer of Patient ID (0010,0021), "" where there is none.
        """
        patient_id, issuer = patient_id.strip(_PADDING), issuer.strip(_PADDING)
        if not patient_id:
            return ""
        return self._mac(_PATIENT, issuer, patient_id).hex()

    def label_binding(self, upload_id: str) -> bytes:
        """Return what the label of an upload is bound to.

        It is secret, so that the gateway, which knows the public key that labels are sealed for,
        cannot make a label of its own and show a study under another patient's name.
        """
        return self._mac(_LABEL, upload_id)

    def _mac(self, *fields: str) -> bytes:
        return hmac.digest(self.secret, encode_fields(*fields), hashlib.sha256)

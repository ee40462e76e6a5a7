"""The associated data of an envelope: one unambiguous byte string from the ids of a header.

Each field is preceded by its length in four bytes, big-endian; whole numbers are eight bytes,
big-endian; text is UTF-8. docs/protocol.md holds a worked example.
"""

from __future__ import annotations

import hashlib

from client.proto import ingest_pb2

__all__ = ("encode_fields", "result_binding", "rewrap_binding", "study_binding")

_STUDY = b"hounsfield/study/v1"
_RESULT = b"hounsfield/result/v1"
_REWRAP = b"hounsfield/rewrap/v1"


def encode_fields(*fields: str | int | bytes) -> bytes:
    """Return the fields, each preceded by its length; no two lists of one shape share a result."""
    encoded = b""
    for field in fields:
        raw = _field_bytes(field)
        encoded += len(raw).to_bytes(4, "big") + raw
    return encoded


def _field_bytes(field: str | int | bytes) -> bytes:
    if isinstance(field, bytes):
        return field
    if isinstance(field, int):
        return field.to_bytes(8, "big")
    return field.encode()


def study_binding(header: ingest_pb2.StudyHeader) -> bytes:
    """Return what a study's data key and ciphertext are bound to.

    Priority is left out, so that it may be raised later; the recipient's key is bound by its hash,
    so that nobody on the way can have the result encrypted for another key; the pseudonym is bound
    so that nobody can put a study under another patient, out of the reach of an erasure.
    """
    return encode_fields(
        _STUDY,
        header.tenant,
        header.upload_id,
        header.model,
        header.key_id,
        header.plaintext_bytes,
        header.plaintext_sha256,
        header.recipient_key_id,
        hashlib.sha256(header.recipient_public_keyset).digest(),
        header.patient_pseudonym,
    )


def rewrap_binding(header: ingest_pb2.StudyHeader, key_id: str) -> bytes:
    """Return what a study's data key is bound to when it is wrapped anew for another key."""
    return encode_fields(_REWRAP, key_id, study_binding(header))


def result_binding(header: ingest_pb2.ResultHeader) -> bytes:
    """Return what a result's data key and ciphertext are bound to."""
    return encode_fields(
        _RESULT,
        header.tenant,
        header.job_id,
        header.upload_id,
        header.recipient_key_id,
        header.plaintext_bytes,
        header.plaintext_sha256,
    )

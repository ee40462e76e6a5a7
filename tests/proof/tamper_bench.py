"""What the tamper set works on: keys of two workers and two senders, and what they sealed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from client.crypto.binding import result_binding, study_binding
from client.crypto.digest import Digest
from client.crypto.keyring import Keyring
from client.crypto.studies import SealedStudy, open_result, open_study, seal_result, seal_study
from tests.gateways import TENANT
from tests.proof.tampering import Envelope

__all__ = ("MAX_BYTES", "TamperBench", "stream")

MAX_BYTES = 1 << 26
_JOB = "99999999-8888-4777-8666-555555555555"


class TamperBench:
    """Keys of two workers and two senders, and what they sealed."""

    def __init__(self, folder: Path) -> None:
        self.worker, self.sender = Keyring(folder / "worker"), Keyring(folder / "sender")
        self.second_key, self.first_key = self.worker.create(), self.worker.create()
        self.own_key, self.other_own_key = self.sender.create(), self.sender.create()

    def study(self, length: int, **changes: Any) -> SealedStudy:
        """Seal a study of so many bytes."""
        plaintext = [bytes(length)]
        return seal_study(
            lambda: plaintext,
            Digest.of(plaintext),
            **{
                "tenant": TENANT,
                "upload_id": str(uuid.uuid4()),
                "recipient": self.first_key,
                "result_key": self.own_key,
                "model": "brain_mr",
                "patient_pseudonym": "a" * 64,
                **changes,
            },
        )

    def study_envelope(self, length: int) -> Envelope:
        """Return a sealed study."""
        study, other = self.study(length), self.study(length, tenant="cardiology")
        header = study.header
        foreign: dict[str, tuple[Any, ...]] = {
            "version": (0, 2),
            "tenant": ("cardiology", ""),
            "upload_id": (other.header.upload_id,),
            "model": ("", "chest_ct"),
            "key_id": (self.second_key.key_id, self.own_key.key_id),
            "wrapped_dek": (other.header.wrapped_dek,),
            "plaintext_bytes": (length - 1, length + 1, 0),
            "plaintext_sha256": (bytes(32), other.header.plaintext_sha256[::-1]),
            "ciphertext_bytes": (header.ciphertext_bytes - 1, header.ciphertext_bytes + 1),
            "recipient_key_id": (self.other_own_key.key_id,),
            "recipient_public_keyset": (self.other_own_key.keyset,),
            "patient_pseudonym": ("b" * 64, ""),
        }

        async def open_(tampered: Any, ciphertext: bytes) -> object:
            return await open_study(tampered, stream(ciphertext), self.worker, max_bytes=MAX_BYTES)

        def bound(message: Any) -> object:
            lengths = (message.version, message.ciphertext_bytes)
            return (*lengths, message.wrapped_dek, study_binding(message))

        one, two = b"".join(study.chunks()), b"".join(study.chunks())
        return Envelope(header, one, bound, open_, two, b"".join(other.chunks()), foreign)

    def result_envelope(self, length: int) -> Envelope:
        """Return a sealed result."""
        study, plaintext = self.study(10).header, [bytes(length)]
        sealed = seal_result(study, _JOB, plaintext, Digest.of(plaintext))
        other = seal_result(study, str(uuid.uuid4()), plaintext, Digest.of(plaintext))
        foreign: dict[str, tuple[Any, ...]] = {
            "version": (0, 2),
            "tenant": ("cardiology",),
            "job_id": (other.header.job_id,),
            "upload_id": (str(uuid.uuid4()),),
            "recipient_key_id": (self.other_own_key.key_id,),
            "wrapped_dek": (other.header.wrapped_dek,),
            "plaintext_bytes": (length - 1, length + 1),
            "plaintext_sha256": (bytes(32),),
        }

        async def open_(tampered: Any, ciphertext: bytes) -> object:
            return await open_result(tampered, stream(ciphertext), self.sender, max_bytes=MAX_BYTES)

        def bound(message: Any) -> object:
            lengths = (message.version, message.ciphertext_bytes)
            return (*lengths, message.wrapped_dek, result_binding(message))

        one, two = b"".join(sealed.chunks), b"".join(other.chunks)
        return Envelope(sealed.header, one, bound, open_, two, two, foreign)


async def stream(content: bytes) -> AsyncIterator[bytes]:
    """Yield it as one piece."""
    yield content

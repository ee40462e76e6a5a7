"""Turns a study's files into what goes over the wire.

files ──headers──▶ one patient ──▶ pseudonym, label ─┐
└────bundle, digest────────────────────────────────┴──▶ sealed study ──▶ requests
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from client.crypto.bridge import in_thread
from client.crypto.keyring import PublicKey
from client.crypto.labels import seal_label
from client.crypto.pseudonyms import PseudonymKey
from client.crypto.studies import SealedStudy, seal_study
from client.ingest.bundle import study_bundle
from client.jobs import Priority
from client.proto import ingest_pb2

__all__ = ("Progress", "StudyKeys", "StudyOrder", "prepare_study", "study_requests")

Progress = Callable[[int, int], None]
"""Called with bytes sent and bytes in all; goes back to 0 when an upload starts anew."""


@dataclass(frozen=True, slots=True)
class StudyKeys:
    """Every key that sealing a study needs.

    Attributes:
        recipient: The worker's public key.
        result_key: The sender's public key, for the result and the label.
        pseudonyms: The sender's key for naming patients.
    """

    recipient: PublicKey
    result_key: PublicKey
    pseudonyms: PseudonymKey


@dataclass(frozen=True, slots=True)
class StudyOrder:
    """What is to be done with a study; see ``IngestClient.submit``."""

    model: str
    priority: Priority
    upload_id: str
    process_again: bool


def prepare_study(
    files: Sequence[Path | bytes], tenant: str, keys: StudyKeys, order: StudyOrder
) -> SealedStudy:
    """Read a study's files once, and make ready to encrypt them as they are read again.

    Raises:
        ConfigurationError: A file cannot be read, or the files are of several patients.
        Rejected: BAD_ENVELOPE; the recipient's key is not what its id says.
    """
    # A DICOM library takes its time to import; commands that send nothing do not wait for it.
    from client.ingest.patients import patient_of

    bundle = study_bundle(files)
    with ThreadPoolExecutor(1, "digest") as hashing:
        # Hashing leaves the interpreter to others, so headers are read meanwhile.
        digest = hashing.submit(bundle.digest)
        patient = patient_of(files)
    return seal_study(
        bundle.chunks,
        digest.result(),
        tenant=tenant,
        upload_id=order.upload_id,
        recipient=keys.recipient,
        result_key=keys.result_key,
        model=order.model,
        priority=order.priority,
        patient_pseudonym=keys.pseudonyms.pseudonym(patient.patient_id, patient.issuer),
        sealed_label=seal_label(patient.label, keys.result_key, keys.pseudonyms, order.upload_id),
        process_again=order.process_again,
    )


async def study_requests(
    study: SealedStudy, on_progress: Progress | None
) -> AsyncGenerator[ingest_pb2.SubmitStudyRequest, None]:
    """Yield the header, then the ciphertext, encrypted anew; one chunk ahead of its reader."""
    yield ingest_pb2.SubmitStudyRequest(header=study.header)
    sent = 0
    async with (
        contextlib.aclosing(in_thread(study.chunks())) as sealing,
        contextlib.aclosing(_one_ahead(sealing)) as chunks,
    ):
        async for chunk in chunks:
            yield ingest_pb2.SubmitStudyRequest(chunk=chunk)
            sent += len(chunk)
            if on_progress is not None:
                on_progress(sent, study.header.ciphertext_bytes)


async def _one_ahead(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what another iterator yields, whose next piece is made while this one is used."""
    following = asyncio.ensure_future(anext(chunks, None))
    try:
        while (chunk := await following) is not None:
            following = asyncio.ensure_future(anext(chunks, None))
            yield chunk
    finally:
        # Whoever closes ``chunks`` after this finds it at rest.
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

"""Seals and opens studies and results as the protocol has them: a header and a ciphertext.

sender: seal_study ──▶ gateway, store (ciphertext only) ──▶ worker: open_study
worker: seal_result ──▶ store, gateway (ciphertext only) ──▶ sender: open_result
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from client.crypto.binding import result_binding, rewrap_binding, study_binding
from client.crypto.bridge import read_in_thread
from client.crypto.digest import Digest
from client.crypto.envelope import DataKey, ciphertext_length
from client.crypto.keyring import Keyring, PublicKey
from client.errors import NotFound, RefusalCode, Rejected, Transient
from client.jobs import Priority
from client.proto import ingest_pb2

__all__ = (
    "PROTOCOL_VERSION",
    "Rewrapped",
    "SealedResult",
    "SealedStudy",
    "open_result",
    "open_study",
    "rewrap_study",
    "seal_result",
    "seal_study",
)

PROTOCOL_VERSION = 1
_UNKNOWN = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class SealedStudy:
    """A study ready to be sent.

    Attributes:
        header: What goes first.
        chunks: Starts the ciphertext anew at each call, so that a broken upload can be repeated.
    """

    header: ingest_pb2.StudyHeader
    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class SealedResult:
    """A result ready to be stored; ``chunks`` can be read once."""

    header: ingest_pb2.ResultHeader
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """A study's data key, wrapped anew for another worker key; the ciphertext stays as it is."""

    key_id: str
    wrapped_dek: bytes


def seal_study(
    plaintext: Callable[[], Iterable[bytes]],
    digest: Digest,
    *,
    tenant: str,
    upload_id: str,
    recipient: PublicKey,
    result_key: PublicKey,
    model: str = "",
    priority: Priority = Priority.ROUTINE,
    patient_pseudonym: str = "",
    sealed_label: bytes = b"",
    process_again: bool = False,
) -> SealedStudy:
    """Encrypt a bundle for a worker.

    Args:
        plaintext: Starts reading the bundle; called once for each try to send it.
        digest: The bundle's length and hash.
        tenant: The sender's tenant, as its certificate says.
        upload_id: Random UUID of this upload, lower case.
        recipient: The worker's public key.
        result_key: The sender's public key, for the result.
        model: Model to use, "" for the worker's routing rules.
        priority: Its place in the queue.
        patient_pseudonym: Whom it is of, as ``PseudonymKey.pseudonym`` says it; "" for nobody.
        sealed_label: What to call it on the sender's screen, as ``seal_label`` made it.
        process_again: Make a new job even if the same content was sent before.

    Raises:
        Rejected: BAD_ENVELOPE; the recipient's key is not what its id says.
    """
    header = ingest_pb2.StudyHeader(
        version=PROTOCOL_VERSION,
        tenant=tenant,
        upload_id=upload_id,
        model=model,
        priority=f"PRIORITY_{priority.name}",
        key_id=recipient.key_id,
        plaintext_bytes=digest.length,
        plaintext_sha256=digest.sha256,
        ciphertext_bytes=ciphertext_length(digest.length),
        recipient_key_id=result_key.key_id,
        recipient_public_keyset=result_key.keyset,
        patient_pseudonym=patient_pseudonym,
        sealed_label=sealed_label,
        process_again=process_again,
    )
    binding = study_binding(header)
    data_key = DataKey.new()
    header.wrapped_dek = data_key.wrap(recipient, binding)
    return SealedStudy(header, lambda: data_key.seal(plaintext(), binding, digest))


async def open_study(
    header: ingest_pb2.StudyHeader,
    ciphertext: AsyncIterator[bytes],
    keyring: Keyring,
    *,
    max_bytes: int,
    rewrapped: Rewrapped | None = None,
    allocate: Callable[[int], bytearray | memoryview] = bytearray,
) -> memoryview:
    """Decrypt a study into memory, in a thread.

    Args:
        header: As the sender sent it.
        ciphertext: As it was stored.
        keyring: The worker's keys.
        max_bytes: Largest plaintext that memory is given to.
        rewrapped: Its data key after a key rotation; None when it is still the header's.
        allocate: Gives the memory that the plaintext goes into.

    Returns:
        The bundle, verified to its last byte.

    Raises:
        Rejected: BAD_ENVELOPE; damaged, broken off or changed on the way. TOO_LARGE; more than
            ``max_bytes``.
        Transient: It is encrypted for a key that this worker lacks; another one may have it.
    """
    _check_lengths(header, max_bytes)
    data_key = _data_key(header, keyring, rewrapped)
    binding = study_binding(header)
    digest = Digest(header.plaintext_bytes, header.plaintext_sha256)
    return await read_in_thread(
        ciphertext, lambda file: data_key.open(file, binding, digest, allocate)
    )


def rewrap_study(
    header: ingest_pb2.StudyHeader,
    keyring: Keyring,
    recipient: PublicKey,
    rewrapped: Rewrapped | None = None,
) -> Rewrapped:
    """Wrap a study's data key for another worker key; header and ciphertext stay as they are.

    Args:
        header: As the sender sent it.
        keyring: Has the key that the study is encrypted for now.
        recipient: The key it shall be encrypted for.
        rewrapped: Its data key after an earlier rotation; None when it is still the header's.

    Raises:
        Rejected: BAD_ENVELOPE; the wrapped key was damaged or exchanged.
        Transient: The keyring lacks the key.
    """
    data_key = _data_key(header, keyring, rewrapped)
    binding = rewrap_binding(header, recipient.key_id)
    return Rewrapped(recipient.key_id, data_key.wrap(recipient, binding))


def _data_key(
    header: ingest_pb2.StudyHeader, keyring: Keyring, rewrapped: Rewrapped | None
) -> DataKey:
    key_id, wrapped, binding = header.key_id, header.wrapped_dek, study_binding(header)
    if rewrapped is not None:
        key_id, wrapped = rewrapped.key_id, rewrapped.wrapped_dek
        binding = rewrap_binding(header, key_id)
    try:
        return DataKey.unwrap(keyring, key_id, wrapped, binding)
    except NotFound as error:
        raise Transient(
            f"The study is encrypted for key {key_id}, which this worker does not have: another "
            "one may have it, or the key has to be put back."
        ) from error


def seal_result(
    study: ingest_pb2.StudyHeader, job_id: str, plaintext: Iterable[bytes], digest: Digest
) -> SealedResult:
    """Encrypt a result bundle for the key that the study's header names.

    Args:
        study: The verified header of the study it belongs to.
        job_id: The job that made it.
        plaintext: The result bundle.
        digest: Its length and hash.

    Raises:
        Rejected: BAD_ENVELOPE; the sender's key is not an HPKE public key or not what its id says.
    """
    header = ingest_pb2.ResultHeader(
        version=PROTOCOL_VERSION,
        tenant=study.tenant,
        job_id=job_id,
        upload_id=study.upload_id,
        recipient_key_id=study.recipient_key_id,
        plaintext_bytes=digest.length,
        plaintext_sha256=digest.sha256,
        ciphertext_bytes=ciphertext_length(digest.length),
    )
    binding = result_binding(header)
    data_key = DataKey.new()
    recipient = PublicKey(study.recipient_key_id, study.recipient_public_keyset, _UNKNOWN)
    header.wrapped_dek = data_key.wrap(recipient, binding)
    return SealedResult(header, data_key.seal(plaintext, binding, digest))


async def open_result(
    header: ingest_pb2.ResultHeader,
    ciphertext: AsyncIterator[bytes],
    keyring: Keyring,
    *,
    max_bytes: int,
) -> memoryview:
    """Decrypt a result into memory, in a thread.

    The caller has compared the header's tenant, job and upload ids with what it asked for.

    Raises:
        NotFound: The keyring lacks the key it was encrypted for.
        Rejected: BAD_ENVELOPE; damaged or changed on the way. TOO_LARGE; more than ``max_bytes``.
    """
    _check_lengths(header, max_bytes)
    binding = result_binding(header)
    data_key = DataKey.unwrap(keyring, header.recipient_key_id, header.wrapped_dek, binding)
    digest = Digest(header.plaintext_bytes, header.plaintext_sha256)
    return await read_in_thread(ciphertext, lambda file: data_key.open(file, binding, digest))


def _check_lengths(
    header: ingest_pb2.StudyHeader | ingest_pb2.ResultHeader, max_bytes: int
) -> None:
    if header.version != PROTOCOL_VERSION:
        raise Rejected(
            RefusalCode.BAD_ENVELOPE,
            f"Expected envelope version {PROTOCOL_VERSION}, got {header.version}: "
            "use a sender of this gateway's version.",
        )
    if header.plaintext_bytes > max_bytes:
        raise Rejected(
            RefusalCode.TOO_LARGE,
            f"Expected a bundle of at most {max_bytes} bytes, got {header.plaintext_bytes}: "
            "send fewer series at a time.",
        )
    expected = ciphertext_length(header.plaintext_bytes)
    if header.ciphertext_bytes != expected:
        raise Rejected(
            RefusalCode.BAD_ENVELOPE,
            f"A bundle of {header.plaintext_bytes} bytes has {expected} bytes of ciphertext; "
            f"the header says {header.ciphertext_bytes}. Encrypt and send again.",
        )

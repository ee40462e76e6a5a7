"""Seals a stream under a key of its own and opens it into memory, all or nothing.

    plaintext ──Tink AES256_GCM_HKDF_1MB──▶ ciphertext        data key ──HPKE──▶ wrapped data key

Tink releases plaintext segment by segment and finalises a stream that is closed by an exception.
So the length and SHA-256 of the plaintext travel in the associated data: nothing is returned
before both agree, and a source that fails or changes yields no final segment.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import tink
from tink import proto_keyset_format, secret_key_access, streaming_aead

from client.crypto.keyring import Keyring, PublicKey
from client.errors import ConfigurationError, RefusalCode, Rejected

__all__ = ("CHUNK_BYTES", "DataKey", "Digest", "ciphertext_length")

CHUNK_BYTES = 512 * 1024
"""Size of the pieces that streams are cut into; measured fastest through gRPC."""
_SEGMENT_BYTES = 1024 * 1024
_TAG_BYTES = 16
_HEADER_BYTES = 40
_STREAMING_TYPE = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
_TEMPLATE = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB

streaming_aead.register()


@dataclass(frozen=True, slots=True)
class Digest:
    """Length in bytes and SHA-256 of a plaintext."""

    length: int
    sha256: bytes

    @classmethod
    def of(cls, chunks: Iterable[bytes]) -> Digest:
        """Read a stream to its end."""
        running, length = hashlib.sha256(), 0
        for chunk in chunks:
            running.update(chunk)
            length += len(chunk)
        return cls(length, running.digest())


def ciphertext_length(plaintext_bytes: int) -> int:
    """Return the exact length of the ciphertext of so many bytes.

    A stream is a 40-byte header, then segments of 1 MiB (the first one shares its MiB with the
    header), each with a 16-byte tag.
    """
    rest = max(0, plaintext_bytes - (_SEGMENT_BYTES - _HEADER_BYTES - _TAG_BYTES))
    segments = 1 + -(-rest // (_SEGMENT_BYTES - _TAG_BYTES))
    return _HEADER_BYTES + plaintext_bytes + segments * _TAG_BYTES


class DataKey:
    """The AES-256 key of one study or one result; used for nothing else.

    Args:
        handle: A Tink keyset with exactly one AES256_GCM_HKDF_1MB key.
    """

    def __init__(self, handle: tink.KeysetHandle) -> None:
        self._handle = handle
        self._primitive = handle.primitive(streaming_aead.StreamingAead)

    @classmethod
    def new(cls) -> DataKey:
        """Make a random key."""
        return cls(tink.new_keyset_handle(_TEMPLATE))

    @classmethod
    def unwrap(cls, keyring: Keyring, key_id: str, wrapped: bytes, binding: bytes) -> DataKey:
        """Recover the key that was wrapped for one of ours.

        Raises:
            NotFound: We have no such key.
            Rejected: BAD_ENVELOPE; damaged, for another key or binding, or of another kind.
        """
        raw = keyring.unwrap(key_id, wrapped, binding)
        try:
            handle = proto_keyset_format.parse(raw, secret_key_access.TOKEN)
            types = [key.type_url for key in handle.keyset_info().key_info]
            if types == [_STREAMING_TYPE]:
                return cls(handle)
        except tink.TinkError as error:
            raise _not_a_data_key() from error
        raise _not_a_data_key()

    def wrap(self, recipient: PublicKey, binding: bytes) -> bytes:
        """Return this key encrypted for a recipient.

        Raises:
            Rejected: BAD_ENVELOPE; the recipient's keyset is not an HPKE public key.
        """
        raw = proto_keyset_format.serialize(self._handle, secret_key_access.TOKEN)
        return recipient.wrap(raw, binding)

    def seal(self, plaintext: Iterable[bytes], binding: bytes, digest: Digest) -> Iterator[bytes]:
        """Yield the ciphertext, in pieces of at most ``CHUNK_BYTES``.

        Raises:
            ConfigurationError: The plaintext is not the one ``digest`` describes (a file changed
                while it was read). The stream then lacks its last segment.
        """
        sink = _Sink()
        stream = self._primitive.new_encrypting_stream(sink, binding)
        running, length = hashlib.sha256(), 0
        for chunk in plaintext:
            for piece in _pieces(chunk):
                running.update(piece)
                length += len(piece)
                stream.write(piece)
                yield from sink.take()
        if (length, running.digest()) != (digest.length, digest.sha256):
            raise ConfigurationError(
                f"The data changed while it was read: expected {digest.length} bytes with the "
                f"announced hash, read {length} bytes. Send it again when nothing writes to it."
            )
        stream.close()
        yield from sink.take()

    def open(
        self, ciphertext: io.RawIOBase | io.BytesIO, binding: bytes, digest: Digest
    ) -> bytearray:
        """Return the plaintext after the whole of it was verified.

        Args:
            ciphertext: Read to its end.
            binding: The associated data it was sealed with.
            digest: What the plaintext must be; its length is trusted with memory, so the caller
                has limited it.

        Raises:
            Rejected: BAD_ENVELOPE; damaged, cut off, lengthened, or sealed otherwise.
        """
        plaintext = bytearray(digest.length)
        try:
            stream = self._primitive.new_decrypting_stream(ciphertext, binding)
            filled = _fill(stream, memoryview(plaintext))
            whole = filled == digest.length and not stream.read(1)
        except tink.TinkError as error:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                "The ciphertext does not decrypt: it was damaged or cut off on the way, or it "
                "belongs to another header. Encrypt and send again.",
            ) from error
        if not whole or hashlib.sha256(plaintext).digest() != digest.sha256:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"The ciphertext does not hold exactly the {digest.length} bytes whose hash was "
                "announced: the upload was broken off. Send it again.",
            )
        return plaintext


def _not_a_data_key() -> Rejected:
    return Rejected(
        RefusalCode.BAD_ENVELOPE,
        "The wrapped key must be a Tink keyset with exactly one AES256_GCM_HKDF_1MB key: use such "
        "a one.",
    )


def _fill(stream: BinaryIO, target: memoryview) -> int:
    filled = 0
    while filled < len(target) and (
        piece := stream.read(min(_SEGMENT_BYTES, len(target) - filled))
    ):
        target[filled : filled + len(piece)] = piece
        filled += len(piece)
    return filled


def _pieces(chunk: bytes) -> Iterator[memoryview]:
    view = memoryview(chunk)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


class _Sink(io.RawIOBase):
    """Collects what Tink writes; Tink closes it, so it lives no longer than one stream."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        self._written += data
        return len(data)

    def take(self) -> Iterator[bytes]:
        written, self._written = self._written, bytearray()
        for start in range(0, len(written), CHUNK_BYTES):
            yield bytes(written[start : start + CHUNK_BYTES])

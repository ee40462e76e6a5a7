"""Seals a stream under a key of its own and opens it into memory, all or nothing.

    plaintext ──AES256_GCM_HKDF_1MB──▶ ciphertext        data key ──HPKE──▶ wrapped data key

A stream is released segment by segment, and a plaintext that ends early still makes a valid one. So
the length and SHA-256 of the plaintext travel in the associated data: nothing is returned before
both agree, and a source that fails or changes yields no final segment.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator

import tink
from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError
from tink import proto_keyset_format, secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from client.crypto.digest import Digest
from client.crypto.keyring import Keyring, PublicKey
from client.crypto.segments import (
    HEADER_BYTES,
    KEY_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    SegmentCipher,
    segment_lengths,
)
from client.errors import ConfigurationError, RefusalCode, Rejected

__all__ = ("CHUNK_BYTES", "DataKey", "ciphertext_length")

CHUNK_BYTES = 512 * 1024
"""Size of the pieces that streams are cut into; measured fastest through gRPC."""
_STREAMING_TYPE = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
_TEMPLATE = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB

streaming_aead.register()


def ciphertext_length(plaintext_bytes: int) -> int:
    """Return the exact length of the ciphertext of so many bytes."""
    return HEADER_BYTES + plaintext_bytes + len(segment_lengths(plaintext_bytes)) * TAG_BYTES


class DataKey:
    """The AES-256 key of one study or one result; used for nothing else.

    Args:
        handle: A Tink keyset with exactly one AES256_GCM_HKDF_1MB key.

    Raises:
        Rejected: BAD_ENVELOPE; it is another kind of keyset.
    """

    def __init__(self, handle: tink.KeysetHandle) -> None:
        self._handle = handle
        self._secret = _secret(handle)

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
            return cls(proto_keyset_format.parse(raw, secret_key_access.TOKEN))
        except tink.TinkError as error:
            raise _not_a_data_key() from error

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
        cipher = SegmentCipher(self._secret, binding)
        lengths = segment_lengths(digest.length)
        source = _Source(plaintext)
        sealed = memoryview(bytearray(SEGMENT_BYTES))
        sealed[:HEADER_BYTES], start = cipher.header, HEADER_BYTES
        for number, length in enumerate(lengths, start=1):
            segment = source.take(length)
            last = number == len(lengths)
            if len(segment) < length or (last and not source.ended_as(digest)):
                raise ConfigurationError(
                    f"The data changed while it was read: expected {digest.length} bytes with the "
                    f"announced hash, read {source.length} bytes. Send it again when nothing "
                    "writes to it."
                )
            end = start + length + TAG_BYTES
            cipher.seal(segment, sealed[start:end], last=last)
            for at in range(0, end, CHUNK_BYTES):
                yield bytes(sealed[at : min(at + CHUNK_BYTES, end)])
            start = 0

    def open(
        self,
        ciphertext: io.RawIOBase | io.BytesIO,
        binding: bytes,
        digest: Digest,
        allocate: Callable[[int], bytearray | memoryview] = bytearray,
    ) -> memoryview:
        """Return the plaintext after the whole of it was verified.

        Args:
            ciphertext: Read to its end.
            binding: The associated data it was sealed with.
            digest: What the plaintext must be; its length is trusted with memory, so the caller
                has limited it.
            allocate: Gives the memory, so many writeable bytes, that the plaintext goes into.

        Raises:
            Rejected: BAD_ENVELOPE; damaged, cut off, lengthened, or sealed otherwise.
        """
        plaintext = memoryview(allocate(digest.length))
        lengths = segment_lengths(digest.length)
        running, start = hashlib.sha256(), 0
        sealed = memoryview(bytearray(min(SEGMENT_BYTES, max(lengths) + TAG_BYTES)))
        try:
            cipher = SegmentCipher(self._secret, binding, _read(ciphertext, HEADER_BYTES))
            for number, length in enumerate(lengths, start=1):
                segment = sealed[: length + TAG_BYTES]
                _fill(ciphertext, segment)
                target = plaintext[start : start + length]
                cipher.open(segment, target, last=number == len(lengths))
                running.update(target)
                start += length
        except (EOFError, InvalidTag, ValueError) as error:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                "The ciphertext does not decrypt: it was damaged or cut off on the way, or it "
                "belongs to another header. Encrypt and send again.",
            ) from error
        if ciphertext.read(1) or running.digest() != digest.sha256:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"The ciphertext does not hold exactly the {digest.length} bytes whose hash was "
                "announced: the upload was broken off. Send it again.",
            )
        return plaintext


class _Source:
    """A plaintext, taken in other pieces than it came in, and hashed on the way."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._sha256 = hashlib.sha256()
        self.length = 0
        """Bytes taken so far."""

    def take(self, length: int) -> memoryview:
        """Return the next so many bytes, fewer only where the plaintext ends."""
        piece = self._rest[:length]
        if len(piece) < length:
            piece = self._gathered(length)
        else:
            self._rest = self._rest[length:]
        self._sha256.update(piece)
        self.length += len(piece)
        return piece

    def _gathered(self, length: int) -> memoryview:
        parts, filled = [self._rest], len(self._rest)
        self._rest = memoryview(b"")
        for chunk in self._chunks:
            view = memoryview(chunk)
            parts.append(view[: length - filled])
            filled += len(parts[-1])
            if filled == length:
                self._rest = view[len(parts[-1]) :]
                break
        return memoryview(b"".join(parts))

    def ended_as(self, digest: Digest) -> bool:
        """Whether all of it was taken, and was what was announced."""
        self.length += len(self._rest) or sum(len(chunk) for chunk in self._chunks)
        return (self.length, self._sha256.digest()) == (digest.length, digest.sha256)


def _secret(handle: tink.KeysetHandle) -> bytes:
    """The key itself, of a keyset that is what the protocol says and nothing else."""
    try:
        keyset = tink_pb2.Keyset.FromString(
            proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
        )
        (entry,) = keyset.key
        key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey.FromString(entry.key_data.value)
    except (ValueError, DecodeError) as error:
        raise _not_a_data_key() from error
    kind = (
        entry.key_data.type_url,
        entry.status,
        key.version,
        len(key.key_value),
        key.params.ciphertext_segment_size,
        key.params.derived_key_size,
        key.params.hkdf_hash_type,
    )
    if kind != (
        _STREAMING_TYPE,
        tink_pb2.ENABLED,
        0,
        KEY_BYTES,
        SEGMENT_BYTES,
        KEY_BYTES,
        common_pb2.SHA256,
    ):
        raise _not_a_data_key()
    return bytes(key.key_value)


def _not_a_data_key() -> Rejected:
    return Rejected(
        RefusalCode.BAD_ENVELOPE,
        "The wrapped key must be a Tink keyset with exactly one AES256_GCM_HKDF_1MB key: use such "
        "a one.",
    )


def _read(source: io.RawIOBase | io.BytesIO, length: int) -> bytes:
    found = bytearray(length)
    _fill(source, memoryview(found))
    return bytes(found)


def _fill(source: io.RawIOBase | io.BytesIO, target: memoryview) -> None:
    """Read exactly as much as fits.

    Raises:
        EOFError: There is less.
    """
    filled = 0
    while filled < len(target):
        came = source.readinto(target[filled:])
        if not came:
            raise EOFError
        filled += came

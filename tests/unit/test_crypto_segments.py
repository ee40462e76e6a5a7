"""Streams are exchanged with Tink in both directions: the format is Tink's, to the bit."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
import tink
from cryptography.exceptions import InvalidTag
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tink import proto_keyset_format, secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, tink_pb2

from client.crypto.digest import Digest
from client.crypto.envelope import DataKey, ciphertext_length
from client.crypto.keyring import Keyring
from client.crypto.segments import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    SegmentCipher,
    segment_lengths,
)
from client.errors import RefusalCode, Rejected

pytestmark = pytest.mark.unit

BINDING = b"the ids of one study"
FIRST = SEGMENT_BYTES - HEADER_BYTES - TAG_BYTES
FURTHER = SEGMENT_BYTES - TAG_BYTES
EDGES = [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + FURTHER, FIRST + FURTHER + 1, 3 * FURTHER]
TEMPLATES = streaming_aead.streaming_aead_key_templates

streaming_aead.register()


class _Kept(io.BytesIO):
    """Tink closes what it writes to."""

    def close(self) -> None:
        pass


def handle_of() -> tink.KeysetHandle:
    return tink.new_keyset_handle(TEMPLATES.AES256_GCM_HKDF_1MB)


@pytest.mark.parametrize("length", EDGES)
def test_tink_opens_what_we_seal(length: int) -> None:
    plaintext = random.Random(length).randbytes(length)
    handle = handle_of()
    sealed = b"".join(DataKey(handle).seal([plaintext], BINDING, Digest.of([plaintext])))
    primitive = handle.primitive(streaming_aead.StreamingAead)
    stream = primitive.new_decrypting_stream(io.BytesIO(sealed), BINDING)
    assert stream.read() == plaintext


@pytest.mark.parametrize("length", EDGES)
def test_we_open_what_tink_seals(length: int) -> None:
    plaintext = random.Random(length).randbytes(length)
    handle, sink = handle_of(), _Kept()
    primitive = handle.primitive(streaming_aead.StreamingAead)
    with primitive.new_encrypting_stream(sink, BINDING) as stream:
        stream.write(plaintext)
    sealed = sink.getvalue()
    assert len(sealed) == ciphertext_length(length)
    opened = DataKey(handle).open(io.BytesIO(sealed), BINDING, Digest.of([plaintext]))
    assert opened == plaintext


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5 * SEGMENT_BYTES))
@example(0)
@example(FIRST)
@example(FIRST + FURTHER)
def test_segments_add_up_and_only_an_empty_stream_has_an_empty_one(length: int) -> None:
    lengths = segment_lengths(length)
    assert sum(lengths) == length
    assert lengths[0] <= FIRST
    assert all(one == FURTHER for one in lengths[1:-1])
    assert len(lengths) == 1 or 0 < lengths[-1] <= FURTHER


def test_a_segment_opens_at_its_own_place_only() -> None:
    cipher = SegmentCipher(bytes(32), BINDING)
    sealed = [memoryview(bytearray(100 + TAG_BYTES)) for _ in range(3)]
    for index, target in enumerate(sealed):
        cipher.seal(bytes([index]) * 100, target, last=index == 2)
    target = memoryview(bytearray(100))
    for order in ((1,), (0, 2), (0, 0), (0, 1, 1)):
        again = SegmentCipher(bytes(32), BINDING, cipher.header)
        for index in order[:-1]:
            again.open(sealed[index], target, last=False)
        with pytest.raises(InvalidTag):
            again.open(sealed[order[-1]], target, last=order[-1] == 2)
    with pytest.raises(InvalidTag):
        SegmentCipher(bytes(32), BINDING, cipher.header).open(sealed[0], target, last=True)


@pytest.mark.parametrize("header", [b"", bytes(40), b"\x28" * 39, b"\x29" + bytes(39)])
def test_another_header_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match="40 bytes"):
        SegmentCipher(bytes(32), BINDING, header)


@pytest.mark.parametrize("kind", ["smaller segments", "disabled", "two keys", "AES-CTR-HMAC"])
def test_another_kind_of_data_key_is_refused(kind: str, tmp_path: Path) -> None:
    raw = proto_keyset_format.serialize(handle_of(), secret_key_access.TOKEN)
    keyset = tink_pb2.Keyset.FromString(raw)
    entry = keyset.key[0]
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey.FromString(entry.key_data.value)
    if kind == "smaller segments":
        key.params.ciphertext_segment_size = 4096
        entry.key_data.value = key.SerializeToString()
    elif kind == "disabled":
        more = keyset.key.add()
        more.CopyFrom(entry)
        more.key_id = keyset.primary_key_id ^ 1
        more.status = tink_pb2.DISABLED
    elif kind == "two keys":
        keyset.key.add().CopyFrom(entry)
    else:
        template = TEMPLATES.AES256_CTR_HMAC_SHA256_1MB
        keyset = tink_pb2.Keyset.FromString(
            proto_keyset_format.serialize(tink.new_keyset_handle(template), secret_key_access.TOKEN)
        )
    ring = Keyring(tmp_path)
    recipient = ring.create()
    wrapped = recipient.wrap(keyset.SerializeToString(), BINDING)
    with pytest.raises(Rejected, match="AES256_GCM_HKDF_1MB") as caught:
        DataKey.unwrap(ring, recipient.key_id, wrapped, BINDING)
    assert caught.value.code is RefusalCode.BAD_ENVELOPE

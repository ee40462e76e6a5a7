"""The published example opens here, and also without Tink by what docs/protocol.md says alone."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tink.proto import aes_gcm_hkdf_streaming_pb2, hpke_pb2, tink_pb2

from client.crypto.binding import result_binding, study_binding
from client.crypto.digest import Digest
from client.crypto.envelope import DataKey
from client.crypto.keyring import Keyring, PublicKey, key_id_of
from client.crypto.studies import open_result, open_study
from client.ingest.bundle import read_bundle
from client.limits import BundleLimits
from client.proto import ingest_pb2

pytestmark = pytest.mark.unit

VECTOR = json.loads((Path(__file__).parents[2] / "docs" / "protocol-vector.json").read_text())
SEGMENT = 1 << 20


def decoded(part: str, name: str) -> bytes:
    return base64.b64decode(VECTOR[part][f"{name}_base64"])


def keyring(folder: Path, part: str) -> Keyring:
    keyset = decoded(part, "recipient_public_keyset")
    key_id = key_id_of(keyset)
    private = folder / f"{key_id}.private.json"
    private.write_text(json.dumps(VECTOR[part]["recipient_private_keyset"]))
    private.chmod(0o600)
    return Keyring(folder)


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_the_published_study_and_result_open(tmp_path: Path) -> None:
    study = ingest_pb2.StudyHeader.FromString(decoded("study", "header_protobuf"))
    assert study_binding(study).hex() == VECTOR["study"]["associated_data_hex"]
    plain = await open_study(
        study,
        stream(decoded("study", "ciphertext")),
        keyring(tmp_path, "study"),
        max_bytes=1 << 20,
    )
    assert plain == decoded("study", "plaintext")
    assert [name for name, _ in read_bundle(plain, BundleLimits())] == ["000001.dcm"]
    result = ingest_pb2.ResultHeader.FromString(decoded("result", "header_protobuf"))
    assert result_binding(result).hex() == VECTOR["result"]["associated_data_hex"]
    plain = await open_result(
        result,
        stream(decoded("result", "ciphertext")),
        keyring(tmp_path, "result"),
        max_bytes=1 << 20,
    )
    assert dict(read_bundle(plain, BundleLimits())) == {"measurements.json": b"{}\n"}


def unwrap_without_tink(private_keyset: dict[str, Any], wrapped: bytes, info: bytes) -> bytes:
    """Return the serialised data keyset: HPKE base mode, after Tink's prefix of five bytes."""
    key = private_keyset["key"][0]
    assert wrapped[:5] == b"\x01" + int(key["keyId"]).to_bytes(4, "big")
    value = base64.b64decode(key["keyData"]["value"])
    secret = X25519PrivateKey.from_private_bytes(
        hpke_pb2.HpkePrivateKey.FromString(value).private_key
    )
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    return suite.decrypt(wrapped[5:], secret, info)


def open_without_tink(data_keyset: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """Return the plaintext of AES256_GCM_HKDF_1MB, as its published format describes it."""
    keyset = tink_pb2.Keyset.FromString(data_keyset)
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey.FromString(keyset.key[0].key_data.value)
    length, salt, prefix = ciphertext[0], ciphertext[1:33], ciphertext[33:40]
    assert length == 40
    derived = HKDF(hashes.SHA256(), 32, salt, associated_data).derive(key.key_value)
    bounds = [40, *range(SEGMENT, len(ciphertext), SEGMENT), len(ciphertext)]
    plaintext = b""
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        last = bytes([end == len(ciphertext)])
        nonce = prefix + number.to_bytes(4, "big") + last
        plaintext += AESGCM(derived).decrypt(nonce, ciphertext[start:end], None)
    return plaintext


@pytest.mark.parametrize("part", ["study", "result"])
def test_the_published_example_opens_without_tink(part: str) -> None:
    header: Any = (ingest_pb2.StudyHeader if part == "study" else ingest_pb2.ResultHeader)()
    header.ParseFromString(decoded(part, "header_protobuf"))
    info = bytes.fromhex(VECTOR[part]["associated_data_hex"])
    private = VECTOR[part]["recipient_private_keyset"]
    data_keyset = unwrap_without_tink(private, header.wrapped_dek, info)
    plaintext = open_without_tink(data_keyset, decoded(part, "ciphertext"), info)
    assert plaintext == decoded(part, "plaintext")
    assert hashlib.sha256(plaintext).digest() == header.plaintext_sha256


@pytest.mark.parametrize("length", [SEGMENT - 56, SEGMENT - 55, 3 * SEGMENT + 17])
def test_many_segments_open_without_tink(tmp_path: Path, length: int) -> None:
    ring = Keyring(tmp_path)
    public = ring.create()
    assert isinstance(public, PublicKey)
    assert public.created_at <= datetime.now(UTC)
    plaintext = bytes(range(256)) * (length // 256 + 1)
    plaintext = plaintext[:length]
    key, info = DataKey.new(), b"the ids"
    ciphertext = b"".join(key.seal([plaintext], info, Digest.of([plaintext])))
    private = json.loads((tmp_path / f"{public.key_id}.private.json").read_text())
    data_keyset = unwrap_without_tink(private, key.wrap(public, info), info)
    assert open_without_tink(data_keyset, ciphertext, info) == plaintext

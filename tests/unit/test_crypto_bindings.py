"""What keys and ciphertexts are bound to, byte by byte, and what a key folder gives and takes."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from client.crypto.binding import encode_fields, result_binding, rewrap_binding, study_binding
from client.crypto.keydirectory import (
    KeyDirectory,
    create_key_directory,
    describe_keys,
    revoke_certificate,
)
from client.crypto.keyring import Keyring
from client.crypto.kms import LocalKeyManager, open_key_manager
from client.crypto.labels import StudyLabel
from client.crypto.privatefiles import make_private_directory
from client.errors import ConfigurationError, NotFound
from client.proto import ingest_pb2

pytestmark = pytest.mark.unit

ABSENT = "0" * 32


def fields(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "big") + value for value in values)


STUDY = ingest_pb2.StudyHeader(
    tenant="radiology",
    upload_id="11111111-2222-3333-4444-555555555555",
    model="brain_mr",
    key_id="a" * 32,
    plaintext_bytes=258,
    plaintext_sha256=b"h" * 32,
    recipient_key_id="b" * 32,
    recipient_public_keyset=b"keyset",
    patient_pseudonym="c" * 64,
)
STUDY_FIELDS = (
    b"hounsfield/study/v1",
    b"radiology",
    b"11111111-2222-3333-4444-555555555555",
    b"brain_mr",
    b"a" * 32,
    (258).to_bytes(8, "big"),
    b"h" * 32,
    b"b" * 32,
    hashlib.sha256(b"keyset").digest(),
    b"c" * 64,
)


def test_fields_are_encoded_with_their_lengths() -> None:
    assert encode_fields("é", 1, b"\0") == b"\0\0\0\2\xc3\xa9\0\0\0\x08\0\0\0\0\0\0\0\1\0\0\0\1\0"
    assert encode_fields() == b""


def test_a_study_is_bound_to_every_documented_field() -> None:
    assert study_binding(STUDY) == fields(*STUDY_FIELDS)


def test_a_rewrapped_key_is_bound_to_its_purpose_the_new_key_and_the_study() -> None:
    expected = fields(b"hounsfield/rewrap/v1", b"d" * 32, fields(*STUDY_FIELDS))
    assert rewrap_binding(STUDY, "d" * 32) == expected


def test_a_result_is_bound_to_every_documented_field() -> None:
    header = ingest_pb2.ResultHeader(
        tenant="radiology",
        job_id="job",
        upload_id="upload",
        recipient_key_id="key",
        plaintext_bytes=3,
        plaintext_sha256=b"h" * 32,
    )
    expected = fields(
        b"hounsfield/result/v1",
        b"radiology",
        b"job",
        b"upload",
        b"key",
        (3).to_bytes(8, "big"),
        b"h" * 32,
    )
    assert result_binding(header) == expected


def test_a_label_prints_as_nothing() -> None:
    assert repr(StudyLabel("Name", "4711", "20260102")) == "StudyLabel(…)"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda folder: Keyring(folder).destroy(ABSENT), f"No private key {ABSENT} is here."),
        (
            lambda folder: Keyring(folder).unwrap(ABSENT, b"", b""),
            f"No private key {ABSENT} is here.",
        ),
        (
            lambda folder: LocalKeyManager(folder).unwrap(ABSENT, b"", b""),
            f"No key-encrypting key {ABSENT} is here.",
        ),
        (lambda folder: Keyring(folder).withdraw(ABSENT), f"No public key {ABSENT} is here."),
        (
            lambda folder: LocalKeyManager(folder).destroy(ABSENT),
            f"No key-encrypting key {ABSENT} is here.",
        ),
    ],
    ids=["destroy", "unwrap", "unwrap kek", "withdraw", "destroy kek"],
)
def test_a_key_that_is_not_here_is_told_by_id(
    tmp_path: Path, call: Callable[[Path], object], told: str
) -> None:
    with pytest.raises(NotFound) as caught:
        call(tmp_path)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    "key_id", ["X" * 32, "A" * 32, "a" * 31, "a" * 33, "../" + "a" * 29, "", "g" + "a" * 31]
)
def test_an_id_that_no_key_can_have_is_told(tmp_path: Path, key_id: str) -> None:
    for manager, kind in ((Keyring(tmp_path), "key"), (LocalKeyManager(tmp_path), "local key")):
        with pytest.raises(NotFound) as caught:
            manager.unwrap(key_id, b"", b"")
        told = f"A {kind} id is 32 hexadecimal digits; no other key exists."
        assert str(caught.value) == told


def test_a_private_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = make_private_directory(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    make_private_directory(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_service_is_remembered_by_its_own_name(tmp_path: Path) -> None:
    first, second = "gcp-kms://projects/one", "gcp-kms://projects/two"
    manager = open_key_manager(first, tmp_path)
    assert manager.key_id == first
    known = {key: manager._manager(key) for key in (first, second)}  # type: ignore[attr-defined]
    assert {key: found.key_id for key, found in known.items()} == {first: first, second: second}
    assert manager._manager(first) is known[first]  # type: ignore[attr-defined]


def test_the_audit_key_is_a_secret_of_32_bytes_that_stays(tmp_path: Path) -> None:
    create_key_directory(tmp_path, "local")
    keys = KeyDirectory(tmp_path)
    key = keys.audit_key()
    assert len(key) == 32
    assert stat.S_IMODE((tmp_path / "audit.key").stat().st_mode) == 0o600
    create_key_directory(tmp_path, "other")
    assert keys.audit_key() == key
    (tmp_path / "audit.key").chmod(0o644)
    with pytest.raises(ConfigurationError):
        keys.audit_key()


def test_certificates_are_taken_back_one_after_the_other(tmp_path: Path) -> None:
    create_key_directory(tmp_path, "one")
    found = create_key_directory(tmp_path, "two")
    serials = {key.owner: int(key.id, 16) for key in found if key.kind == "sender"}
    assert set(serials) == {"one", "two"}
    assert found == describe_keys(tmp_path)
    assert {key.kind for key in found} >= {"ca", "gateway", "sender", "worker", "result", "kek"}
    now = datetime.now(UTC)
    for key in found:
        assert key.path.is_file(), key.kind
        assert key.id, key.kind
        assert abs(key.created_at - now) < timedelta(minutes=10), key.kind
        lasts = key.expires_at is not None
        assert lasts == (key.kind in {"ca", "gateway", "sender"}), key.kind
        assert key.expires_at is None or key.expires_at - now > timedelta(days=390), key.kind
    tls = KeyDirectory(tmp_path).sender_tls("one")
    assert (tls.authority, tls.private_key) == (
        tmp_path / "ca.pem",
        tls.certificate.with_suffix(".key"),
    )
    taken: list[set[int]] = []
    for tenant in ("one", "two"):
        path = revoke_certificate(tmp_path, serials[tenant])
        assert path == tmp_path / "ca.crl.pem" == KeyDirectory(tmp_path).revoked
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        taken.append({entry.serial_number for entry in x509.load_pem_x509_crl(path.read_bytes())})
    assert taken == [{serials["one"]}, set(serials.values())]
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ConfigurationError, match=r"ca\.key"):
        revoke_certificate(tmp_path, 1)

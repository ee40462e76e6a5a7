"""Keyrings and the key directory: who may open what, and who is who."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.crypto import certificates
from client.crypto.certificates import (
    Credential,
    certificate_hosts,
    issue_gateway,
    issue_sender,
    make_authority,
    parse_certificate,
    tenant_of,
)
from client.crypto.keydirectory import KeyDirectory, create_key_directory, describe_keys
from client.crypto.keyring import Keyring, PublicKey, key_id_of, load_public_keys
from client.errors import AccessDenied, ConfigurationError, NotFound, Rejected

pytestmark = pytest.mark.unit


def test_a_keyring_lists_the_newest_first_and_keeps_private_halves_private(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "ring")
    with pytest.raises(ConfigurationError, match="keys new"):
        ring.newest()
    keys = [ring.create() for _ in range(3)]
    assert ring.newest() == keys[-1]
    assert set(load_public_keys(tmp_path / "ring")) == set(keys)
    assert all(key.key_id == key_id_of(key.keyset) for key in keys)
    modes = {p.name.split(".")[1]: p.stat().st_mode & 0o777 for p in (tmp_path / "ring").iterdir()}
    assert modes == {"private": 0o600, "public": 0o644}
    assert (tmp_path / "ring").stat().st_mode & 0o777 == 0o700


def test_public_halves_alone_open_nothing(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    key = ring.create()
    (tmp_path / f"{key.key_id}.private.json").unlink()
    with pytest.raises(NotFound):
        Keyring(tmp_path).unwrap(key.key_id, key.wrap(b"secret", b""), b"")


@pytest.mark.parametrize("key_id", ["", "../../etc/passwd", "0" * 31, "G" * 32, "0" * 32])
def test_a_key_id_is_never_a_path(tmp_path: Path, key_id: str) -> None:
    with pytest.raises(NotFound):
        Keyring(tmp_path).unwrap(key_id, b"", b"")


def test_a_private_key_that_everyone_may_read_is_refused(tmp_path: Path) -> None:
    key = Keyring(tmp_path).create()
    (tmp_path / f"{key.key_id}.private.json").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Keyring(tmp_path).unwrap(key.key_id, b"", b"")


def test_a_public_key_must_be_what_its_id_says(tmp_path: Path) -> None:
    one, two = Keyring(tmp_path).create(), Keyring(tmp_path).create()
    now = datetime.now(UTC)
    for key in (
        PublicKey(one.key_id, two.keyset, now),
        PublicKey(key_id_of(b"x" * 50), b"x" * 50, now),
        PublicKey(key_id_of(b""), b"", now),
    ):
        with pytest.raises(Rejected, match="BAD_ENVELOPE"):
            key.wrap(b"secret", b"")
    path = tmp_path / f"{one.key_id}.public.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key_id": two.key_id}))
    with pytest.raises(ConfigurationError, match="do not belong together"):
        load_public_keys(tmp_path)


def test_a_key_directory_is_made_once_and_grows_by_tenants(tmp_path: Path) -> None:
    root = tmp_path / "keys"
    first = create_key_directory(root, "radiology", ["gw.example.org"])
    assert [(d.kind, d.owner) for d in first] == [
        ("ca", ""),
        ("gateway", ""),
        ("sender", "radiology"),
        ("worker", ""),
        ("result", "radiology"),
        ("kek", ""),
    ]
    assert create_key_directory(root, "radiology") == first
    second = create_key_directory(root, "cardiology")
    assert {d.id for d in first} < {d.id for d in second}
    assert {d.owner for d in second} == {"", "radiology", "cardiology"}
    assert describe_keys(root) == second
    for path in root.rglob("*"):
        secret = path.suffix == ".key" or ".private." in path.name
        assert path.stat().st_mode & 0o077 == 0 or not (secret or path.is_dir()), path


def test_certificates_say_who_they_are_for(tmp_path: Path) -> None:
    create_key_directory(tmp_path, "radiology", ["gw.example.org", "10.1.2.3"])
    keys = KeyDirectory(tmp_path)
    gateway = parse_certificate(keys.gateway_tls.certificate.read_bytes())
    sender = parse_certificate(keys.sender_tls("radiology").certificate.read_bytes())
    assert certificate_hosts(gateway) == {
        "localhost",
        "127.0.0.1",
        "::1",
        "gw.example.org",
        "10.1.2.3",
    }
    assert tenant_of(sender) == "radiology"
    with pytest.raises(AccessDenied):
        tenant_of(gateway)
    now = datetime.now(UTC)
    for certificate in (gateway, sender):
        assert certificate.not_valid_before_utc < now
        assert timedelta(days=395) < certificate.not_valid_after_utc - now < timedelta(days=398)


def test_a_new_host_or_authority_means_new_certificates(tmp_path: Path) -> None:
    create_key_directory(tmp_path, "local", ["one.example"])
    keys = KeyDirectory(tmp_path)
    create_key_directory(tmp_path, "local", ["two.example"])
    hosts = certificate_hosts(parse_certificate(keys.gateway_tls.certificate.read_bytes()))
    assert {"one.example", "two.example"} <= hosts
    sender = keys.sender_tls("local").certificate.read_bytes()
    keys.authority.unlink()
    create_key_directory(tmp_path, "local")
    renewed = parse_certificate(keys.sender_tls("local").certificate.read_bytes())
    assert renewed != parse_certificate(sender)
    renewed.verify_directly_issued_by(parse_certificate(keys.authority.read_bytes()))


def test_a_certificate_is_renewed_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_LEAF_LIFE", timedelta(days=29))
    old = {d.kind: d for d in create_key_directory(tmp_path, "local")}
    monkeypatch.undo()
    new = {d.kind: d for d in create_key_directory(tmp_path, "local")}
    assert {k for k in old if old[k].id != new[k].id} == {"gateway", "sender"}


def test_without_the_authoritys_key_nothing_new_is_issued(tmp_path: Path) -> None:
    create_key_directory(tmp_path, "local")
    (tmp_path / "ca.key").unlink()
    create_key_directory(tmp_path, "local")
    with pytest.raises(ConfigurationError, match=r"ca\.key"):
        create_key_directory(tmp_path, "another")


@pytest.mark.parametrize("tenant", ["", "UPPER", "-a", "a-", "a_b", "a/b", "a" * 64, "ä", "a\n"])
def test_a_tenant_is_a_plain_word(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(ConfigurationError, match="tenant"):
        create_key_directory(tmp_path / "keys", tenant)


def test_credentials_do_not_print_their_key() -> None:
    authority = make_authority()
    for credential in (authority, issue_gateway(authority), issue_sender(authority, "a")):
        assert isinstance(credential, Credential)
        assert "PRIVATE" not in repr(credential)
        assert b"PRIVATE KEY" in credential.private_key


def test_a_withdrawn_key_still_opens_and_a_destroyed_one_is_gone_everywhere(tmp_path: Path) -> None:
    ring, running = Keyring(tmp_path), Keyring(tmp_path)
    old, new = ring.create(), ring.create()
    wrapped = old.wrap(b"secret", b"context")
    assert running.unwrap(old.key_id, wrapped, b"context") == b"secret"
    ring.withdraw(old.key_id)
    assert [key.key_id for key in running.public_keys()] == [new.key_id]
    assert ring.private_ids() == {old.key_id, new.key_id}
    assert running.unwrap(old.key_id, wrapped, b"context") == b"secret"
    ring.destroy(old.key_id)
    assert ring.private_ids() == {new.key_id}
    for held in (ring, running):
        with pytest.raises(NotFound):
            held.unwrap(old.key_id, wrapped, b"context")
    for act in (ring.withdraw, ring.destroy):
        with pytest.raises(NotFound):
            act(old.key_id)

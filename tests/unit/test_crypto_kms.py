"""What wraps and what unwraps: the newest key, every key that is still there, and no other."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.crypto.cloudkms import CloudKeyManager
from client.crypto.keydirectory import KeyDirectory, create_key_directory, describe_keys
from client.crypto.kms import LocalKeyManager, open_key_manager
from client.errors import ConfigurationError, NotFound, RefusalCode, Rejected

pytestmark = pytest.mark.unit

SECRET, CONTEXT = b"a subject's key", b"row of one subject"


def test_the_newest_key_wraps_and_every_key_unwraps(tmp_path: Path) -> None:
    manager = LocalKeyManager(tmp_path)
    first = manager.create()
    old_id, old = manager.wrap(SECRET, CONTEXT)
    second = manager.create()
    new_id, new = manager.wrap(SECRET, CONTEXT)
    assert (old_id, new_id) == (first.key_id, second.key_id)
    again = LocalKeyManager(tmp_path)
    assert again.key_id == second.key_id
    assert again.unwrap(old_id, old, CONTEXT) == again.unwrap(new_id, new, CONTEXT) == SECRET


def test_another_process_s_rotation_is_seen_at_once(tmp_path: Path) -> None:
    running, rotating = LocalKeyManager(tmp_path), LocalKeyManager(tmp_path)
    rotating.create()
    running.wrap(SECRET, CONTEXT)
    fresh = rotating.create()
    assert running.wrap(SECRET, CONTEXT)[0] == fresh.key_id


def test_a_destroyed_key_is_gone_for_processes_that_had_it_open(tmp_path: Path) -> None:
    running = LocalKeyManager(tmp_path)
    key = running.create()
    _, wrapped = running.wrap(SECRET, CONTEXT)
    before = key.path.read_bytes()
    copy = tmp_path / "hard link"
    copy.hardlink_to(key.path)
    LocalKeyManager(tmp_path).destroy(key.key_id)
    with pytest.raises(NotFound):
        running.unwrap(key.key_id, wrapped, CONTEXT)
    assert copy.read_bytes() == bytes(len(before))
    with pytest.raises(NotFound):
        running.destroy(key.key_id)


def test_every_flipped_bit_and_every_other_context_or_key_is_refused(tmp_path: Path) -> None:
    manager = LocalKeyManager(tmp_path)
    other = manager.create()
    manager.create()
    key_id, wrapped = manager.wrap(SECRET, CONTEXT)
    for bit in range(len(wrapped) * 8):
        damaged = bytearray(wrapped)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Rejected) as caught:
            manager.unwrap(key_id, bytes(damaged), CONTEXT)
        assert caught.value.code is RefusalCode.BAD_ENVELOPE
    for length in range(len(wrapped)):
        with pytest.raises(Rejected):
            manager.unwrap(key_id, wrapped[:length], CONTEXT)
    for wrong_id, context in ((key_id, b""), (key_id, b"another row"), (other.key_id, CONTEXT)):
        with pytest.raises(Rejected):
            manager.unwrap(wrong_id, wrapped, context)


def test_key_files_are_private_and_checked(tmp_path: Path) -> None:
    manager = LocalKeyManager(tmp_path / "kek")
    with pytest.raises(ConfigurationError, match="keys new"):
        _ = manager.key_id
    key = manager.create()
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700
    renamed = key.path.rename(key.path.with_name(f"{'0' * 32}.kek.json"))
    with pytest.raises(ConfigurationError, match="do not belong together"):
        manager.keys()
    renamed.rename(key.path).chmod(0o644)
    with pytest.raises(ConfigurationError, match="every user"):
        LocalKeyManager(tmp_path / "kek").wrap(SECRET, CONTEXT)
    key.path.chmod(0o600)
    key.path.write_text("{}")
    with pytest.raises(ConfigurationError, match="not a key-encrypting key"):
        manager.keys()


@pytest.mark.parametrize("key_id", ["", "../../etc/passwd", "A" * 32, "0" * 32])
def test_an_id_of_no_key_is_not_found(tmp_path: Path, key_id: str) -> None:
    with pytest.raises(NotFound):
        LocalKeyManager(tmp_path).unwrap(key_id, b"", b"")


def test_the_key_directory_makes_one_and_lists_it(tmp_path: Path) -> None:
    create_key_directory(tmp_path, "radiology")
    create_key_directory(tmp_path, "radiology")
    listed = [key for key in describe_keys(tmp_path) if key.kind == "kek"]
    assert [key.id for key in listed] == [LocalKeyManager(KeyDirectory(tmp_path).kek).key_id]


def test_local_keys_still_open_after_a_cloud_s_key_was_chosen(tmp_path: Path) -> None:
    local = LocalKeyManager(tmp_path)
    local.create()
    key_id, wrapped = open_key_manager("", tmp_path).wrap(SECRET, CONTEXT)
    uri = "hcvault://vault.invalid:8200/transit/keys/hounsfield"
    manager = open_key_manager(uri, tmp_path)
    assert manager.key_id == uri
    assert manager.unwrap(key_id, wrapped, CONTEXT) == SECRET


@pytest.mark.parametrize("uri", ["azure-kms://key", "kek", "file:///key"])
def test_another_kind_of_uri_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="key URI"):
        CloudKeyManager(uri)

"""The vault's promises, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.crypto.kms import LocalKeyManager, open_key_manager
from client.errors import ConfigurationError, Erased, NotFound, RefusalCode, Rejected
from client.vault.vault import Sealed, Vault

pytestmark = pytest.mark.contract

TENANT, SUBJECT, CONTEXT = "radiology", "a" * 64, b"study-header|1"


@pytest.fixture
def kek(tmp_path: Path) -> LocalKeyManager:
    manager = LocalKeyManager(tmp_path / "kek")
    manager.create()
    return manager


@pytest.fixture
async def vault(url: str, kek: LocalKeyManager) -> AsyncIterator[Vault]:
    async with Vault(url, kek) as opened:
        yield opened


async def test_what_was_sealed_opens_in_another_process(
    vault: Vault, url: str, kek: LocalKeyManager
) -> None:
    key = await vault.key_for(TENANT, SUBJECT)
    sealed = await vault.seal(key, b"a header", CONTEXT)
    assert b"a header" not in sealed
    async with Vault(url, kek) as other:
        assert await other.key_for(TENANT, SUBJECT) == key
        assert await other.open(key, sealed, CONTEXT) == b"a header"


async def test_each_tenant_and_subject_has_a_key_of_its_own(vault: Vault) -> None:
    subjects = [(TENANT, SUBJECT), (TENANT, "b" * 64), ("cardiology", SUBJECT)]
    keys = [await vault.key_for(*subject) for subject in subjects]
    assert len(set(keys)) == 3
    sealed = await vault.seal(keys[0], b"a header", CONTEXT)
    for other in keys[1:]:
        with pytest.raises(Rejected) as caught:
            await vault.open(other, sealed, CONTEXT)
        assert caught.value.code is RefusalCode.BAD_ENVELOPE


async def test_one_hundred_first_studies_at_once_share_one_key(
    vault: Vault, url: str, kek: LocalKeyManager
) -> None:
    async with Vault(url, kek) as other:
        asked = [v.key_for(TENANT, SUBJECT) for v in (vault, other) for _ in range(50)]
        assert len(set(await asyncio.gather(*asked))) == 1


async def test_another_context_or_a_flipped_bit_is_refused(vault: Vault) -> None:
    key = await vault.key_for(TENANT, SUBJECT)
    sealed = await vault.seal(key, b"a header", CONTEXT)
    for context in (b"", b"study-header|2", b"result-header|1"):
        with pytest.raises(Rejected):
            await vault.open(key, sealed, context)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(Rejected):
            await vault.open(key, bytes(damaged), CONTEXT)


async def test_after_destruction_nothing_opens_and_a_new_study_gets_a_new_key(
    vault: Vault, url: str, kek: LocalKeyManager
) -> None:
    key, kept = await vault.key_for(TENANT, SUBJECT), await vault.key_for("other", SUBJECT)
    sealed = await vault.seal(key, b"a header", CONTEXT)
    async with Vault(url, kek) as running:
        assert await running.open(key, sealed, CONTEXT) == b"a header"
        assert await vault.destroy(TENANT, SUBJECT) == (key,)
        for one in (vault, running):
            with pytest.raises(Erased):
                await one.open(key, sealed, CONTEXT)
            with pytest.raises(Erased):
                await one.seal(key, b"more", CONTEXT)
    assert await vault.destroy(TENANT, SUBJECT) == ()
    assert await vault.key_for(TENANT, SUBJECT) != key
    assert await vault.key_for("other", SUBJECT) == kept


async def test_many_open_with_one_call_and_the_erased_ones_are_none(vault: Vault) -> None:
    keys = [await vault.key_for(TENANT, f"upload:{number}") for number in range(3)]
    items = [
        Sealed(key, await vault.seal(key, bytes([number]), CONTEXT), CONTEXT)
        for number, key in enumerate(keys)
    ]
    await vault.destroy(TENANT, "upload:1")
    assert await vault.open_many(items) == [b"\0", None, b"\2"]
    assert await vault.open_many([]) == []
    with pytest.raises(NotFound):
        await vault.open_many([*items, Sealed("0" * 32, b"", b"")])


async def test_a_key_that_never_was_is_not_found(vault: Vault) -> None:
    for call in (vault.open("0" * 32, b"", b""), vault.seal("0" * 32, b"", b"")):
        with pytest.raises(NotFound) as caught:
            await call
        assert not isinstance(caught.value, Erased)


async def test_the_key_encrypting_key_rotates_ten_times_under_use(
    vault: Vault, url: str, kek: LocalKeyManager
) -> None:
    subjects = [f"upload:{number}" for number in range(10)]
    keys = [await vault.key_for(TENANT, subject) for subject in subjects]
    sealed = [await vault.seal(key, b"a header", CONTEXT) for key in keys]
    opened = 0

    async def use(stop: asyncio.Event) -> None:
        nonlocal opened
        while not stop.is_set():
            async with Vault(url, kek) as fresh:
                for key, content in zip(keys, sealed, strict=True):
                    assert await fresh.open(key, content, CONTEXT) == b"a header"
                    opened += 1
                assert await fresh.key_for(TENANT, f"upload:{opened}") != ""

    stop = asyncio.Event()
    using = asyncio.create_task(use(stop))
    for _ in range(10):
        fresh = kek.create()
        assert await vault.rewrap() >= len(keys)
        assert set(await vault.kek_uses()) == {fresh.key_id}
    stop.set()
    await using
    await vault.rewrap()
    assert opened >= len(keys)
    for old in kek.keys()[1:]:
        kek.destroy(old.key_id)
    async with Vault(url, kek) as fresh_vault:
        for key, content in zip(keys, sealed, strict=True):
            assert await fresh_vault.open(key, content, CONTEXT) == b"a header"


async def test_rewrapping_goes_on_where_it_was_broken_off(
    vault: Vault, kek: LocalKeyManager
) -> None:
    for number in range(25):
        await vault.key_for(TENANT, f"upload:{number}")
    old = kek.key_id
    kek.create()

    class Dying:
        """Wraps ten keys, then the process is gone."""

        left = 10
        key_id = kek.key_id
        unwrap = staticmethod(kek.unwrap)

        def wrap(self, secret: bytes, context: bytes) -> tuple[str, bytes]:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return kek.wrap(secret, context)

    vault._kek = Dying()
    with pytest.raises(KeyboardInterrupt):
        await vault.rewrap()
    vault._kek = kek
    assert await vault.kek_uses() == {old: 15, kek.key_id: 10}
    assert await vault.rewrap() == 15
    assert await vault.rewrap() == 0


async def test_rows_that_were_exchanged_do_not_open(tmp_path: Path, kek: LocalKeyManager) -> None:
    file = tmp_path / "database.sqlite"
    url = f"sqlite+aiosqlite:///{file}"
    async with Vault(url, kek) as vault:
        one, two = await vault.key_for(TENANT, "upload:1"), await vault.key_for(TENANT, "upload:2")
        sealed = await vault.seal(one, b"a header", CONTEXT)
    with sqlite3.connect(file) as raw:
        raw.execute(
            "UPDATE subject_keys SET wrapped_key ="
            " (SELECT wrapped_key FROM subject_keys WHERE id = ?) WHERE id = ?",
            (two, one),
        )
    raw.close()
    async with Vault(url, kek) as vault:
        with pytest.raises(Rejected):
            await vault.open(one, sealed, CONTEXT)


@pytest.mark.parametrize("journal", ["TRUNCATE", "WAL"])
async def test_the_wrapped_key_leaves_the_database_file(
    tmp_path: Path, kek: LocalKeyManager, journal: str
) -> None:
    folder = tmp_path / "vault"
    folder.mkdir()
    file = folder / "database.sqlite"
    raw = sqlite3.connect(file)
    raw.execute(f"PRAGMA journal_mode={journal}")  # whatever made the file before
    raw.close()
    async with Vault(f"sqlite+aiosqlite:///{file}", kek) as vault:
        for number in range(40):
            await vault.key_for(TENANT, f"upload:{number}")
        raw = sqlite3.connect(file)
        wrapped = dict(raw.execute("SELECT subject, wrapped_key FROM subject_keys").fetchall())
        raw.close()
        for number in range(0, 40, 2):
            assert wrapped[f"upload:{number}"] in written(folder)
            await vault.destroy(TENANT, f"upload:{number}")
            assert wrapped[f"upload:{number}"] not in written(folder)
        assert all(wrapped[f"upload:{number}"] in written(folder) for number in range(1, 40, 2))


def written(folder: Path) -> bytes:
    """Return the bytes of the database and of whatever journal lies beside it."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_a_vault_of_another_version_is_refused(tmp_path: Path, kek: LocalKeyManager) -> None:
    file = tmp_path / "database.sqlite"
    async with Vault(f"sqlite+aiosqlite:///{file}", kek):
        pass
    with sqlite3.connect(file) as raw:
        raw.execute("UPDATE vault_schema SET version = 2")
    raw.close()
    with pytest.raises(ConfigurationError, match="version 1"):
        async with Vault(f"sqlite+aiosqlite:///{file}", kek):
            pass


async def test_a_copy_of_the_vault_is_worthless_without_its_key_encrypting_key(
    tmp_path: Path, kek: LocalKeyManager
) -> None:
    file = tmp_path / "database.sqlite"
    async with Vault(f"sqlite+aiosqlite:///{file}", kek) as vault:
        key = await vault.key_for(TENANT, SUBJECT)
        sealed = await vault.seal(key, b"a header", CONTEXT)
        backup = shutil.copy(file, tmp_path / "backup.sqlite")
        await vault.destroy(TENANT, SUBJECT)
        kek.create()
        await vault.rewrap()
        kek.destroy(kek.keys()[1].key_id)
    async with Vault(
        f"sqlite+aiosqlite:///{backup}", open_key_manager("", tmp_path / "kek")
    ) as old:
        with pytest.raises(NotFound):
            await old.open(key, sealed, CONTEXT)


async def test_a_cancelled_call_leaves_the_vault_whole(vault: Vault) -> None:
    for number in range(20):
        call = asyncio.create_task(vault.key_for(TENANT, f"upload:{number}"))
        await asyncio.sleep(0.0005 * number)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert len(await vault.key_for(TENANT, SUBJECT)) == 32

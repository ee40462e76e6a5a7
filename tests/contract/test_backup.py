"""What is saved is consistent, complete and comes back whole; what is damaged is refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.backup.backup import back_up
from client.backup.checking import check_ledger_objects
from client.backup.generations import Manifest, newest_manifest
from client.backup.keybackup import back_up_keys, erased_since, restore_keys
from client.backup.restoring import check_backup, check_chains, restore
from client.backup.rowfiles import decode_row, encode_row
from client.backup.snapshot import LedgerRows
from client.crypto.kms import LocalKeyManager
from client.errors import ConfigurationError, Erased, NotFound, Transient
from client.jobs import Job
from client.ledger.ledger import Ledger
from client.ledger.schema import jobs
from client.objectstore.localobjects import LocalObjectStore
from client.objectstore.objects import ObjectStore
from client.objectstore.stores import open_store
from client.vault.vault import Vault
from tests.ledgers import AUDIT_KEY
from tests.sites import Site, ledger_rows

pytestmark = pytest.mark.contract


def sqlite(folder: Path, name: str) -> str:
    return f"sqlite+aiosqlite:///{folder / name}.sqlite"


@contextlib.asynccontextmanager
async def opened(folder: Path, url: str, store: ObjectStore) -> AsyncIterator[Site]:
    kek = LocalKeyManager(folder / "kek")
    if not kek.keys():
        kek.create()
    async with (
        Ledger(url, AUDIT_KEY) as ledger,
        Vault(vault_url(url, folder), kek) as vault,
    ):
        yield Site(ledger, vault, store)


def vault_url(url: str, folder: Path) -> str:
    return sqlite(folder, f"vault-{abs(hash(url))}")


@pytest.fixture
async def site(tmp_path: Path, url: str) -> AsyncIterator[Site]:
    async with opened(tmp_path, url, open_store("memory://")) as filled:
        yield filled


@pytest.fixture
def target(tmp_path: Path) -> ObjectStore:
    return LocalObjectStore(tmp_path / "saved")


async def keys(store: ObjectStore, prefix: str = "") -> set[str]:
    return {entry.key async for entry in store.list(prefix)}


async def save(url: str, site: Site, target: ObjectStore) -> tuple[int, int]:
    async with LedgerRows(url) as rows:
        report = await back_up(rows, site.store, target)
    assert report.faults == ()
    return report.objects, report.copied


async def test_everything_comes_back_in_another_database(
    tmp_path: Path, url: str, site: Site, target: ObjectStore
) -> None:
    await site.fill()
    erased = await site.done(patient="p-erased")
    saved_keys = LocalObjectStore(tmp_path / "saved-keys")
    await site.erase(erased)
    await save(url, site, target)
    await back_up_keys(vault_url(url, tmp_path), saved_keys)
    before = await ledger_rows(url)
    headers = await site.opened()

    other = sqlite(tmp_path, "other")
    store = LocalObjectStore(tmp_path / "restored")
    report = await restore(target, other, AUDIT_KEY, store)
    restored_vault = vault_url(other, tmp_path)
    assert await restore_keys(saved_keys, restored_vault, report.erased_keys) == len(headers)

    assert all(chain.intact for chain in report.chains)
    assert await keys(store) == await keys(site.store)
    after = await ledger_rows(other)
    assert after["jobs"] == before["jobs"]
    assert after["costs"] == before["costs"] != []
    told = [event for event in after["events"] if event["action"] == "ledger.restored"]
    assert [event for event in after["events"] if event not in told] == before["events"]
    async with opened(tmp_path, other, store) as again:
        assert await check_ledger_objects(again.ledger, store) == (report.objects, ())
        assert await again.opened() == headers
        job = await again.ledger.get(erased.id)
        with pytest.raises(Erased):
            await again.vault.open(job.subject_key_id, job.header, b"")
        await again.done()  # life goes on, and the chain with it
        assert all(chain.intact for chain in await again.ledger.verify_chains())


async def test_it_comes_back_into_postgres_as_well(
    tmp_path: Path, url: str, target: ObjectStore
) -> None:
    source = sqlite(tmp_path, "source")
    async with opened(tmp_path, source, open_store("memory://")) as site:
        await site.fill()
        await save(source, site, target)
        if url == source:
            pytest.skip("the same database")
        await restore(target, url, AUDIT_KEY, open_store("memory://"))
        brought, saved = await ledger_rows(url), await ledger_rows(source)
        assert (brought["jobs"], brought["costs"]) == (saved["jobs"], saved["costs"])


async def test_only_what_is_new_is_copied_and_what_is_gone_is_removed(
    tmp_path: Path, url: str, site: Site, target: ObjectStore
) -> None:
    await site.fill(1)
    first, copied = await save(url, site, target)
    assert copied == first
    job = await site.done()
    assert await save(url, site, target) == (first + 2, 2)
    assert await save(url, site, target) == (first + 2, 0)
    assert len([key for key in await keys(target, "generations") if "manifest" in key]) == 1

    damaged = tmp_path / "saved" / job.object_key
    damaged.write_bytes(b"?" + damaged.read_bytes()[1:])
    (tmp_path / "saved" / job.result_key).unlink()
    assert await save(url, site, target) == (first + 2, 2)
    assert (await check_backup(target)).faults == ()

    await site.ledger.expire([job.id])
    assert await save(url, site, target) == (first, 0)
    assert not {job.object_key, job.result_key} & await keys(target)


async def test_a_run_that_was_stopped_counts_for_nothing(
    tmp_path: Path, url: str, site: Site, target: ObjectStore
) -> None:
    job = await site.done()
    with pytest.raises(ConfigurationError, match="no complete backup"):
        await check_backup(target)

    class Stopping(LocalObjectStore):
        async def put(self, key, chunks):  # type: ignore[no-untyped-def]
            if key.endswith("-manifest"):
                raise Transient("stopped")
            return await super().put(key, chunks)

    stopping = Stopping(tmp_path / "saved")
    with pytest.raises(Transient):
        await save(url, site, stopping)
    assert job.object_key in await keys(target)
    with pytest.raises(ConfigurationError, match="no complete backup"):
        await check_backup(target)

    await save(url, site, target)
    made_at = (await check_backup(target)).manifest.made_at
    with pytest.raises(Transient):
        await save(url, site, stopping)
    checked = await check_backup(target)  # the former one still counts
    assert (checked.manifest.made_at, checked.faults) == (made_at, ())
    await save(url, site, target)
    assert len(await keys(target, "generations")) == 5


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
async def test_damage_is_found_wherever_it_is(tmp_path: Path, how: str) -> None:
    url = sqlite(tmp_path, "ledger")
    root = tmp_path / "saved"
    async with opened(tmp_path, url, open_store("memory://")) as site:
        await site.done()
        await save(url, site, LocalObjectStore(root))
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) == 7
    for number, path in enumerate(files):
        content = path.read_bytes()
        if how == "flip":
            middle = len(content) // 2
            path.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
        elif how == "truncate":
            path.write_bytes(content[:-1])
        else:
            path.unlink()
        source, new = LocalObjectStore(root), sqlite(tmp_path, f"new{number}")
        with pytest.raises(ConfigurationError, match=r"damaged|no complete backup"):
            await restore(source, new, AUDIT_KEY, open_store("memory://"))
        assert not Path(new.partition("///")[2]).exists() or not (await ledger_rows(new))["jobs"]
        if not path.name.endswith("-manifest"):
            checked = await check_backup(source)
            assert [fault.key for fault in checked.faults] == [path.relative_to(root).as_posix()]
        path.write_bytes(content)
    await restore(
        LocalObjectStore(root), sqlite(tmp_path, "fine"), AUDIT_KEY, open_store("memory://")
    )


async def test_a_restore_needs_an_empty_system_and_the_same_audit_key(tmp_path: Path) -> None:
    url = sqlite(tmp_path, "ledger")
    target = open_store("memory://")
    async with opened(tmp_path, url, open_store("memory://")) as site:
        job = await site.done()
        await save(url, site, target)
    with pytest.raises(ConfigurationError, match="empty ledger"):
        await restore(target, url, AUDIT_KEY, open_store("memory://"))
    new = sqlite(tmp_path, "new")
    with pytest.raises(ConfigurationError, match="another audit key"):
        await restore(target, new, bytes(32), open_store("memory://"))
    store = LocalObjectStore(tmp_path / "objects")
    await store.put("studies/foreign", target.get(job.object_key))
    with pytest.raises(ConfigurationError, match="empty object store"):
        await restore(target, new, AUDIT_KEY, store)
    await store.delete("studies/foreign")

    # One that was stopped half-way is taken up again, objects it brought damaged included.
    await store.put(job.object_key, target.get(job.result_key))
    report = await restore(target, new, AUDIT_KEY, store)
    assert all(chain.intact for chain in report.chains)
    assert await keys(store) == {job.object_key, job.result_key}


async def test_what_the_system_lost_is_told_and_the_rest_is_saved(
    tmp_path: Path, url: str, site: Site, target: ObjectStore
) -> None:
    lost, damaged, fine = await site.done(), await site.done(), await site.done()
    await site.store.delete(lost.object_key)
    await site.store.delete(damaged.result_key)
    await site.store.put(damaged.result_key, site.store.get(fine.result_key))
    number, faults = await check_ledger_objects(site.ledger, site.store)
    assert number == 6
    assert {(f.key, f.what.split(":")[0]) for f in faults} == {
        (lost.object_key, "is missing"),
        (damaged.result_key, "was altered"),
    }
    async with LedgerRows(url) as rows:
        report = await back_up(rows, site.store, target)
    assert {fault.key for fault in report.faults} == {lost.object_key, damaged.result_key}
    assert report.objects == 4
    checked = await check_backup(target)
    assert checked.faults == ()
    assert checked.manifest.faults == tuple(sorted((lost.object_key, damaged.result_key)))
    restored = await restore(target, sqlite(tmp_path, "new"), AUDIT_KEY, open_store("memory://"))
    assert restored.objects == 4


async def test_what_goes_while_it_is_copied_makes_the_rows_be_read_again(
    tmp_path: Path, url: str, site: Site, target: ObjectStore
) -> None:
    await site.fill(1)
    going = await site.done()

    class Expiring(ObjectStore):
        def get(self, key: str) -> AsyncIterator[bytes]:
            return self._get(key)

        async def _get(self, key: str) -> AsyncIterator[bytes]:
            if key in (going.object_key, going.result_key):
                await site.ledger.expire([going.id])
                await site.store.delete(key)
                await new_one()
            async for piece in site.store.get(key):
                yield piece

    added: list[Job] = []

    async def new_one() -> None:
        if not added:
            added.append(await site.done())

    async with LedgerRows(url) as rows:
        report = await back_up(rows, Expiring(site.store._store), target)
    assert report.faults == ()
    saved = await keys(target)
    assert not {going.object_key, going.result_key} & saved
    assert {added[0].object_key, added[0].result_key} <= saved
    chains = await check_chains(target, report.manifest, AUDIT_KEY)
    assert all(chain.intact for chain in chains)


async def test_events_written_meanwhile_do_not_break_the_chain(
    url: str, site: Site, target: ObjectStore
) -> None:
    await site.fill(1)
    async with LedgerRows(url) as rows:
        real = rows._read_events

        async def slow(tenant: str, last: int, file: object) -> None:
            await site.fill(1)
            await real(tenant, last, file)  # type: ignore[arg-type]

        rows._read_events = slow  # type: ignore[method-assign]
        report = await back_up(rows, site.store, target)
    chains = await check_chains(target, report.manifest, AUDIT_KEY)
    assert [chain.intact for chain in chains] == [True, True]


async def test_a_backup_without_the_vault_opens_nothing_and_an_old_vault_no_erased_patient(
    tmp_path: Path,
) -> None:
    url = sqlite(tmp_path, "ledger")
    target, saved_keys = open_store("memory://"), open_store("memory://")
    async with opened(tmp_path, url, open_store("memory://")) as site:
        job, other = await site.done(patient="p-1"), await site.done(patient="p-2")
        await back_up_keys(vault_url(url, tmp_path), saved_keys)  # before the erasure
        assert await erased_since(saved_keys, vault_url(url, tmp_path)) == ()
        await site.erase(job)
        await save(url, site, target)
        told = await erased_since(saved_keys, vault_url(url, tmp_path))
        assert [(key.subject, key.at is None) for key in told] == [("p-1", False)]

    new, store = sqlite(tmp_path, "new"), open_store("memory://")
    report = await restore(target, new, AUDIT_KEY, store)
    async with opened(tmp_path, new, store) as site:
        with pytest.raises(NotFound):
            await site.vault.open(other.subject_key_id, other.header, b"")
    assert await restore_keys(saved_keys, vault_url(new, tmp_path), report.erased_keys) == 1
    async with opened(tmp_path, new, store) as site:
        assert await site.vault.open(other.subject_key_id, other.header, b"")
        with pytest.raises(Erased):
            await site.vault.open(job.subject_key_id, job.header, b"")
    with pytest.raises(ConfigurationError, match="empty vault"):
        await restore_keys(saved_keys, vault_url(new, tmp_path), ())
    with pytest.raises(ConfigurationError, match="backup of the ledger"):
        await newest_manifest(saved_keys, "ledger")


def test_a_manifest_tells_when_it_was_altered() -> None:
    manifest = Manifest("ledger", "2030-01-01T00:00:00+00:00", "0.1.0", "0001", {}, ("studies/a",))
    encoded = manifest.encoded()
    assert Manifest.decoded(encoded) == manifest
    for before, after in ((b"0001", b"0002"), (b"studies/a", b"studies/b"), (b"{", b"[")):
        with pytest.raises(ConfigurationError, match="damaged"):
            Manifest.decoded(encoded.replace(before, after, 1))


def test_rows_keep_their_types() -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    values: dict[type, object] = {
        str: 'µ "quoted"\n漢\u2028',
        bytes: bytes(range(256)),
        int: 2**60,
        float: 0.1,
        object: moment,
    }
    row = {column.name: values[column.type.python_type] for column in jobs.columns}
    row["lease_expires_at"] = row["content_key"] = None
    line = encode_row(jobs, row)
    assert line.count(b"\n") == 1
    assert decode_row(jobs, line[:-1]) == row
    for wrong in (b"", b"{}", b"[1]", line[:-1].replace(b"tenant", b"patent")):
        with pytest.raises(ConfigurationError, match="jobs"):
            decode_row(jobs, wrong)

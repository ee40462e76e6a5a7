"""Every object store keeps the same promises; the local one is also durable and private."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.errors import ConfigurationError, Conflict, NotFound, Transient
from client.storage import objects
from client.storage.objects import (
    LocalObjectStore,
    ObjectStore,
    open_store,
    result_key,
    study_key,
)

pytestmark = pytest.mark.contract

MIB = 1024 * 1024


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store("memory://" if request.param == "memory" else tmp_path.as_uri() + "/store")


async def stream(*chunks: bytes, error: BaseException | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk
    if error is not None:
        raise error


async def read(store: ObjectStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


async def keys(store: ObjectStore, prefix: str = "") -> set[str]:
    return {entry.key async for entry in store.list(prefix)}


@pytest.mark.parametrize("pieces", [0, 1, 3, 12])
async def test_what_goes_in_comes_out(store: ObjectStore, pieces: int) -> None:
    chunks = [os.urandom(MIB) for _ in range(pieces)]
    whole = b"".join(chunks)
    stored = await store.put("studies/one", stream(*chunks))
    assert (stored.key, stored.length) == ("studies/one", len(whole))
    assert stored.sha256 == hashlib.sha256(whole).hexdigest()
    assert await read(store, "studies/one") == whole


async def test_reading_is_in_bounded_pieces(store: ObjectStore) -> None:
    await store.put("a", stream(*[bytes(MIB)] * 8))
    assert max([len(p) async for p in store.get("a")]) <= MIB


@pytest.mark.parametrize("pieces", [1, 12])
async def test_nothing_is_overwritten(store: ObjectStore, pieces: int) -> None:
    await store.put("a", stream(b"first"))
    with pytest.raises(Conflict):
        await store.put("a", stream(*[bytes(MIB)] * pieces))
    assert await read(store, "a") == b"first"


@pytest.mark.parametrize("pieces", [1, 12])
async def test_a_broken_upload_leaves_nothing(store: ObjectStore, pieces: int) -> None:
    with pytest.raises(Transient, match="sender went away"):
        await store.put("a", stream(*[bytes(MIB)] * pieces, error=Transient("sender went away")))
    assert await keys(store) == set()
    with pytest.raises(NotFound):
        await read(store, "a")


async def test_delete_is_idempotent_and_list_knows_sizes(store: ObjectStore) -> None:
    await store.put("studies/a", stream(b"12345"))
    await store.put("results/b", stream(b"1"))
    assert [(e.key, e.length) async for e in store.list("studies")] == [("studies/a", 5)]
    await store.delete("studies/a")
    await store.delete("studies/a")
    assert await keys(store) == {"results/b"}


@pytest.mark.parametrize("key", ["", "../a", "/a", "a//b", "a/../b", "a/", "A", "a b", "a#1", "ä"])
async def test_a_key_is_never_a_path(store: ObjectStore, key: str) -> None:
    with pytest.raises(ConfigurationError):
        await store.put(key, stream(b"x"))


async def test_concurrent_creation_has_one_winner(store: ObjectStore) -> None:
    results = await asyncio.gather(
        *(store.put("a", stream(bytes([n]))) for n in range(20)), return_exceptions=True
    )
    winners = [n for n, result in enumerate(results) if not isinstance(result, Exception)]
    assert len(winners) == 1
    assert all(isinstance(r, Conflict) for n, r in enumerate(results) if n not in winners)
    assert await read(store, "a") == bytes(winners)


async def test_a_cancelled_upload_leaves_nothing(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "store")

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield bytes(MIB)
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("studies/a", slow()))
    while not list(tmp_path.rglob("*#*")):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while [p for p in tmp_path.rglob("*") if p.is_file()]:
            await asyncio.sleep(0.02)


async def test_the_local_store_syncs_file_and_folders_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    root = tmp_path / "store"
    await LocalObjectStore(root).put("studies/a", stream(b"x"))
    assert synced == [str(root / "studies" / "a"), str(root / "studies"), str(root)]


async def test_an_object_that_cannot_be_synced_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(objects, "_fsync", failing)
    store = LocalObjectStore(tmp_path / "store")
    with pytest.raises(Transient):
        await store.put("a", stream(b"x"))
    assert await keys(store) == set()


async def test_local_files_are_private(tmp_path: Path) -> None:
    root = tmp_path / "store"
    await LocalObjectStore(root).put("studies/a", stream(b"x"))
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "studies/a").stat().st_mode & 0o777 == 0o600


async def test_old_staged_files_are_swept_and_young_ones_kept(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    (tmp_path / "studies").mkdir()
    old, young, whole = (tmp_path / "studies" / n for n in ("a#1", "b#1", "c"))
    for path in (old, young, whole):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    os.utime(whole, (0, 0))
    assert await store.sweep_partial(3600) == 1
    assert not old.exists()
    assert young.exists()
    assert whole.exists()


@pytest.mark.parametrize("url", ["", "/tmp/x", "ftp://x", "file://host/x", "file:x", "az://c/p"])
def test_a_wrong_url_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url)


def test_cloud_urls_open_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for url in ("s3://bucket/prefix", "gs://bucket", "az://container/prefix"):
        assert isinstance(open_store(url), ObjectStore)


def test_keys_name_job_and_attempt() -> None:
    job = "0b0e4c3e-0000-4000-8000-000000000000"
    assert study_key(job) == f"studies/{job}"
    assert result_key(job, 2) == f"results/{job}-2"

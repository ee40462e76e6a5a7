"""The store on a local disk: durable before it answers, private, and clean after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from client.errors import Transient
from client.objectstore.localobjects import LocalObjectStore

pytestmark = pytest.mark.contract

MIB = 1024 * 1024
WRITER = (sys.executable, "-m", "tests.store_writer")
PROJECT = Path(__file__).parents[2]


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("pieces", [1, 12])
async def test_file_and_folders_are_synced_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    synced: list[str] = []
    real = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    root = tmp_path / "new" / "store"
    store = LocalObjectStore(root)
    assert synced == [str(root.parent), str(tmp_path)]
    synced.clear()
    await store.put("studies/a", stream(*[bytes(MIB)] * pieces))
    assert synced == [str(root / "studies" / "a"), str(root / "studies"), str(root)]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed.")
def test_the_system_calls_show_the_syncs_before_the_acknowledgement(tmp_path: Path) -> None:
    root, trace = tmp_path / "store", tmp_path / "trace"
    # -y writes the path beside each descriptor; 1 is where the writer acknowledges.
    calls = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,write"
    command = ["strace", "-f", "-y", "-e", f"trace={calls}", "-o", str(trace)]
    run = subprocess.run(
        [*command, *WRITER, str(root), "job", "2"],
        cwd=PROJECT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    if b"ptrace" in run.stderr:
        pytest.skip("This system does not let strace trace a process.")
    assert run.returncode == 0, run.stderr
    seen: list[str] = []
    for line in trace.read_text().splitlines():
        if made := re.search(r'(?:rename|link)\w*\(.*"[^"]*/(job-\d)"', line):
            seen.append(f"named {made[1]}")
        elif sync := re.search(rf"f(?:data)?sync\(\d+<{re.escape(str(root))}([^>]*)>\) += 0", line):
            seen.append(f"synced {sync[1]}")
        elif acknowledged := re.search(r'write\(1<[^>]*>, "studies/(job-\d)', line):
            seen.append(f"acknowledged {acknowledged[1]}")
    for number in (0, 1):
        name = f"job-{number}"
        steps = [
            f"named {name}",
            f"synced /studies/{name}",
            "synced /studies",
            "synced ",
            f"acknowledged {name}",
        ]
        start = seen.index(steps[0])
        assert seen[start : start + len(steps)] == steps


async def test_kills_in_the_middle_lose_nothing_and_leave_nothing_after_a_sweep(
    tmp_path: Path,
) -> None:
    root = tmp_path / "store"
    acknowledged: dict[str, str] = {}
    for life in range(5):
        command = [*WRITER, str(root), f"life{life}", "1000", "0.01"]
        with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]  # it is at work
            await asyncio.sleep(random.uniform(0.0, 0.3))
            async with asyncio.timeout(60):
                while not list(root.rglob("*#*")):
                    await asyncio.sleep(0.001)
            writer.kill()
            lines += writer.stdout.read().splitlines()
        for line in lines:
            key, digest = line.decode().split()
            acknowledged[key] = digest
    orphans = len(list(root.rglob("*#*")))
    assert orphans > 0

    store = LocalObjectStore(root)
    assert await store.sweep_partial(0) == orphans
    assert list(root.rglob("*#*")) == []
    stored = {entry.key async for entry in store.list("studies")}
    assert set(acknowledged) <= stored
    # Each life may have ended between the last name and its acknowledgement.
    assert len(stored - set(acknowledged)) <= 5
    for key, digest in acknowledged.items():
        content = b"".join([piece async for piece in store.get(key)])
        assert hashlib.sha256(content).hexdigest() == digest


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("Mounting a small file system takes root's rights.")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("pieces", [3, 15])
async def test_a_full_disk_is_told_and_healed_by_space(small_disk: Path, pieces: int) -> None:
    root = small_disk / "store"
    store = LocalObjectStore(root)
    kept = await store.put("studies/before", stream(bytes(MIB)))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((19 - pieces) * MIB))
    for number in range(3):
        with pytest.raises(Transient, match="try again"):
            await store.put(f"studies/full{number}", stream(*[os.urandom(MIB)] * (pieces + 1)))
    with small_disk.joinpath("rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
        while rest.write(bytes(4096)):
            pass
    with pytest.raises(Transient, match="try again"):
        await store.check()
    assert [(e.key, e.length) async for e in store.list("")] == [("studies/before", MIB)]
    small_disk.joinpath("rest").unlink()
    ballast.unlink()
    await store.check()
    again = await store.put("studies/after", stream(*[bytes(MIB)] * pieces))
    assert await store.sweep_partial(0) == 0
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {kept.key, again.key}


async def test_a_failing_disk_is_told_and_nothing_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalObjectStore(tmp_path / "store")
    real = os.fsync

    def failing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "studies":
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(Transient):
        await store.put("studies/a", stream(b"x"))
    assert [entry async for entry in store.list("")] == []
    monkeypatch.setattr(os, "fsync", real)
    assert (await store.put("studies/a", stream(b"x"))).length == 1

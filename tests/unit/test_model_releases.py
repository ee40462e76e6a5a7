from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.errors import ConfigurationError, NotFound
from client.objectstore.localobjects import LocalObjectStore
from client.triton import delivery
from client.triton.delivery import fetch, publish
from client.triton.release import describe, name_of, parse

pytestmark = pytest.mark.unit

Files = dict[str, bytes]
FILES: Files = {
    "brain_mr/1/.gitkeep": b"",
    "brain_mr/model.yaml": b"name: brain_mr\n",
    "brain_mr_net/1/model.onnx": bytes(range(256)) * 64,
}


def _write(folder: Path, files: Files = FILES) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _read(folder: Path) -> Files:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


async def test_a_pod_gets_the_files_that_were_published(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "store")
    name = await publish(store, _write(tmp_path / "repository"))
    length = await fetch(store, name, tmp_path / "pod")
    assert _read(tmp_path / "pod") == FILES
    assert length == sum(map(len, FILES.values()))


async def test_publishing_twice_sends_nothing_and_names_the_same(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "store")
    repository = _write(tmp_path / "repository")
    name = await publish(store, repository)
    before = _times(tmp_path / "store")
    assert await publish(store, repository) == name
    assert _times(tmp_path / "store") == before


async def test_what_lay_there_before_is_made_right(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "store")
    name = await publish(store, _write(tmp_path / "repository"))
    pod = _write(tmp_path / "pod", {**FILES, "brain_mr/model.yaml": b"old", "stranger/1/x": b"x"})
    kept = pod / "brain_mr_net/1/model.onnx"
    inode = kept.stat().st_ino
    await fetch(store, name, pod)
    assert _read(pod) == FILES
    assert kept.stat().st_ino == inode


async def test_a_changed_byte_in_the_store_is_found(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "store")
    name = await publish(store, _write(tmp_path / "repository"))
    stored = max(
        (tmp_path / "store" / "models" / "files").iterdir(), key=lambda p: p.stat().st_size
    )
    content = bytearray(stored.read_bytes())
    content[1000] ^= 1
    stored.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"model\.onnx: expected SHA-256"):
        await fetch(store, name, tmp_path / "pod")
    assert "brain_mr_net/1/model.onnx" not in _read(tmp_path / "pod")


async def test_another_release_is_not_taken_for_the_one_that_is_pinned(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "store")
    name = await publish(store, _write(tmp_path / "repository"))
    releases = tmp_path / "store" / "models" / "releases"
    (releases / name.removeprefix("sha256:")).write_bytes(
        describe(_write(tmp_path / "other", {"a": b"b"}))
    )
    with pytest.raises(ConfigurationError, match="Expected release"):
        await fetch(store, name, tmp_path / "pod")


async def test_a_release_that_nobody_published_is_not_found(tmp_path: Path) -> None:
    name = name_of(b"never published")
    with pytest.raises(NotFound):
        await fetch(LocalObjectStore(tmp_path / "store"), name, tmp_path / "pod")


def test_the_name_follows_the_files_and_nothing_else(tmp_path: Path) -> None:
    here, there = _write(tmp_path / "a"), _write(tmp_path / "b")
    _write(there, {"brain_mr_net/1/__pycache__/model.cpython-311.pyc": b"x"})
    assert describe(here) == describe(there)
    _write(there, {"brain_mr/model.yaml": b"name: brain_ct\n"})
    assert name_of(describe(here)) != name_of(describe(there))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a"])
def test_a_manifest_cannot_name_files_outside(path: str) -> None:
    file = {"path": path, "length": 1, "sha256": "0" * 64}
    manifest = json.dumps({"schema": "hounsfield.models/1", "files": [file]}).encode()
    with pytest.raises(ConfigurationError, match="no repository can have"):
        parse(manifest, name_of(manifest))


@pytest.mark.parametrize("manifest", [b"", b"[]", b'{"schema": "hounsfield.models/1"}', b"\xff"])
def test_what_is_no_manifest_is_refused(manifest: bytes) -> None:
    with pytest.raises(ConfigurationError, match="no manifest"):
        parse(manifest, name_of(manifest))


def test_the_program_publishes_and_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOUNSFIELD_STORE_URL", (tmp_path / "store").as_uri())
    repository = str(_write(tmp_path / "repository"))
    assert delivery.main(["digest", repository]) == 0
    name = capsys.readouterr().out.strip()
    assert delivery.main(["fetch", name, str(tmp_path / "pod")]) == 1
    assert delivery.main(["publish", repository]) == 0
    assert capsys.readouterr().out.strip() == name
    assert delivery.main(["fetch", name, str(tmp_path / "pod")]) == 0
    assert _read(tmp_path / "pod") == FILES

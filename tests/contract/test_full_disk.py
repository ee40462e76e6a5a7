"""A gateway whose disk is full refuses studies, keeps what it has, and recovers by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.backup.checking import check_ledger_objects
from client.errors import Transient
from client.ingest.sender import IngestClient
from tests.gateways import running_gateway

pytestmark = pytest.mark.contract

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder whose ``objects`` are on a file system of 20 MiB."""
    disk = tmp_path / "objects"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("Mounting a small file system takes root's rights.")
    yield tmp_path
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("size", [2 * MIB, 12 * MIB])
async def test_a_full_disk_refuses_and_heals(small_disk: Path, size: int) -> None:
    async with running_gateway(small_disk) as gateway:
        settings = replace(gateway.sender_settings(), attempts=1)
        async with IngestClient(settings) as client:
            kept = await client.submit([b"kept"])
            ballast = gateway.store_root / "ballast"
            ballast.write_bytes(bytes(19 * MIB))
            for _ in range(3):
                with pytest.raises(Transient):
                    await client.submit([os.urandom(size)])
            assert {path.name for path in gateway.stored_files()} == {"ballast", kept.id}
            assert len(await client.list_jobs()) == 1
            ballast.unlink()
            healed = await client.submit([os.urandom(size)])
        assert {path.name for path in gateway.stored_files()} == {kept.id, healed.id}
        assert await check_ledger_objects(gateway.ledger, gateway.store) == (2, ())
        assert await gateway.store.sweep_partial(0) == 0

"""What a Triton server shows to other users of the machine, and what its crash leaves behind."""

from __future__ import annotations

import stat
from pathlib import Path

import psutil
import pytest

from client.triton.embedded import EmbeddedTriton
from client.triton.installation import SHARED_MEMORY, shared_memory_prefix

pytestmark = pytest.mark.integration


async def test_regions_with_pixels_are_readable_by_their_owner_only(
    triton_server: EmbeddedTriton,
) -> None:
    regions = list(SHARED_MEMORY.glob(f"{shared_memory_prefix(triton_server.pid)}*"))
    assert regions
    assert {stat.S_IMODE(region.stat().st_mode) & 0o077 for region in regions} == {0}


async def test_neither_the_server_nor_its_models_dump_core(triton_server: EmbeddedTriton) -> None:
    server = psutil.Process(triton_server.pid)
    processes = [server, *server.children(recursive=True)]
    assert len(processes) > 2
    for process in processes:
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    command = (Path("/proc") / str(server.pid) / "comm").read_text().strip()
    assert command == "tritonserver"

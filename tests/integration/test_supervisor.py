"""The supervisor restarts what dies, stops in order and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from client.errors import ConfigurationError
from client.stack.supervisor import (
    ServiceSpec,
    ServiceStatus,
    Supervisor,
    lock_is_held,
    read_status,
)
from tests.processes import alive

pytestmark = pytest.mark.integration

# A service that, once it runs, says so in a file and starts a helper of its own.
SERVICE = textwrap.dedent(
    """
    import pathlib, subprocess, sys, time
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    pathlib.Path(sys.argv[1]).write_text(str(helper.pid))
    time.sleep(120)
    """
)


def service(name: str, folder: Path, program: str = SERVICE) -> ServiceSpec:
    mark = folder / f"{name}.up"

    async def ready() -> bool:
        return mark.exists()

    return ServiceSpec(
        name=name,
        argv=(sys.executable, "-c", program, str(mark)),
        env={"PATH": os.defpath},
        ready=ready,
        start_timeout_s=20,
        grace_s=5,
    )


@contextlib.asynccontextmanager
async def running(folder: Path, names: tuple[str, ...]) -> AsyncIterator[asyncio.Task[None]]:
    supervisor = Supervisor([service(n, folder) for n in names], folder / "run", folder / "logs")
    task = asyncio.create_task(supervisor.run())
    try:
        await until(folder, lambda found: len(found) == len(names) and all_ready(found))
        yield task
    finally:
        # Not by SIGTERM, as `hounsfield down` does: where nobody handles it, it ends the tests.
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)


def all_ready(found: tuple[ServiceStatus, ...]) -> bool:
    return all(s.state == "ready" for s in found)


async def until(folder: Path, condition, timeout_s: float = 20.0) -> tuple[ServiceStatus, ...]:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(json.JSONDecodeError, FileNotFoundError):
            found = read_status(folder / "run")
            if found and condition(found):
                return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"still {read_status(folder / 'run')}")


async def test_services_start_in_order_and_stop_with_their_helpers(tmp_path: Path) -> None:
    async with running(tmp_path, ("first", "second")):
        found = read_status(tmp_path / "run")
        assert [s.name for s in found] == ["first", "second"]
        assert found[0].since <= found[1].since
        pids = [s.pid for s in found]
        pids += [int((tmp_path / f"{n}.up").read_text()) for n in ("first", "second")]
        assert all(psutil.pid_exists(pid) for pid in pids)
    await all_gone(pids)
    assert not lock_is_held(tmp_path / "run")
    assert read_status(tmp_path / "run") == ()


async def test_what_is_killed_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path, ("only",)):
        before = read_status(tmp_path / "run")[0]
        os.kill(before.pid, signal.SIGKILL)
        after = await until(tmp_path, lambda found: found[0].restarts == 1 and all_ready(found))
        assert after[0].pid != before.pid


async def test_a_second_supervisor_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, ("only",)):
        second = Supervisor([], tmp_path / "run", tmp_path / "logs")
        with pytest.raises(ConfigurationError, match="already running"):
            await second.run()


async def test_a_service_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    broken = service("broken", tmp_path, "import sys; sys.exit('no licence on this machine')")
    with pytest.raises(ConfigurationError, match="no licence on this machine"):
        await Supervisor([broken], tmp_path / "run", tmp_path / "logs").run()
    assert not lock_is_held(tmp_path / "run")


async def test_kill_9_of_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, pathlib, sys
        sys.path[:0] = sys.argv[2:]
        from client.stack.supervisor import Supervisor
        from tests.integration.test_supervisor import service
        folder = pathlib.Path(sys.argv[1])
        asyncio.run(Supervisor([service("only", folder)], folder / "run", folder / "logs").run())
        """
    )
    root = str(Path(__file__).parents[2])
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), root
    )
    found = await until(tmp_path, all_ready)
    parent.kill()
    await parent.wait()
    await all_gone([found[0].pid])
    assert not lock_is_held(tmp_path / "run")
    os.kill(int((tmp_path / "only.up").read_text()), signal.SIGKILL)


async def all_gone(pids: list[int], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert left == []

"""Birth, illness and death of an embedded Triton server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from client.errors import ConfigurationError
from client.triton.embedded import EmbeddedTriton, is_ready
from client.triton.inference import TritonModel, TritonModelSettings, connect
from client.triton.installation import SHARED_MEMORY
from client.triton.probe import synthetic_series
from client.triton.server import TritonSettings, admin_headers
from client.triton.watchdog import ModelEvent, Watchdog, WatchdogEvent
from preprocess.spec import ModelSpec
from tests.processes import alive

pytestmark = pytest.mark.integration


def stubs(server_pid: int) -> dict[str, int]:
    """Process id of each Python model, by model name; one that is ending has no command line."""
    found = {}
    for child in psutil.Process(server_pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            match child.cmdline():
                case [program, model, *_] if "triton_python_backend_stub" in program:
                    found[Path(model).parents[1].name] = child.pid
    return found


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("victim", ["brain_mr_net", "brain_mr_prep"])
async def test_a_killed_model_is_revived_under_load(
    random_repository: Path, tmp_path: Path, brain_mr: ModelSpec, victim: str
) -> None:
    """Requests that run meanwhile are tried again and all come back, unchanged."""
    plan, stored = synthetic_series(brain_mr)
    slices = np.concatenate([stored + step for step in range(12)]).astype(np.int16)
    events: list[WatchdogEvent] = []
    server = TritonSettings(random_repository, exit_timeout_s=1)
    async with EmbeddedTriton(server, tmp_path / "log") as triton:
        settings = TritonModelSettings(triton.url, slices_in_flight=4)
        async with TritonModel(brain_mr, settings) as model:
            expected = await model.segment(plan, slices)
            watchdog = Watchdog(triton.settings, events.append, interval_s=0.2)
            watching = asyncio.create_task(watchdog.run())
            os.kill(stubs(triton.pid)[victim], signal.SIGKILL)
            masks = await model.segment(plan, slices)
            while not events or events[-1].kind is not ModelEvent.REVIVED:
                await asyncio.sleep(0.1)
            watching.cancel()
    np.testing.assert_array_equal(masks, expected)
    assert [event.kind for event in events] == [ModelEvent.DEAD, ModelEvent.REVIVED]
    assert events[0].status == "INTERNAL"


async def test_a_watchdog_that_may_not_reload_says_so_and_goes_on(
    random_repository: Path, tmp_path: Path, brain_mr: ModelSpec
) -> None:
    events: list[WatchdogEvent] = []
    server = TritonSettings(random_repository, exit_timeout_s=1)
    async with EmbeddedTriton(server, tmp_path / "log") as triton:
        stranger = Watchdog(replace(triton.settings, admin_key="guess"), events.append)
        os.kill(stubs(triton.pid)["brain_mr_net"], signal.SIGKILL)
        await stranger.check(brain_mr)
        await Watchdog(triton.settings, events.append).check(brain_mr)
    assert [event.kind for event in events] == [
        ModelEvent.DEAD,
        ModelEvent.STILL_DEAD,
        ModelEvent.DEAD,
        ModelEvent.REVIVED,
    ]


async def test_a_model_that_dies_while_it_is_loaded_does_not_hold_the_watchdog(
    random_repository: Path, tmp_path: Path, brain_mr: ModelSpec
) -> None:
    """Killed before it has spoken to its server, it is waited for for ever: only a limit helps."""
    events: list[WatchdogEvent] = []
    server = TritonSettings(random_repository, exit_timeout_s=1)
    async with EmbeddedTriton(server, tmp_path / "log") as triton:
        watchdog = Watchdog(triton.settings, events.append, reload_timeout_s=4.0)
        before = stubs(triton.pid)
        os.kill(before["brain_mr_prep"], signal.SIGKILL)
        checking = asyncio.create_task(watchdog.check(brain_mr))
        while (fresh := stubs(triton.pid).get("brain_mr_prep")) in (None, before["brain_mr_prep"]):
            await asyncio.sleep(0.01)
        os.kill(fresh, signal.SIGKILL)
        async with asyncio.timeout(40.0):
            await checking
    assert [event.kind for event in events] == [ModelEvent.DEAD, ModelEvent.STILL_DEAD]


async def test_a_healthy_model_is_left_alone(triton_server: EmbeddedTriton) -> None:
    events: list[WatchdogEvent] = []
    before = stubs(triton_server.pid)
    for spec in triton_server.settings.specs:
        await Watchdog(triton_server.settings, events.append).check(spec)
    assert events == []
    assert stubs(triton_server.pid) == before


async def test_a_model_at_work_is_not_probed_and_one_without_work_is(
    triton_server: EmbeddedTriton,
) -> None:
    """An answer to a request proves that the model lives; probes would only take its time."""
    events: list[WatchdogEvent] = []
    (spec, *_) = triton_server.settings.specs
    plan, stored = synthetic_series(spec)
    watchdog = Watchdog(triton_server.settings, events.append, interval_s=0.5)
    async with TritonModel(spec, TritonModelSettings(triton_server.url)) as model:
        async with answers_counted(triton_server, spec) as idle, watched(watchdog):
            await asyncio.sleep(2.25)
        async with answers_counted(triton_server, spec) as busy, watched(watchdog):
            began, requests = time.monotonic(), 0
            while time.monotonic() - began < 3.0:
                await model.segment(plan, stored)
                requests += 1
    assert events == []
    assert 2 <= idle[0] <= 3  # at every second look
    assert requests <= busy[0] <= requests + 1  # the first look knows of no work yet


@contextlib.asynccontextmanager
async def watched(watchdog: Watchdog) -> AsyncIterator[None]:
    watching = asyncio.create_task(watchdog.run())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@contextlib.asynccontextmanager
async def answers_counted(server: EmbeddedTriton, spec: ModelSpec) -> AsyncIterator[list[int]]:
    """Yield a list that holds, at the end, how many requests the model answered meanwhile."""
    counted: list[int] = []
    before = await answers_of(server, spec)
    yield counted
    counted.append(await answers_of(server, spec) - before)


async def answers_of(server: EmbeddedTriton, spec: ModelSpec) -> int:
    client = connect(server.url)
    try:
        told = await client.get_inference_statistics(
            spec.name, headers=admin_headers(server.settings.admin_key)
        )
    finally:
        await client.close()
    return sum(one.inference_stats.success.count for one in told.model_stats)


HOST = """
import asyncio, sys
from pathlib import Path
from client.triton.embedded import EmbeddedTriton
from client.triton.server import TritonSettings

async def main():
    async with EmbeddedTriton(TritonSettings(Path(sys.argv[1])), Path(sys.argv[2])) as server:
        print(server.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_no_process_survives_the_kill_of_its_parent(
    random_repository: Path, tmp_path: Path
) -> None:
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(random_repository), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        cwd=root,
        text=True,
    ) as host:
        assert host.stdout is not None
        server = int(host.stdout.readline())
        family = [server, *stubs(server).values()]
        assert len(family) == 3
        host.kill()
        host.wait()
    assert until(lambda: not any(alive(pid) for pid in family))


async def test_an_ended_server_leaves_nothing(random_repository: Path, tmp_path: Path) -> None:
    async with EmbeddedTriton(TritonSettings(random_repository), tmp_path / "log") as triton:
        pid = triton.pid
        family = [pid, *stubs(pid).values()]
        assert list(SHARED_MEMORY.glob(f"hounsfield_triton_{pid}_*"))
        assert await is_ready(triton.settings)
    assert not any(alive(member) for member in family)
    assert not list(SHARED_MEMORY.glob(f"hounsfield_triton_{pid}_*"))


async def test_a_taken_port_is_an_error_and_not_the_other_server(
    random_repository: Path, tmp_path: Path, triton_server: EmbeddedTriton
) -> None:
    port = triton_server.settings.grpc_port
    settings = TritonSettings(random_repository, grpc_port=port, exit_timeout_s=1)
    with pytest.raises(ConfigurationError, match="end of its log"):
        async with EmbeddedTriton(settings, tmp_path / "log", start_timeout_s=15):
            pass
    assert await is_ready(triton_server.settings)


async def test_a_model_that_cannot_load_is_reported_with_the_log(
    random_repository: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "models"
    broken.mkdir()
    for model in random_repository.iterdir():
        (broken / model.name).symlink_to(model)
    (broken / "brain_mr_net").unlink()
    with pytest.raises(ConfigurationError, match="brain_mr_net"):
        async with EmbeddedTriton(TritonSettings(broken), tmp_path / "log"):
            pass

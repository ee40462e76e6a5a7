"""Slices and masks in shared memory: what happens when either side dies, or sees something else."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from client.triton import regions, transport
from client.triton.embedded import EmbeddedTriton
from client.triton.inference import TritonModel, TritonModelSettings
from client.triton.installation import SHARED_MEMORY
from client.triton.regions import Owner, Region, lives, owner_of
from client.triton.server import TritonSettings, worker_headers
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan, plan_series
from preprocess.spec import ModelSpec

pytestmark = pytest.mark.integration

Study = tuple[SeriesPlan, NDArray[np.int16]]


@pytest.fixture(scope="module")
def study(brain_mr: ModelSpec) -> Study:
    stored = np.random.default_rng(7).integers(0, 900, (9, 120, 90)).astype(np.int16)
    return plan_series(
        brain_mr, stored, SliceGeometry(120, 90, 1.1, 1.4, (1, 0, 0, 0, 1, 0))
    ), stored


def asked(server: EmbeddedTriton, **changes: object) -> TritonModelSettings:
    settings = TritonModelSettings(
        server.url, slices_per_request=2, worker_key=server.settings.worker_key
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def names_in_dev_shm() -> list[str]:
    return [path.name for path in SHARED_MEMORY.iterdir() if owner_of(path.name)]


async def open_regions(server: EmbeddedTriton) -> set[str]:
    """The regions of ours that the server has open."""
    async with grpc.aio.insecure_channel(server.url) as channel:
        status = await services.GRPCInferenceServiceStub(channel).SystemSharedMemoryStatus(
            messages.SystemSharedMemoryStatusRequest(),
            metadata=tuple(worker_headers(server.settings.worker_key).items()),
        )
    return {name for name in status.regions if owner_of(name)}


@pytest.fixture
async def expected(
    triton_server: EmbeddedTriton, brain_mr: ModelSpec, study: Study
) -> NDArray[np.uint8]:
    async with TritonModel(brain_mr, asked(triton_server, worker_key="")) as model:
        masks = await model.segment(*study)
        assert model.way == "messages"
    return masks


async def test_memory_has_no_name_while_it_is_used_and_is_given_back(
    triton_server: EmbeddedTriton, brain_mr: ModelSpec, study: Study, expected: NDArray[np.uint8]
) -> None:
    before = await open_regions(triton_server)
    async with TritonModel(brain_mr, asked(triton_server)) as model:
        for _ in range(3):
            np.testing.assert_array_equal(await model.segment(*study), expected)
        assert model.way == "shared memory"
        assert 1 <= len(await open_regions(triton_server) - before) <= 5
        assert names_in_dev_shm() == []
    assert await open_regions(triton_server) == before


async def test_without_the_right_key_slices_travel_in_messages(
    triton_server: EmbeddedTriton, brain_mr: ModelSpec, study: Study, expected: NDArray[np.uint8]
) -> None:
    async with TritonModel(brain_mr, asked(triton_server, worker_key="guess")) as model:
        np.testing.assert_array_equal(await model.segment(*study), expected)
        assert model.way == "messages"
    assert names_in_dev_shm() == []


async def test_a_server_that_sees_other_memory_is_found_out(
    triton_server: EmbeddedTriton,
    brain_mr: ModelSpec,
    study: Study,
    expected: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on another host where somebody has taken the name: it opens, reads and writes there."""

    class Elsewhere(Region):
        def __init__(self, owner: Owner, size_bytes: int) -> None:
            super().__init__(owner, size_bytes)
            self._other = Region(owner, size_bytes)

        @property
        def key(self) -> str:
            return self._other.key

        def unlink(self) -> None:
            super().unlink()
            self._other.unlink()

    class Zeroed(Elsewhere):
        def __init__(self, owner: Owner, size_bytes: int) -> None:
            super().__init__(owner, size_bytes)
            # A request that the server accepts, so that it does answer, elsewhere.
            plan, stored = study
            start = 0
            for name, array in plan.batch(stored[:2]).items():
                content = np.frombuffer(array.tobytes(), np.uint8)
                self._other.content[start : start + len(content)] = content
                start += -(-len(content) // 64) * 64
                assert name

    monkeypatch.setattr(transport, "Region", Zeroed)
    async with TritonModel(brain_mr, asked(triton_server)) as model:
        plan, stored = study
        masks = await model.segment(plan, stored[2:4])
        assert model.way == "messages"
    np.testing.assert_array_equal(masks, expected[2:4])
    assert names_in_dev_shm() == []


async def test_a_full_shared_memory_is_not_needed(
    triton_server: EmbeddedTriton,
    brain_mr: ModelSpec,
    study: Study,
    expected: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    async with TritonModel(brain_mr, asked(triton_server)) as model:
        np.testing.assert_array_equal(await model.segment(*study), expected)
        assert model.way == "messages"
    assert names_in_dev_shm() == []


async def test_a_request_too_large_for_a_region_goes_as_a_message(
    triton_server: EmbeddedTriton,
    brain_mr: ModelSpec,
    study: Study,
    expected: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, stored = study
    async with TritonModel(brain_mr, asked(triton_server)) as model:
        await model.segment(plan, stored[:1])
        monkeypatch.setattr(transport, "LARGEST_REGION_BYTES", 1000)
        np.testing.assert_array_equal(await model.segment(plan, stored), expected)
        monkeypatch.undo()
        await model.segment(plan, stored[:1])
        assert model.way == "shared memory"


async def test_what_was_cancelled_cannot_write_into_a_later_answer(
    triton_server: EmbeddedTriton, brain_mr: ModelSpec, study: Study, expected: NDArray[np.uint8]
) -> None:
    plan, stored = study
    other = stored[:, ::-1].copy()
    async with TritonModel(brain_mr, asked(triton_server)) as model:
        for step in range(12):
            late = asyncio.create_task(model.segment(plan, other))
            await asyncio.sleep(0.01 + 0.01 * (step % 4))
            late.cancel()
            np.testing.assert_array_equal(await model.segment(plan, stored), expected)
            await asyncio.gather(late, return_exceptions=True)
        # What the server was still busy with is closed when it is done.
        assert len(await open_regions(triton_server)) < 20
        assert model.way == "shared memory"
    assert names_in_dev_shm() == []


WORKER = """
import asyncio, sys
from pathlib import Path
from client.triton.inference import TritonModel, TritonModelSettings
from client.triton.probe import synthetic_series
from preprocess.spec import load_model_spec

async def main():
    spec = load_model_spec(Path(sys.argv[1], "brain_mr", "model.yaml"))
    async with TritonModel(spec, TritonModelSettings(sys.argv[2], worker_key=sys.argv[3])) as model:
        await model.segment(*synthetic_series(spec))
        print(model.way, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_the_next_worker_has_the_memory_of_a_killed_one_closed(
    triton_server: EmbeddedTriton, brain_mr: ModelSpec, study: Study
) -> None:
    settings = triton_server.settings
    before = await open_regions(triton_server)
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, settings.repository, triton_server.url, settings.worker_key],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "shared memory\n"
        left = await open_regions(triton_server) - before
        assert len(left) == 1
        async with TritonModel(brain_mr, asked(triton_server)) as model:
            await model.segment(*study)
            assert left <= await open_regions(triton_server)  # it lives
        worker.send_signal(signal.SIGKILL)
    assert names_in_dev_shm() == []
    assert left <= await open_regions(triton_server)
    async with TritonModel(brain_mr, asked(triton_server)) as model:
        await model.segment(*study)
        assert not left & await open_regions(triton_server)


async def test_a_restarted_server_gets_new_regions(
    random_repository: Path, tmp_path: Path, brain_mr: ModelSpec, study: Study
) -> None:
    settings = TritonSettings(random_repository, exit_timeout_s=1).resolved()
    async with EmbeddedTriton(settings, tmp_path / "log") as server:
        model = TritonModel(brain_mr, asked(server))
        await model.__aenter__()
        expected = await model.segment(*study)
    segmenting = asyncio.create_task(model.segment(*study))
    async with EmbeddedTriton(settings, tmp_path / "log") as server:
        np.testing.assert_array_equal(await segmenting, expected)
        np.testing.assert_array_equal(await model.segment(*study), expected)
        await model.segment(*study)
        assert model.way == "shared memory"
        assert names_in_dev_shm() == []
        await model.__aexit__(None, None, None)
        assert await open_regions(server) == set()


def test_a_name_that_a_dead_process_left_is_removed_and_a_living_ones_is_not() -> None:
    with Owner() as living, Owner() as dying:
        kept, left = Region(living, 5000), Region(dying, 5000)
        dying.__exit__()
        regions.clear_names()
        assert names_in_dev_shm() == [kept.name]
        kept.close()
        left.close()


def test_regions_are_the_owners_alone_and_owners_are_told_apart() -> None:
    with Owner() as owner:
        region = Region(owner, 5000)
        path = SHARED_MEMORY / region.name
        assert path.stat().st_mode & 0o777 == 0o600
        assert owner_of(region.name) == owner.token
        assert lives(owner.token)
        region.content[:] = 3
        assert path.read_bytes() == bytes([3]) * 5000
        region.close()
        assert not path.exists()
    assert not lives(owner.token)
    assert owner_of("hounsfield_slices_x_y") == ""
    assert regions.owner_of(f"{region.name}0") == ""

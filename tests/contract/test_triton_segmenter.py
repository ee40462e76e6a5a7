"""What every ``Segmenter`` keeps, the fake one and the one that asks a real Triton server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import numpy as np
import pytest
from numpy.typing import NDArray

from client.errors import RefusalCode, Rejected
from client.jobs import Priority
from client.triton.fake import FakeSegmenter
from client.triton.inference import Segmenter, TritonModel, TritonModelSettings
from client.triton.occupancy import EngineUse
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan, plan_series
from preprocess.spec import ModelSpec

pytestmark = pytest.mark.contract

IN_FLIGHT = 6

Open = Callable[[], AbstractAsyncContextManager[Segmenter]]


@pytest.fixture(params=["fake", "messages", "shared memory"])
def open_segmenter(request: pytest.FixtureRequest, brain_mr: ModelSpec) -> Open:
    if request.param != "fake":
        server = request.getfixturevalue("triton_server")
        key = server.settings.worker_key if request.param == "shared memory" else ""
        settings = TritonModelSettings(
            server.url, slices_in_flight=IN_FLIGHT, slices_per_request=2, worker_key=key
        )
        return lambda: TritonModel(brain_mr, settings, server.settings.repository)

    @contextlib.asynccontextmanager
    async def fake() -> AsyncIterator[Segmenter]:
        yield FakeSegmenter(brain_mr)

    return fake


@pytest.fixture(scope="module")
def series() -> NDArray[np.int16]:
    """Seven noisy slices, each with a square elsewhere."""
    stored = np.random.default_rng(0).integers(0, 200, (7, 90, 120)).astype(np.int16)
    for index in range(7):
        stored[index, 10 * index : 10 * index + 25, 20:70] += 700
    return stored


@pytest.fixture(scope="module")
def plan(brain_mr: ModelSpec, series: NDArray[np.int16]) -> SeriesPlan:
    return plan_series(brain_mr, series, SliceGeometry(90, 120, 2.0, 1.5, (0, 1, 0, 0, 0, -1)))


async def test_masks_come_back_in_the_order_of_the_slices(
    open_segmenter: Open, series: NDArray[np.int16], plan: SeriesPlan
) -> None:
    async with open_segmenter() as segmenter:
        masks = await segmenter.segment(plan, series)
        singles = [await segmenter.segment(plan, series[i : i + 1]) for i in range(len(series))]
    assert masks.dtype == np.uint8
    assert masks.shape == (7, *segmenter.spec.geometry.size)
    np.testing.assert_array_equal(masks, np.concatenate(singles))
    assert len({mask.tobytes() for mask in masks}) == 7
    assert masks.max() <= len(segmenter.spec.segments)


async def test_progress_grows_to_the_number_of_slices(
    open_segmenter: Open, series: NDArray[np.int16], plan: SeriesPlan
) -> None:
    seen: list[int] = []
    async with open_segmenter() as segmenter:
        await segmenter.segment(plan, series, progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == len(series)


async def test_the_masks_fit_the_native_grid(
    open_segmenter: Open, series: NDArray[np.int16], plan: SeriesPlan
) -> None:
    async with open_segmenter() as segmenter:
        masks = plan.restore(await segmenter.segment(plan, series))
    assert masks.shape == series.shape


async def test_no_slices_give_no_masks(
    open_segmenter: Open, series: NDArray[np.int16], plan: SeriesPlan
) -> None:
    async with open_segmenter() as segmenter:
        masks = await segmenter.segment(plan, series[:0])
    assert masks.shape == (0, *segmenter.spec.geometry.size)


@pytest.mark.parametrize("change", [lambda s: s[:, :-1], lambda s: s.astype(np.uint16)])
async def test_slices_that_do_not_fit_their_plan_are_rejected(
    open_segmenter: Open,
    series: NDArray[np.int16],
    plan: SeriesPlan,
    change: Callable[[NDArray[np.int16]], NDArray[np.int16]],
) -> None:
    async with open_segmenter() as segmenter:
        with pytest.raises(Rejected) as caught:
            await segmenter.segment(plan, change(series))
        assert caught.value.code is RefusalCode.INVALID_ATTRIBUTE
        await segmenter.segment(plan, series[:1])


async def test_the_identity_names_the_model_and_its_description(
    open_segmenter: Open, brain_mr: ModelSpec
) -> None:
    async with open_segmenter() as segmenter:
        identity = await segmenter.identity()
    assert identity.name == brain_mr.name
    assert identity.version == "1"
    assert identity.spec_sha256 == brain_mr.sha256
    assert identity.server
    assert identity.engine
    assert identity.device == "cpu"


async def test_the_time_that_a_server_is_kept_is_shared_by_its_slices(
    open_segmenter: Open, series: NDArray[np.int16], plan: SeriesPlan
) -> None:
    long, short, nothing = EngineUse(), EngineUse(), EngineUse()
    many = np.concatenate([series] * 4)
    async with open_segmenter() as segmenter:
        began = time.monotonic()
        await asyncio.gather(
            segmenter.segment(plan, many, use=long), segmenter.segment(plan, series, use=short)
        )
        wall_s = time.monotonic() - began
        await segmenter.segment(plan, series[:0], use=nothing)
        with pytest.raises(Rejected):
            await segmenter.segment(plan, series[:, :-1], use=nothing)
    assert (long.slices, short.slices, nothing.slices) == (28, 7, 0)
    # Once for both together, however many they are, and next to nothing between two slices.
    assert 0.8 * wall_s < long.seconds + short.seconds <= wall_s
    assert long.seconds > short.seconds
    assert nothing.seconds < 0.1 * wall_s


async def test_stat_slices_go_before_routine_slices_that_are_not_sent(
    open_segmenter: Open, series: NDArray[np.int16], plan: SeriesPlan
) -> None:
    """While a STAT series is under way, only what was sent before it comes back, and what is sent
    beside its last slices."""
    routine = np.concatenate([series] * 12)
    done, started = 0, asyncio.Event()

    def progress(count: int) -> None:
        nonlocal done
        done = count
        started.set()

    async with open_segmenter() as segmenter:
        expected = await segmenter.segment(plan, series)
        slow = asyncio.create_task(segmenter.segment(plan, routine, progress=progress))
        await started.wait()
        before = done
        urgent = await segmenter.segment(plan, series, priority=Priority.STAT)
        meanwhile = done - before
        masks = await slow
    assert meanwhile <= 2 * IN_FLIGHT
    np.testing.assert_array_equal(urgent, expected)
    np.testing.assert_array_equal(masks, np.concatenate([expected] * 12))


async def test_studies_of_several_shapes_in_flight_together_change_nothing(
    open_segmenter: Open, brain_mr: ModelSpec
) -> None:
    studies = []
    for seed, shape in enumerate([(3, 90, 120), (9, 512, 512), (1, 33, 200), (6, 217, 181)]):
        stored = np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)
        orientation = [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)][seed % 2]
        grid = SliceGeometry(*shape[1:], 0.5 + seed, 0.6 + seed, orientation)
        studies.append((plan_series(brain_mr, stored, grid), stored))
    async with open_segmenter() as segmenter:
        alone = [
            np.concatenate([await segmenter.segment(plan, one[None]) for one in stored])
            for plan, stored in studies
        ]
        together = await asyncio.gather(
            *(segmenter.segment(*study) for study in studies for _ in range(2))
        )
    for index, masks in enumerate(together):
        np.testing.assert_array_equal(masks, alone[index // 2])

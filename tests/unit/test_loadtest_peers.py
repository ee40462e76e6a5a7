"""The peers' environments follow their requirements, and their work is ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.errors import ConfigurationError
from loadtest.peers.environments import NAMES, PEERS, Environment
from loadtest.peers.work import (
    AsyncSegmenter,
    Segmenter,
    Slice,
    infer,
    network_image,
    pack,
    unpack,
)
from preprocess.reference import preprocess_slice
from tests.networks import write_network

pytestmark = pytest.mark.unit

CANVAS = (48, 64)
SIDE = 64


def test_an_environment_that_is_not_made_says_how_to_make_it(tmp_path: Path) -> None:
    environment = Environment.of("fastapi", tmp_path)
    assert environment.folder == tmp_path / "fastapi"
    assert not environment.is_current()
    with pytest.raises(ConfigurationError, match=r"`python -m loadtest\.peers install fastapi`"):
        environment.require()


def test_there_is_no_environment_of_an_unknown_peer() -> None:
    with pytest.raises(ConfigurationError, match="'torchserve'"):
        Environment.of("torchserve")


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_pinned_to_the_version_that_we_use(name: str) -> None:
    pinned = dict(line.split("==") for line in Environment.of(name).packages)
    constraints = (PEERS.parents[1] / "constraints.txt").read_text().splitlines()
    ours = dict(line.split("==") for line in constraints if not line.startswith("#"))
    shared = {"highdicom", "monai", "numpy", "openvino", "pydicom", "scipy"}
    assert pinned
    for package in shared & pinned.keys():
        assert pinned[package] == ours[package], package


slices = st.tuples(st.integers(1, 90), st.integers(1, 90)).flatmap(
    lambda shape: st.builds(
        Slice,
        image=st.integers(0, 2**32 - 1).map(
            lambda seed: np.random.default_rng(seed).integers(-2000, 4000, shape, dtype=np.int16)
        ),
        region=st.sampled_from(
            [
                (0.0, 0.0, float(shape[0]), float(shape[1])),
                (float(shape[0]), 0.0, 0.0, float(shape[1])),
                (0.25 * shape[0], float(shape[1]), 0.75 * shape[0], 0.0),
            ]
        ),
        size=st.one_of(
            st.tuples(st.integers(1, CANVAS[0]), st.integers(1, CANVAS[1])),
            st.just((min(shape[0], CANVAS[0]), min(shape[1], CANVAS[1]))),
        ),
        intensity=st.tuples(
            st.floats(1e-4, 1e-2),
            st.floats(-1, 1, allow_subnormal=False),
            st.floats(0.5, 6),
            st.floats(-3, 3, allow_subnormal=False),
        ),
    )
)


@settings(deadline=None)
@given(slices)
def test_the_work_is_that_of_the_reference(one: Slice) -> None:
    expected = preprocess_slice(*one, CANVAS)
    np.testing.assert_allclose(network_image(one, CANVAS)[0], expected, rtol=0, atol=1e-4)


@settings(deadline=None)
@given(slices)
def test_a_request_holds_the_slice_and_its_plan(one: Slice) -> None:
    image, *plan = unpack(pack(one))
    np.testing.assert_array_equal(image, one.image)
    np.testing.assert_allclose(np.concatenate(plan), np.concatenate(one[1:]), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("body", [b"", b"\0" * 48, pack(Slice(np.zeros((2, 3), np.int16), (0, 0, 2, 3), (2, 3), (1, 0, 1, 0)))[:-1]])  # fmt: skip  # noqa: E501
def test_a_damaged_request_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected a header"):
        unpack(body)


async def test_alone_in_a_batch_or_side_by_side_a_slice_gets_the_references_mask(
    tmp_path: Path,
) -> None:
    network = tmp_path / "model.onnx"
    write_network(network, side=SIDE)
    rng = np.random.default_rng(0)
    each = [
        Slice(
            rng.integers(0, 1500, (80, 70), dtype=np.int16),
            (80.0, 0.0, 0.0, 70.0),
            (60, 52),
            (1 / 1500, 0.0, 4.0, -2.0),
        )
        for _ in range(11)
    ]
    images = np.stack([preprocess_slice(*one, (SIDE, SIDE)) for one in each])
    expected = infer(network, "f32", images)
    bodies = [pack(one) for one in each]

    batching, answering = Segmenter(network, "f32"), AsyncSegmenter(network, "f32")
    alone = [batching.batch([body])[0] for body in bodies]
    batched = batching.batch(bodies)
    one_by_one = [await answering.segment(body) for body in bodies]
    together = await asyncio.gather(*(answering.segment(body) for body in bodies))

    assert len(np.unique(expected)) > 1
    for masks in (alone, batched, one_by_one, together):
        got = np.stack([np.frombuffer(mask, np.uint8).reshape(SIDE, SIDE) for mask in masks])
        assert (got == expected).mean(axis=(1, 2)).min() >= 0.999


async def test_a_caller_that_hangs_up_leaves_the_others_their_answers(tmp_path: Path) -> None:
    network = tmp_path / "model.onnx"
    write_network(network, side=SIDE)
    image = np.random.default_rng(1).integers(0, 1500, (SIDE, SIDE), dtype=np.int16)
    body = pack(Slice(image, (0, 0, SIDE, SIDE), (SIDE, SIDE), (1 / 1500, 0, 4, -2)))
    segmenter = AsyncSegmenter(network, "f32")
    expected = await segmenter.segment(body)

    calls = [asyncio.create_task(segmenter.segment(body)) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    assert answers[1::2] == [expected] * 10

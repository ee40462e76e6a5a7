"""The ensemble on a real Triton server, through tritonclient."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from client.errors import Transient
from client.triton.embedded import EmbeddedTriton
from client.triton.inference import TritonModel, TritonModelSettings, connect
from client.triton.server import admin_headers
from client.triton.statuses import status_of
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan, plan_series
from preprocess.reference import preprocess_slice
from preprocess.spec import ModelSpec

pytestmark = pytest.mark.integration

Tensors = dict[str, NDArray[Any]]


def make_series(
    spec: ModelSpec, seed: int, shape: tuple[int, int, int]
) -> tuple[SeriesPlan, NDArray[np.int16]]:
    """A noisy series whose orientation and spacing follow from the seed."""
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 900, shape).astype(np.int16)
    orientation = [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0, 0, 1, -1, 0, 0)][seed % 3]
    rows_mm, columns_mm = rng.uniform(0.6, 1.6, 2)
    grid = SliceGeometry(*shape[1:], rows_mm, columns_mm, orientation)
    return plan_series(spec, stored, grid), stored


def batch(plan: SeriesPlan, slices: NDArray[np.int16]) -> Tensors:
    each = [plan.tensors(stored) for stored in slices]
    return {name: np.stack([tensors[name] for tensors in each]) for name in each[0]}


@pytest.fixture
async def client(triton_server: EmbeddedTriton) -> AsyncIterator[Any]:
    connection = connect(triton_server.url)
    yield connection
    await connection.close()


async def infer(client: Any, tensors: Tensors, model: str = "brain_mr") -> NDArray[np.uint8]:
    inputs = []
    for name, array in tensors.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    result = await client.infer(model, inputs, client_timeout=30)
    masks: NDArray[np.uint8] = result.as_numpy("mask")
    return masks


async def test_the_answer_is_the_reference_and_the_network_run_by_another_engine(
    client: Any, triton_server: EmbeddedTriton, brain_mr: ModelSpec
) -> None:
    """DALI and OpenVINO in Triton against NumPy and ONNX Runtime: at most 0.1 % of pixels differ,
    those where two classes are as good as equal."""
    plan, slices = make_series(brain_mr, 0, (4, 150, 201))
    network = triton_server.settings.repository / "brain_mr_net" / "1" / "model.onnx"
    engine = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    tensors = batch(plan, slices)
    columns = [tensors[name] for name in ("image", "region", "size", "intensity")]
    images = [
        preprocess_slice(image, region, size, intensity, brain_mr.geometry.size)
        for image, region, size, intensity in zip(*columns, strict=True)
    ]
    expected = engine.run(None, {"image": np.stack(images)})[0]
    masks = await infer(client, tensors)
    assert len(np.unique(masks)) > 3
    assert (masks != expected).mean() < 1e-3


async def test_a_batch_gives_what_its_slices_give_alone(client: Any, brain_mr: ModelSpec) -> None:
    plan, slices = make_series(brain_mr, 1, (8, 130, 177))
    together = await infer(client, batch(plan, slices))
    alone = [await infer(client, batch(plan, slices[i : i + 1])) for i in range(8)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


async def test_studies_of_different_shapes_side_by_side_change_nothing(
    client: Any, triton_server: EmbeddedTriton, brain_mr: ModelSpec
) -> None:
    """Six series at once, slice by slice; the network's step takes each by itself."""
    studies = [
        make_series(brain_mr, seed, (6, 90 + 13 * seed, 140 - 9 * seed)) for seed in range(6)
    ]
    quiet = [await infer(client, batch(plan, slices)) for plan, slices in studies]
    before = await count(client, triton_server)

    async def one_study(plan: SeriesPlan, slices: NDArray[np.int16]) -> NDArray[np.uint8]:
        settings = TritonModelSettings(triton_server.url, slices_in_flight=6, slices_per_request=1)
        async with TritonModel(brain_mr, settings) as model:
            return await model.segment(plan, slices)

    busy = await asyncio.gather(*(one_study(*study) for study in studies))
    for masks, expected in zip(busy, quiet, strict=True):
        np.testing.assert_array_equal(masks, expected)
    after = await count(client, triton_server)
    for step in ("brain_mr_prep", "brain_mr_net"):
        slices_done, runs = (after[step][i] - before[step][i] for i in range(2))
        assert slices_done == 36
        assert runs == slices_done if step == "brain_mr_net" else runs <= slices_done


async def count(client: Any, server: EmbeddedTriton) -> dict[str, tuple[int, int]]:
    """Slices and executed batches so far, by model; Triton counts after it has answered."""
    headers = admin_headers(server.settings.admin_key)
    counts: list[dict[str, tuple[int, int]]] = []
    while len(counts) < 2 or counts[-1] != counts[-2]:
        await asyncio.sleep(0.2)
        answer = await client.get_inference_statistics(headers=headers)
        counts.append({m.name: (m.inference_count, m.execution_count) for m in answer.model_stats})
    return counts[-1]


def _with(**changes: NDArray[Any]) -> Tensors:
    return changes


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (_with(image=np.zeros((1, 64), np.int16)), "INVALID_ARGUMENT"),
        (_with(image=np.zeros((1, 64, 64), np.float32)), "INVALID_ARGUMENT"),
        (_with(image=np.zeros((2, 64, 64), np.int16)), "INVALID_ARGUMENT"),
        (_with(size=np.array([[0, 64]], np.int32)), "INVALID_ARGUMENT"),
        (_with(size=np.array([[64, 2000000000]], np.int32)), "INVALID_ARGUMENT"),
        (_with(region=np.array([[0, 0, 65, 64]], np.float32)), "INVALID_ARGUMENT"),
        (_with(region=np.array([[0, 0, np.nan, 64]], np.float32)), "INVALID_ARGUMENT"),
        (_with(region=np.array([[5, 0, 5, 64]], np.float32)), "INVALID_ARGUMENT"),
        (_with(region=np.zeros((1, 3), np.float32)), "INVALID_ARGUMENT"),
        (_with(intensity=np.full((1, 4), np.inf, np.float32)), "INVALID_ARGUMENT"),
    ],
)
async def test_wrong_tensors_are_refused_and_harm_nobody(
    client: Any, brain_mr: ModelSpec, change: Tensors, status: str
) -> None:
    plan, slices = make_series(brain_mr, 3, (1, 64, 64))
    good = batch(plan, slices)
    expected = await infer(client, good)
    answers = await asyncio.gather(
        infer(client, good), infer(client, good | change), infer(client, good),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(answers[1], InferenceServerException)
    assert status_of(answers[1]) == status
    for answer in (answers[0], answers[2]):
        np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("missing", ["image", "intensity"])
async def test_a_missing_tensor_is_refused(client: Any, brain_mr: ModelSpec, missing: str) -> None:
    plan, slices = make_series(brain_mr, 3, (1, 64, 64))
    tensors = batch(plan, slices)
    del tensors[missing]
    with pytest.raises(InferenceServerException) as caught:
        await infer(client, tensors)
    assert status_of(caught.value) == "INVALID_ARGUMENT"


async def test_models_cannot_be_unloaded_without_the_key(client: Any) -> None:
    with pytest.raises(InferenceServerException):
        await client.unload_model("brain_mr")
    with pytest.raises(InferenceServerException):
        await client.unload_model("brain_mr", headers=admin_headers("guess"))


async def test_a_server_that_is_away_is_transient_after_the_stated_time(
    brain_mr: ModelSpec, unused_tcp_port: int
) -> None:
    plan, slices = make_series(brain_mr, 0, (1, 32, 32))
    settings = TritonModelSettings(f"127.0.0.1:{unused_tcp_port}", retry_for_s=0.3)
    async with TritonModel(brain_mr, settings) as model:
        with pytest.raises(Transient):
            await model.segment(plan, slices)

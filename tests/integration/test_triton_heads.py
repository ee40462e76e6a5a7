"""Networks with several heads, and in several precisions, on a real Triton server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino as ov
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from client.triton.embedded import EmbeddedTriton
from client.triton.inference import TritonModel, TritonModelSettings, connect
from client.triton.server import TritonSettings, admin_headers
from client.triton.statuses import status_of
from export.recipe import CpuPrecision
from export.repository.configuration import Serving, model_files
from preprocess.geometry import SliceGeometry
from preprocess.normalisation import IntensityKind, Padding, ZScore, ZScoreRegion
from preprocess.plan import SeriesPlan, plan_series
from preprocess.reference import network_image
from preprocess.serving.runtime import openvino_core
from preprocess.spec import GeometrySpec, Head, ModelSpec
from tests.networks import CLASSES, EMBEDDING, write_network

pytestmark = pytest.mark.integration

OUTPUTS = ("mask", *Head)
Answers = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def heads(brain_mr: ModelSpec) -> ModelSpec:
    """A model with every head, nnU-Net's normalisation and two pixel distances."""
    return replace(
        brain_mr,
        name="heads",
        geometry=GeometrySpec(spacing_mm=(2.5, 2.0), size=(64, 64)),
        intensity=ZScore(IntensityKind.ZSCORE, ZScoreRegion.NONZERO_BOX, Padding.ZERO),
        heads=tuple(Head),
    )


@pytest.fixture(scope="module")
def integers(heads: ModelSpec) -> ModelSpec:
    """The same network in INT8, its mask alone."""
    return replace(heads, name="integers", heads=())


@pytest.fixture(scope="module")
def repository(
    tmp_path_factory: pytest.TempPathFactory, heads: ModelSpec, integers: ModelSpec
) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "model_repository"
    int8 = Serving(cpu=CpuPrecision.INT8, cpu_file="model.xml")
    for spec, serving in ((heads, Serving(embedding=EMBEDDING)), (integers, int8)):
        for path, text in model_files(spec, serving).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    network = folder / "heads_net" / "1" / "model.onnx"
    write_network(network, 64, heads=tuple(Head))
    quantise(network, folder / "integers_net" / "1" / "model.xml")
    return folder


def quantise(network: Path, path: Path) -> None:
    import nncf

    images = np.random.default_rng(7).normal(size=(8, 1, 1, 64, 64)).astype(np.float32)
    model = nncf.quantize(
        openvino_core().read_model(network), nncf.Dataset([*images]), subset_size=len(images)
    )
    ov.save_model(model, path, compress_to_fp16=False)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EmbeddedTriton]:
    log = tmp_path_factory.mktemp("triton") / "heads.log"
    async with EmbeddedTriton(TritonSettings(repository), log) as running:
        yield running


@pytest.fixture
async def client(server: EmbeddedTriton) -> AsyncIterator[Any]:
    connection = connect(server.url)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
def series() -> NDArray[np.int16]:
    stored = np.zeros((5, 70, 90), np.int16)
    stored[:, 6:60, 12:80] = np.random.default_rng(3).integers(1, 900, (5, 54, 68))
    return stored


def plan_of(spec: ModelSpec, series: NDArray[np.int16]) -> SeriesPlan:
    return plan_series(spec, series, SliceGeometry(70, 90, 2.0, 1.5, (-1, 0, 0, 0, 0, 1)))


def network_images(spec: ModelSpec, series: NDArray[np.int16]) -> NDArray[np.float32]:
    plan = plan_of(spec, series)
    return np.stack([network_image(spec, plan.tensors(stored)) for stored in series])


async def infer(
    client: Any, model: str, tensors: Answers, outputs: tuple[str, ...] = ()
) -> Answers:
    inputs = []
    for name, array in tensors.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    asked = [InferRequestedOutput(name) for name in outputs] or None
    wanted = {"outputs": ",".join(outputs)} if outputs else None
    result = await client.infer(model, inputs, outputs=asked, parameters=wanted, client_timeout=30)
    return {one.name: result.as_numpy(one.name) for one in result.get_response().outputs}


def batch(spec: ModelSpec, series: NDArray[np.int16]) -> Answers:
    plan = plan_of(spec, series)
    each = [plan.tensors(stored) for stored in series]
    return {name: np.stack([tensors[name] for tensors in each]) for name in each[0]}


async def test_every_head_comes_through_the_ensemble(
    client: Any, repository: Path, heads: ModelSpec, series: NDArray[np.int16]
) -> None:
    """Against the NumPy preprocessing and ONNX Runtime."""
    session = onnxruntime.InferenceSession(
        repository / "heads_net" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    expected = dict(
        zip(OUTPUTS, session.run(OUTPUTS, {"image": network_images(heads, series)}), strict=True)
    )
    got = await infer(client, "heads", batch(heads, series))
    assert got.keys() == expected.keys()
    assert got["logits"].shape == (5, CLASSES, 64, 64)
    assert (got["mask"] != expected["mask"]).mean() < 2e-3
    assert np.abs(got["uncertainty"].astype(int) - expected["uncertainty"]).max() <= 1
    np.testing.assert_allclose(got["logits"], expected["logits"], atol=2e-3)
    np.testing.assert_allclose(got["embedding"], expected["embedding"], atol=1e-3)


@pytest.mark.parametrize("outputs", [("mask",), ("mask", "uncertainty"), ("embedding",)])
async def test_a_request_gets_what_it_asks_for(
    client: Any, heads: ModelSpec, series: NDArray[np.int16], outputs: tuple[str, ...]
) -> None:
    """From the ensemble and from the network itself, which is not told by a parameter."""
    everything = await infer(client, "heads", batch(heads, series))
    got = await infer(client, "heads", batch(heads, series), outputs)
    images = {"image": network_images(heads, series)}
    inputs = [InferInput("image", list(images["image"].shape), "FP32")]
    inputs[0].set_data_from_numpy(images["image"])
    direct = await client.infer(
        "heads_net", inputs, outputs=[InferRequestedOutput(name) for name in outputs]
    )
    assert set(got) == {one.name for one in direct.get_response().outputs} == set(outputs)
    for name in outputs:
        np.testing.assert_array_equal(got[name], everything[name])


async def test_requests_for_different_heads_share_batches_and_change_nothing(
    client: Any, heads: ModelSpec, series: NDArray[np.int16]
) -> None:
    wishes = [("mask",), (), ("mask", "embedding"), ("uncertainty",)] * 5
    parts = [batch(heads, series[number % 5 :][:1]) for number in range(len(wishes))]
    quiet = [await infer(client, "heads", part) for part in parts]
    busy = await asyncio.gather(
        *(infer(client, "heads", part, wish) for part, wish in zip(parts, wishes, strict=True))
    )
    for wish, answer, expected in zip(wishes, busy, quiet, strict=True):
        assert set(answer) == set(wish or OUTPUTS)
        for name, array in answer.items():
            np.testing.assert_array_equal(array, expected[name])


async def test_the_client_gets_the_mask_of_a_model_with_heads(
    client: Any, server: EmbeddedTriton, heads: ModelSpec, series: NDArray[np.int16]
) -> None:
    everything = await infer(client, "heads", batch(heads, series))
    async with TritonModel(heads, TritonModelSettings(server.url)) as model:
        masks = await model.segment(plan_of(heads, series), series)
    np.testing.assert_array_equal(masks, everything["mask"])


async def test_the_networks_file_is_hashed_once_for_all_studies(
    server: EmbeddedTriton, repository: Path, heads: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def digest(file: Any, kind: str) -> Any:
        hashed.append(Path(file.name))
        return hashlib.new(kind, file.read())

    monkeypatch.setattr(hashlib, "file_digest", digest)
    path = repository / "heads_net" / "1" / "model.onnx"
    async with TritonModel(heads, TritonModelSettings(server.url), repository) as model:
        identities = [await model.identity() for _ in range(3)]
    assert hashed == [path]
    assert {one.network_sha256 for one in identities} == {sha256(path.read_bytes()).hexdigest()}
    assert identities[0].engine == "OpenVINO f32"


async def test_a_quantised_network_is_served_from_openvinos_format(
    client: Any,
    server: EmbeddedTriton,
    heads: ModelSpec,
    integers: ModelSpec,
    series: NDArray[np.int16],
) -> None:
    exact = (await infer(client, "heads", batch(heads, series), ("mask",)))["mask"]
    async with TritonModel(integers, TritonModelSettings(server.url)) as model:
        masks = await model.segment(plan_of(integers, series), series)
        singles = [await model.segment(plan_of(integers, series), one[None]) for one in series]
        assert (await model.identity()).engine == "OpenVINO int8"
    np.testing.assert_array_equal(masks, np.concatenate(singles))
    assert 0 < (masks != exact).mean() < 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        ("precision", None, "heads_net: expected the parameter 'precision'"),
        ("precision", "fp8", "got 'fp8'"),
        ("file", None, "heads_net: expected the parameter 'file'"),
        ("file", "model.xml", "expected model.xml in version 1, found none"),
    ],
)
async def test_a_network_that_does_not_say_how_it_is_served_is_not_loaded(
    client: Any,
    server: EmbeddedTriton,
    heads: ModelSpec,
    series: NDArray[np.int16],
    wrong: tuple[str, str | None, str],
) -> None:
    """Triton says why, and goes on serving what it had."""
    key, value, message = wrong
    answer = await client.get_model_config("heads_net", as_json=True)
    config = answer["config"]
    del config["parameters"][key]
    if value is not None:
        config["parameters"][key] = {"string_value": value}
    before = await infer(client, "heads", batch(heads, series))
    with pytest.raises(InferenceServerException, match=message) as caught:
        await client.load_model(
            "heads_net",
            headers=admin_headers(server.settings.admin_key),
            config=json.dumps(config),
        )
    assert status_of(caught.value) == "INVALID_ARGUMENT"
    after = await infer(client, "heads", batch(heads, series))
    np.testing.assert_array_equal(after["mask"], before["mask"])

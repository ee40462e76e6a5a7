"""Staged and published models on a real Triton server, asked as the worker asks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

from client.triton.embedded import EmbeddedTriton
from client.triton.inference import TritonModel, TritonModelSettings, connect
from client.triton.server import TritonSettings, admin_headers
from export.errors import EngineError, MissingPart
from export.repository.layout import ModelFolders
from export.repository.messages import configuration
from export.repository.options import Profile, Serving, Step
from export.repository.publishing import publish
from export.repository.serving import ServedModel, served
from export.repository.staging import stage
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan, plan_series
from preprocess.reference import network_image
from preprocess.spec import Head, ModelSpec
from tests.networks import EMBEDDING, write_network
from tests.processes import alive

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
HEADS = (Head.UNCERTAINTY, Head.LOGITS, Head.EMBEDDING)
SERVING = Serving(embedding=EMBEDDING)


@pytest.fixture(scope="module")
def spec(brain_mr: ModelSpec) -> ModelSpec:
    """brain_mr with every head and a wire name of its own for the mask."""
    names = dataclasses.replace(brain_mr.tensors, mask="classes")
    return dataclasses.replace(brain_mr, heads=HEADS, tensors=names)


@pytest.fixture(scope="module")
def staged(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two staged models whose networks differ."""
    folder = tmp_path_factory.mktemp("staged")
    for seed in (1, 2):
        network = folder / f"{seed}.onnx"
        write_network(network, seed=seed, heads=HEADS)
        stage(folder / str(seed), spec, SERVING, {"model.onnx": network})
    return folder


@pytest.fixture(scope="module")
def series(spec: ModelSpec) -> tuple[SeriesPlan, NDArray[np.int16]]:
    stored = np.random.default_rng(7).integers(0, 900, (6, 150, 201)).astype(np.int16)
    grid = SliceGeometry(150, 201, 1.3, 0.9, (0, 1, 0, 0, 0, -1))
    return plan_series(spec, stored, grid), stored


def expected(
    spec: ModelSpec, network: Path, plan: SeriesPlan, stored: NDArray[np.int16]
) -> dict[str, NDArray[Any]]:
    """The NumPy preprocessing and ONNX Runtime."""
    images = [network_image(spec, plan.tensors(one)) for one in stored]
    engine = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    outputs = [one.name for one in engine.get_outputs()]
    return dict(zip(outputs, engine.run(outputs, {"image": np.stack(images)}), strict=True))


@pytest.fixture(scope="module")
def model(spec: ModelSpec, staged: Path) -> Iterator[ServedModel]:
    """The first staged model, served by a program of its own."""
    with served(staged / "1", spec.name) as started:
        yield started


def test_a_staged_model_answers_as_the_reference_with_every_head(
    spec: ModelSpec,
    staged: Path,
    model: ServedModel,
    series: tuple[SeriesPlan, NDArray[np.int16]],
) -> None:
    plan, stored = series
    reference = expected(spec, staged / "1.onnx", plan, stored)
    assert model.server.startswith("triton 2.")
    masks = model.segment(plan, stored)
    answers = model.answer(plan, stored, [*map(str, HEADS)])
    assert masks.shape == (6, 256, 256)
    assert len(np.unique(masks)) > 3
    assert (masks != reference["mask"]).mean() < 1e-3
    assert answers.keys() == {"classes", *HEADS}
    np.testing.assert_array_equal(answers["classes"], masks)
    spread = reference["logits"].std()
    assert np.abs(answers["logits"] - reference["logits"]).max() < 0.02 * spread
    assert np.abs(answers["embedding"] - reference["embedding"]).max() < 0.02
    differing = np.abs(answers["uncertainty"].astype(int) - reference["uncertainty"])
    assert differing.max() <= 2


def test_a_running_server_is_asked_by_its_address(
    spec: ModelSpec, staged: Path, series: tuple[SeriesPlan, NDArray[np.int16]]
) -> None:
    plan, stored = series
    with subprocess.Popen(
        [sys.executable, "-m", "client.triton.serve", "--repository", str(staged / "2")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as program:
        assert program.stdout is not None
        ready = json.loads(program.stdout.readline())
        assert ready["models"] == [spec.name]
        with served(staged / "2", spec.name, ready["url"]) as model:
            masks = model.segment(plan, stored[:2])
        program.send_signal(signal.SIGTERM)
        assert program.stdout.read() == b""
        assert program.wait(30) == 0
    reference = expected(spec, staged / "2.onnx", plan, stored[:2])
    assert (masks != reference["mask"]).mean() < 1e-3


def test_the_server_ends_with_whoever_started_it(staged: Path) -> None:
    """Also when that one is killed: its end of the pipe closes."""
    code = (
        "import os, sys; from pathlib import Path\n"
        "from export.repository.serving import served\n"
        "with served(Path(sys.argv[1]), 'brain_mr') as model:\n"
        "    import psutil\n"
        "    children = psutil.Process().children(recursive=True)\n"
        "    print(*(child.pid for child in children), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(staged / "1")],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 2
    give_up = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_without_a_server_the_message_says_what_to_install(
    spec: ModelSpec, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel without its server hides the real one from the program."""
    (tmp_path / "pytriton").mkdir()
    (tmp_path / "pytriton" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingPart, match="nvidia-pytriton"), served(staged / "1", spec.name):
        pass


def test_a_model_that_cannot_be_loaded_says_why(
    spec: ModelSpec, staged: Path, tmp_path: Path
) -> None:
    network = tmp_path / "broken.onnx"
    network.write_bytes((staged / "1.onnx").read_bytes()[:1000])
    stage(tmp_path / "broken", spec, SERVING, {"model.onnx": network})
    with pytest.raises(EngineError, match=r"model\.onnx"), served(tmp_path / "broken", spec.name):
        pass


def test_a_head_that_is_not_served_is_refused(
    model: ServedModel, series: tuple[SeriesPlan, NDArray[np.int16]]
) -> None:
    plan, stored = series
    with pytest.raises(EngineError, match=r"inference with brain_mr.*attention"):
        model.answer(plan, stored, ["attention"])
    assert len(model.segment(plan, stored[:1])) == 1


async def test_a_published_version_takes_over_while_the_first_one_serves(
    spec: ModelSpec,
    staged: Path,
    tmp_path: Path,
    series: tuple[SeriesPlan, NDArray[np.int16]],
) -> None:
    """Requests never stop; each is answered by one version or the other, none fails. Then back."""
    plan, stored = series
    repository = tmp_path / "models"
    repository.mkdir()
    publish(staged / "1", repository)
    old, new = (expected(spec, staged / f"{seed}.onnx", plan, stored)["mask"] for seed in (1, 2))
    settings = TritonSettings(repository)
    async with EmbeddedTriton(settings, tmp_path / "triton.log") as server:
        # One request each: what one call sends in several may meet both versions.
        asked = TritonModelSettings(server.url, retry_for_s=0, slices_per_request=len(stored))
        headers = admin_headers(server.settings.admin_key)
        client = connect(server.url)
        answers: list[NDArray[np.uint8]] = []
        stop = asyncio.Event()

        async def ask() -> None:
            async with TritonModel(spec, asked) as model:
                while not stop.is_set():
                    answers.append(await model.segment(plan, stored))

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            await asyncio.sleep(0.5)
            assert publish(staged / "2", repository).version == 2
            await client.load_model(spec.name, headers=headers)
            await asyncio.sleep(0.5)
            stop.set()
        async with TritonModel(spec, asked) as model:
            answers.append(await model.segment(plan, stored))
            assert (await model.identity()).version == "2"
            config = configuration(spec, SERVING, Step.NET, Profile.CPU)
            config.version_policy.specific.versions.append(1)
            as_json = json.dumps(triton_json(config))
            await client.load_model(f"{spec.name}_net", headers=headers, config=as_json)
            back = await model.segment(plan, stored)
        await client.close()
    which = [by_version(answer, old, new) for answer in answers]
    assert which == sorted(which)
    assert {which[0], which[-1]} == {1, 2}
    assert by_version(back, old, new) == 1


def triton_json(config: ModelConfig) -> dict[str, Any]:
    return dict(MessageToDict(config, preserving_proto_field_name=True))


def by_version(masks: NDArray[np.uint8], *references: NDArray[np.uint8]) -> int:
    """The version whose reference a mask is, slice by slice at least nearly."""
    [version] = [
        number
        for number, reference in enumerate(references, 1)
        if (masks != reference).mean() < 1e-3
    ]
    return version


async def test_the_gpu_profiles_warm_up_requests_are_accepted_by_a_real_server(
    spec: ModelSpec, staged: Path, tmp_path: Path
) -> None:
    """Triton makes and runs them before a model is ready, whatever its backend: here the cpu's."""
    repository = tmp_path / "models"
    repository.mkdir()
    publish(staged / "1", repository)
    for step in (Step.PREP, Step.NET):
        path = repository / f"{spec.name}{step}" / Profile.CPU.file
        config = text_format.Parse(path.read_text(), ModelConfig())
        serving = dataclasses.replace(SERVING, batch_gpu=(1, 4, 8))
        config.model_warmup.extend(configuration(spec, serving, step, Profile.GPU).model_warmup)
        path.write_text(text_format.MessageToString(config))
    async with EmbeddedTriton(TritonSettings(repository), tmp_path / "triton.log") as server:
        client = connect(server.url)
        answer = await client.get_inference_statistics(
            headers=admin_headers(server.settings.admin_key)
        )
        await client.close()
    assert ModelFolders(repository, spec.name).versions == (1,)
    assert {model.name for model in answer.model_stats} >= {"brain_mr_prep", "brain_mr_net"}

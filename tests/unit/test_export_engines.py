"""The graph by ONNX Runtime, by OpenVINO in each precision, and quantised to INT8."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.engines import running
from export.engines.openvino_int8 import quantise
from export.engines.running import Engine, OnnxRuntimeEngine, OpenVinoEngine, cpu_precisions
from export.errors import EngineError
from export.recipe import CpuPrecision
from tests.networks import CLASSES, write_network

pytestmark = pytest.mark.unit

SIDE = 64
Images = NDArray[np.float32]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engines") / "model.onnx"
    write_network(path, SIDE)
    return path


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(7, 1, SIDE // 8, SIDE // 8)).repeat(8, axis=2).repeat(8, axis=3)
    return (smooth + 0.2 * rng.normal(size=(7, 1, SIDE, SIDE))).astype(np.float32)


def agreement(a: Engine, b: Engine, images: Images) -> float:
    return float((a.run(images)["mask"] == b.run(images)["mask"]).mean())


def test_onnx_runtime_answers_every_head(network: Path, images: Images) -> None:
    heads = OnnxRuntimeEngine(network).run(images)
    assert heads["mask"].shape == (7, SIDE, SIDE)
    assert heads["mask"].dtype == np.uint8
    assert heads["logits"].shape == (7, CLASSES, SIDE, SIDE)
    np.testing.assert_array_equal(heads["mask"], heads["logits"].argmax(axis=1))


def test_scores_stay_inside_when_not_asked_for(network: Path, images: Images) -> None:
    assert set(OnnxRuntimeEngine(network, scores=False).run(images)) == {"mask"}
    served = OpenVinoEngine(network, CpuPrecision.F32, scores=False)
    assert set(served.run(images)) == {"mask"}


def test_batches_are_bounded_and_joined(network: Path, images: Images) -> None:
    whole = OnnxRuntimeEngine(network, batch=8).run(images)
    parts = OnnxRuntimeEngine(network, batch=3).run(images)
    np.testing.assert_allclose(parts["logits"], whole["logits"], atol=1e-5)


def test_openvino_f32_is_float32(network: Path, images: Images) -> None:
    ours = OpenVinoEngine(network, CpuPrecision.F32, threads=1).run(images)
    theirs = OnnxRuntimeEngine(network, threads=1).run(images)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-4)
    np.testing.assert_array_equal(ours["mask"], ours["logits"].argmax(axis=1))


def test_an_openvino_answer_does_not_depend_on_its_batch(network: Path, images: Images) -> None:
    engine = OpenVinoEngine(network, CpuPrecision.F32)
    together = engine.run(images)["mask"]
    alone = np.concatenate([engine.run(images[i : i + 1])["mask"] for i in range(len(images))])
    np.testing.assert_array_equal(together, alone)


def test_engines_come_and_go_without_a_deadlock(network: Path, images: Images) -> None:
    masks = [OpenVinoEngine(network, CpuPrecision.F32).run(images)["mask"] for _ in range(8)]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


@pytest.mark.skipif(CpuPrecision.BF16 not in cpu_precisions(), reason="a CPU without bfloat16")
def test_bfloat16_is_near_but_not_float32(network: Path, images: Images) -> None:
    exact = OpenVinoEngine(network, CpuPrecision.F32).run(images)["logits"]
    half = OpenVinoEngine(network, CpuPrecision.BF16).run(images)["logits"]
    distance = np.linalg.norm(half - exact) / np.linalg.norm(exact)
    assert 1e-4 < distance < 2e-2


def test_a_precision_the_cpu_lacks_is_refused(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "cpu_precisions", lambda: (CpuPrecision.F32,))
    with pytest.raises(EngineError, match="computes in bf16, this one has f32"):
        OpenVinoEngine(network, CpuPrecision.BF16)


@pytest.mark.parametrize("content", [None, b"not a network"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    for make in (OnnxRuntimeEngine, lambda p: OpenVinoEngine(p, CpuPrecision.F32)):
        with pytest.raises(EngineError, match=re.escape(str(path))):
            make(path)
    with pytest.raises(EngineError, match=re.escape(str(path))):
        quantise(path, tmp_path / "model.xml", np.zeros((1, 1, SIDE, SIDE), np.float32))


def test_images_of_another_size_are_refused(network: Path) -> None:
    small = np.zeros((2, 1, 8, 8), np.float32)
    for engine in (OnnxRuntimeEngine(network), OpenVinoEngine(network, CpuPrecision.F32)):
        with pytest.raises(EngineError, match=r"model.onnx.*\(2, 1, 8, 8\)"):
            engine.run(small)


def test_int8_agrees_with_float32(network: Path, images: Images, tmp_path: Path) -> None:
    made = quantise(network, tmp_path / "model.xml", images[:4])
    assert made.path.with_suffix(".bin").stat().st_size < network.stat().st_size
    assert made.quantised == 3
    assert made.kept_in_float == ()
    assert made.score_int8 is None
    assert made.drop is None
    heads = OpenVinoEngine(made.path, CpuPrecision.INT8).run(images)
    exact = OnnxRuntimeEngine(network).run(images)
    assert set(heads) == {"mask", "logits"}
    assert 0.9 < (heads["mask"] == exact["mask"]).mean() < 1


def test_accuracy_control_gives_layers_back(network: Path, images: Images, tmp_path: Path) -> None:
    exact = OnnxRuntimeEngine(network)

    def score(engine: Engine) -> float:
        return agreement(engine, exact, images)

    free = quantise(network, tmp_path / "free.xml", images[:4], score, max_drop=1)
    strict = quantise(network, tmp_path / "strict.xml", images[:4], score, max_drop=0.012)
    assert free.kept_in_float == ()
    assert free.drop is not None
    assert strict.drop is not None
    assert free.drop > 0.012 >= strict.drop
    assert strict.kept_in_float
    assert free.score_float == pytest.approx(1, abs=1e-4)

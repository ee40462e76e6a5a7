"""The served network and its configuration, without Triton around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino as ov
import pytest
from numpy.typing import NDArray

from preprocess.errors import ServingError
from preprocess.serving import configured
from preprocess.serving.configured import (
    Compilation,
    Precision,
    ServedNetwork,
    read_configuration,
    tuned_parameters,
)
from preprocess.serving.cores import available_cores
from preprocess.serving.network import Network, single_settings, stream_settings
from preprocess.serving.runtime import openvino_core
from preprocess.spec import Head
from tests.networks import CLASSES, EMBEDDING, write_network

pytestmark = pytest.mark.unit

SIDE = 64
CANVAS = (SIDE, SIDE)
OUTPUTS = {
    "mask": ("TYPE_UINT8", CANVAS),
    "uncertainty": ("TYPE_UINT8", CANVAS),
    "logits": ("TYPE_FP32", (CLASSES, *CANVAS)),
    "embedding": ("TYPE_FP32", (EMBEDDING,)),
}
BFLOAT16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    write_network(path, SIDE, heads=tuple(Head))
    return path


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(9, 1, *CANVAS)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(onnx_file: Path, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run([*OUTPUTS], {"image": images}), strict=True))


def served(path: Path, precision: Precision = Precision.F32) -> ServedNetwork:
    return ServedNetwork(path, precision, (1, *CANVAS), OUTPUTS)


def differing(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float((got != expected).mean())


def test_every_head_is_what_another_engine_answers(
    onnx_file: Path, images: NDArray[np.float32], expected: dict[str, NDArray[Any]]
) -> None:
    got = Network(served(onnx_file), [*OUTPUTS]).start([*images]).result()
    assert {name: (one.dtype, one.shape) for name, one in got.items()} == {
        name: (one.dtype, one.shape) for name, one in expected.items()
    }
    assert differing(got["mask"], expected["mask"]) < 1e-3
    assert np.abs(got["uncertainty"].astype(int) - expected["uncertainty"]).max() <= 1
    np.testing.assert_allclose(got["logits"], expected["logits"], atol=1e-4)
    np.testing.assert_allclose(got["embedding"], expected["embedding"], atol=1e-5)


def test_an_answer_depends_neither_on_the_batch_nor_on_what_else_is_asked(
    onnx_file: Path, images: NDArray[np.float32]
) -> None:
    everything, mask = (
        Network(served(onnx_file), [*OUTPUTS]),
        Network(served(onnx_file), ["mask"]),
    )
    together = everything.start([*images]).result()
    singles = [everything.start([image]).result() for image in images]
    for name, answer in together.items():
        np.testing.assert_array_equal(answer, np.concatenate([one[name] for one in singles]))
    alone = mask.start([*images]).result()
    assert [*alone] == ["mask"]
    np.testing.assert_array_equal(alone["mask"], together["mask"])


@pytest.mark.parametrize(
    "compilation",
    [
        Compilation(streams=1, threads=1, requests=1),
        Compilation(streams=2, requests=5, pinning=False),
        Compilation(streams=3, threads=2, single_threads=1, pinning=True, hyper_threading=False),
    ],
    ids=str,
)
def test_how_the_cores_are_divided_changes_no_answer(
    onnx_file: Path, images: NDArray[np.float32], compilation: Compilation
) -> None:
    plain = Network(served(onnx_file), [*OUTPUTS])
    chosen = Network(replace(served(onnx_file), compilation=compilation), [*OUTPUTS])
    for few in ([*images], [*images[:1]], [*images[:2]]):
        expected = plain.start(few).result()
        for name, answer in chosen.start(few).result().items():
            np.testing.assert_array_equal(answer, expected[name])


def test_calls_that_are_under_way_together_do_not_mix(
    onnx_file: Path, images: NDArray[np.float32]
) -> None:
    network = Network(served(onnx_file), [*OUTPUTS])
    expected = network.start([*images]).result()
    cuts = [0, 1, 3, 4, 4, 8, 9]
    for _ in range(5):
        parts = [[*images[start:end]] for start, end in pairwise(cuts)]
        started = [network.start(part) for part in parts if part]
        for name, answer in expected.items():
            got = np.concatenate([one.result()[name] for one in started])
            np.testing.assert_array_equal(got, answer)


def test_what_is_under_way_is_answered_before_the_network_is_closed(
    onnx_file: Path, images: NDArray[np.float32]
) -> None:
    network = Network(served(onnx_file), ["mask"])
    started = [network.start([image]) for image in images]
    network.close()
    assert all(one.done() for one in started)


@pytest.mark.parametrize("step", ["start_async", "wait"])
def test_a_slice_that_openvino_fails_is_a_failure_of_its_call_alone(
    onnx_file: Path, images: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    network = Network(served(onnx_file), ["mask"])
    expected = network.start([*images]).result()["mask"]

    class FailsOnce:
        """A request of OpenVINO's whose first slice goes wrong."""

        def __init__(self, request: Any) -> None:
            self._request = request
            self._failures = [RuntimeError("out of memory")]

        def _fail(self, *_: object, **__: object) -> None:
            if step == "wait":
                self._request.wait()
            raise self._failures.pop()

        def __getattr__(self, name: str) -> Any:
            return self._fail if name == step and self._failures else getattr(self._request, name)

    monkeypatch.setattr(network, "_single", FailsOnce(network._single))
    with pytest.raises(ServingError, match="OpenVINO failed: out of memory"):
        network.start([*images[:1]]).result()
    for few in ([*images[:1]], [*images]):
        got = network.start(few).result()["mask"]
        np.testing.assert_array_equal(got, expected[: len(few)])


def test_openvino_is_told_what_was_chosen_and_nothing_else() -> None:
    plain = served(Path("model.onnx"))
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    assert single_settings(plain) == hint | {"PERFORMANCE_HINT": "LATENCY"}
    assert stream_settings(plain) == hint | {"PERFORMANCE_HINT": "THROUGHPUT"}
    chosen = replace(plain, compilation=Compilation(3, 2, 5, 1, pinning=True))
    assert single_settings(chosen) == hint | {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": True,
    }
    assert stream_settings(chosen) == hint | {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": 3,
        "INFERENCE_NUM_THREADS": 2,
        "ENABLE_CPU_PINNING": True,
    }


@pytest.mark.skipif(not BFLOAT16, reason="this CPU does not compute in bfloat16")
def test_bfloat16_is_computed_where_it_is_asked_for_only(
    onnx_file: Path, images: NDArray[np.float32], expected: dict[str, NDArray[Any]]
) -> None:
    exact, rough = (
        Network(served(onnx_file, precision), ["logits"]).start([*images]).result()["logits"]
        for precision in (Precision.F32, Precision.BF16)
    )
    assert np.abs(exact - expected["logits"]).max() < 1e-4
    assert 1e-4 < np.abs(rough - expected["logits"]).max() < 0.2


def test_openvinos_own_format_is_served(
    onnx_file: Path, tmp_path: Path, images: NDArray[np.float32]
) -> None:
    path = tmp_path / "model.xml"
    ov.save_model(openvino_core().read_model(onnx_file), path, compress_to_fp16=False)
    heads = ["mask", "uncertainty"]
    got = Network(served(path, Precision.INT8), heads).start([*images]).result()
    # Nothing in this file is quantised, so all of it computes as the rest of an INT8 network does.
    rest = Precision.BF16 if BFLOAT16 else Precision.F32
    plain = Network(served(onnx_file, rest), heads).start([*images]).result()
    for name in ("mask", "uncertainty"):
        np.testing.assert_array_equal(got[name], plain[name])


@pytest.mark.parametrize(
    ("content", "outputs", "message"),
    [
        (b"no network", OUTPUTS, r"model\.onnx: OpenVINO cannot load it"),
        (None, {"boundary": ("TYPE_UINT8", CANVAS)}, r"expected an output 'boundary', found \["),
        (None, {"mask": ("TYPE_FP32", CANVAS)}, r"'mask' to be TYPE_FP32 .* got uint8"),
        (None, {"mask": ("TYPE_UINT8", (8, 8))}, r"\(8, 8\) as configured, got uint8 \(64, 64\)"),
    ],
)
def test_a_file_that_is_not_as_configured_is_refused(
    onnx_file: Path,
    tmp_path: Path,
    content: bytes | None,
    outputs: dict[str, tuple[str, tuple[int, ...]]],
    message: str,
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content or onnx_file.read_bytes())
    with pytest.raises(ServingError, match=message):
        Network(ServedNetwork(path, Precision.F32, (1, *CANVAS), outputs), [*outputs])


def test_a_cpu_without_the_precision_is_refused(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ov.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(ServingError, match="expected a CPU that computes in bf16"):
        Network(served(onnx_file, Precision.BF16), ["mask"])


@pytest.fixture
def arguments(onnx_file: Path, tmp_path: Path) -> dict[str, Any]:
    """What Triton tells a Python model, the configuration not yet as JSON."""
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "model.onnx").write_bytes(onnx_file.read_bytes())
    heads = reversed(OUTPUTS.items())
    config = {
        "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": [1, SIDE, SIDE]}],
        "output": [{"name": k, "data_type": kind, "dims": [*dims]} for k, (kind, dims) in heads],
        "parameters": {
            "precision": {"string_value": "bf16"},
            "file": {"string_value": "model.onnx"},
        },
    }
    return {
        "model_name": "brain_net",
        "model_version": "3",
        "model_repository": str(tmp_path),
        "model_config": config,
    }


def test_the_configuration_is_read(arguments: dict[str, Any], tmp_path: Path) -> None:
    got = read_configuration(arguments | {"model_config": json.dumps(arguments["model_config"])})
    path = tmp_path / "3" / "model.onnx"
    assert got == ServedNetwork(path, Precision.BF16, (1, SIDE, SIDE), OUTPUTS)
    assert next(iter(got.outputs)) == "mask"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["parameters"].pop("precision"), "'precision' .* f32, bf16, int8; got None"),
        (lambda c: c["parameters"]["precision"].update(string_value="fp16"), "got 'fp16'"),
        (lambda c: c["parameters"].pop("file"), "'file' .* model.onnx, model.xml; got None"),
        (lambda c: c["parameters"]["file"].update(string_value="../model.onnx"), "got '../model"),
        (lambda c: c["parameters"]["file"].update(string_value="model.xml"), "in version 3, found"),
        (lambda c: c.pop("parameters"), "brain_net: expected the parameter"),
        (lambda c: c["output"].pop(), "expected an output 'mask'"),
    ],
)
def test_a_configuration_without_what_it_must_say_is_refused(
    arguments: dict[str, Any], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(arguments["model_config"])
    with pytest.raises(ServingError, match=message):
        read_configuration(arguments | {"model_config": json.dumps(arguments["model_config"])})


def tuned(arguments: dict[str, Any], values: dict[str, str], instances: int = 1) -> Compilation:
    """What is read of ``tuned_`` parameters."""
    config = arguments["model_config"]
    config["instance_group"] = [{"count": instances}]
    config["parameters"] |= {f"tuned_{key}": {"string_value": one} for key, one in values.items()}
    return read_configuration(arguments | {"model_config": json.dumps(config)}).compilation


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"streams": "2"}, "'tuned_cores', got None"),
        ({"cores": "0", "streams": "2"}, "above 0 for the parameter 'tuned_cores', got '0'"),
        ({"cores": "2", "streams": "auto"}, "'tuned_streams', got 'auto'"),
        ({"cores": "2", "streams": "-1"}, "'tuned_streams', got '-1'"),
        ({"cores": "2", "pinning": "True"}, "true or false for 'tuned_pinning', got 'True'"),
        ({"cores": "2", "colour": "2"}, r"unknown parameter 'tuned_colour'; known are tuned_cores"),
    ],
)
def test_tuned_parameters_that_make_no_sense_are_refused(
    arguments: dict[str, Any], values: dict[str, str], message: str
) -> None:
    """Also on a machine where they would not hold."""
    with pytest.raises(ServingError, match=f"brain_net: .*{message}"):
        tuned(arguments, values)


def test_instances_share_the_cores_where_nothing_was_chosen(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that settings for another machine never ask for more cores than there are."""
    monkeypatch.setattr(configured, "available_cores", lambda: 8)
    assert tuned(arguments, {}) == Compilation()
    assert tuned(arguments, {}, 3) == Compilation(threads=2)
    assert tuned(arguments, {}, 20) == Compilation(threads=1)
    assert tuned(arguments, {"cores": "8", "threads": "6"}, 2) == Compilation(threads=6)
    assert tuned(arguments, {"cores": "4", "threads": "3"}, 2) == Compilation(threads=4)


def test_nothing_chosen_needs_no_parameter() -> None:
    assert tuned_parameters(Compilation(), 2) == {}
    assert tuned_parameters(Compilation(streams=1, pinning=False), 2) == {
        "tuned_cores": "2",
        "tuned_streams": "1",
        "tuned_pinning": "false",
    }


@pytest.mark.parametrize(
    ("limit", "most"), [("max 100000", 10**6), ("150000 100000", 2), ("1000 100000", 1)]
)
def test_a_containers_share_of_the_cores_counts(tmp_path: Path, limit: str, most: int) -> None:
    file = tmp_path / "cpu.max"
    allowed = available_cores(file)
    assert allowed >= 1
    file.write_text(f"{limit}\n")
    assert available_cores(file) == min(allowed, most)

"""The checked-in files against the descriptions they serve: compared, and generated again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.recipe import load_recipe
from export.repository.configuration import Serving, model_files
from export.repository.layout import ModelFolders
from export.repository.messages import warm_up_files
from preprocess.spec import ModelSpec, find_model_specs

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
SPECS = find_model_specs(REPOSITORY)
PROFILES = {"gpu": "config.pbtxt", "cpu": "configs/cpu.pbtxt"}
Tensors = dict[str, tuple[str, list[int]]]


def read(model: str, profile: str) -> Any:
    return text_format.Parse((REPOSITORY / model / PROFILES[profile]).read_text(), ModelConfig())


def tensors(entries: Any) -> Tensors:
    kinds = ModelConfig.DESCRIPTOR.fields_by_name["input"].message_type
    names = kinds.fields_by_name["data_type"].enum_type.values_by_number
    return {e.name: (names[e.data_type].name, list(e.dims)) for e in entries}


def expected_inputs(spec: ModelSpec) -> Tensors:
    names = spec.tensors
    return {
        names.image: ("TYPE_INT16", [-1, -1]),
        names.region: ("TYPE_FP32", [4]),
        names.size: ("TYPE_INT32", [2]),
        names.intensity: ("TYPE_FP32", [4]),
    }


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_file_is_what_the_export_generates(spec: ModelSpec) -> None:
    """From the description in the repository and the engines that the recipe asks for."""
    recipe = load_recipe(ROOT / "models" / f"{spec.name}.yaml")
    version = ModelFolders(REPOSITORY, spec.name).versions[-1]
    texts = model_files(spec, Serving.of(recipe), version)
    expected = {path: text.encode() for path, text in texts.items()} | warm_up_files(spec)
    for path, content in expected.items():
        assert (REPOSITORY / path).read_bytes() == content, path


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_configurations_say_what_the_description_says(spec: ModelSpec, profile: str) -> None:
    canvas, names = list(spec.geometry.size), spec.tensors
    ensemble, prep, net = (read(f"{spec.name}{part}", profile) for part in ("", "_prep", "_net"))
    assert (ensemble.name, prep.name, net.name) == (
        spec.name,
        f"{spec.name}_prep",
        f"{spec.name}_net",
    )
    assert tensors(ensemble.input) == tensors(prep.input) == expected_inputs(spec)
    assert tensors(prep.output) == {names.network: ("TYPE_FP32", [1, *canvas])}
    assert tensors(net.input) == {"image": ("TYPE_FP32", [1, *canvas])}
    assert tensors(ensemble.output) == tensors(net.output) == {names.mask: ("TYPE_UINT8", canvas)}
    assert ensemble.max_batch_size == prep.max_batch_size == net.max_batch_size
    steps = ensemble.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [prep.name, net.name]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_network_takes_and_gives_what_the_steps_expect(spec: ModelSpec) -> None:
    """Batch axis free, argmax inside: uint8 masks leave the graph."""
    path = REPOSITORY / f"{spec.name}_net" / "1" / "model.onnx"
    graph = onnx.load(path).graph
    height, width = spec.geometry.size
    got = {
        value.name: (value.type.tensor_type.elem_type, [*value.type.tensor_type.shape.dim])
        for value in (*graph.input, *graph.output)
    }
    assert got.keys() == {"image", "mask"}
    for name, kind, tail in (
        ("image", onnx.TensorProto.FLOAT, [1, height, width]),
        ("mask", onnx.TensorProto.UINT8, [height, width]),
    ):
        element, dims = got[name]
        assert element == kind
        assert dims[0].dim_param
        assert [dim.dim_value for dim in dims[1:]] == tail


@pytest.mark.parametrize("path", sorted(REPOSITORY.rglob("*.pbtxt")), ids=str)
def test_no_configuration_uses_what_stalls_this_server(path: Path) -> None:
    """Queue policies, priorities and a queue delay; the response cache of an ensemble.

    Only OpenVINO's step has no batcher: it takes requests one at a time.
    """
    config = text_format.Parse(path.read_text(), ModelConfig())
    batching = config.dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_levels
    assert batching.max_queue_delay_microseconds == 0
    assert not config.response_cache.enable
    by_openvino = config.backend == "python" and config.name.endswith("_net")
    batched = not (config.HasField("ensemble_scheduling") or by_openvino)
    assert config.HasField("dynamic_batching") == batched


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_dali_model_is_built_for_the_batch_the_configuration_states(spec: ModelSpec) -> None:
    source = (REPOSITORY / f"{spec.name}_prep" / "1" / "dali.py").read_text()
    assert f"batch_size={read(f'{spec.name}_prep', 'gpu').max_batch_size}," in source


def test_only_the_shim_touches_tritons_own_conversions() -> None:
    """They are silently wrong under NumPy 2."""
    shim = ROOT / "preprocess" / "serving" / "tensors.py"
    sources = [*REPOSITORY.rglob("*.py"), *(ROOT / "preprocess").rglob("*.py")]
    for source in sources:
        text = source.read_text()
        if source != shim:
            assert "triton_python_backend_utils" not in text, source
        assert ".as_numpy()" not in text, source
        assert "pb_utils.Tensor(" not in text, source

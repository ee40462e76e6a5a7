"""Float16, bfloat16 and Q/DQ graphs: right types, and answers near those of the float32 graph."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from export.engines.quantised_onnx import to_qdq
from export.engines.running import Engine, OnnxRuntimeEngine, OpenVinoEngine
from export.engines.typed import to_half
from export.errors import EngineError
from export.recipe import CpuPrecision, GpuPrecision
from tests.networks import write_network

pytestmark = pytest.mark.unit

SIDE = 64
Images = NDArray[np.float32]
HALVES = (GpuPrecision.FP16, GpuPrecision.BF16)
ELEMENT = {GpuPrecision.FP16: TensorProto.FLOAT16, GpuPrecision.BF16: TensorProto.BFLOAT16}
# Two scales of a picture, an upsampling by weights, and heads that branch off at both ends.
BRANCHES = """
<ir_version: 8, opset_import: ["" : 18]>
branches (float[N,1,8,8] image) => (uint8[N,8,8] mask, float[N,2] embedding)
<float[2,1,3,3] w = {0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,
    -0.1,-0.2,-0.3,-0.4,-0.5,-0.6,-0.7,-0.8,-0.9},
 float[2,2,2,2] up = {0.1,0.2,0.3,0.4,-0.1,-0.2,-0.3,-0.4,0.4,0.3,0.2,0.1,-0.4,-0.3,-0.2,-0.1},
 int64[2] space = {2, 3}, float[1] half = {0.5}>
{
  features = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (image, w)
  shifted = Add (features, half)
  logits = ConvTranspose <strides = [2, 2]> (shifted, up)
  best = ArgMax <axis = 1, keepdims = 0> (logits)
  mask = Cast <to = 2> (best)
  mean = ReduceMean <keepdims = 0> (features, space)
  embedding = Mul (mean, half)
}
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("typed") / "model.onnx"
    write_network(path, SIDE)
    return path


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(6, 1, SIDE // 8, SIDE // 8)).repeat(8, axis=2).repeat(8, axis=3)
    return (smooth + 0.2 * rng.normal(size=(6, 1, SIDE, SIDE))).astype(np.float32)


def types(path: Path) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    typed = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in typed}


def test_float16_is_valid_and_near(network: Path, images: Images, tmp_path: Path) -> None:
    out = tmp_path / "fp16.onnx"
    to_half(network, out, GpuPrecision.FP16)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    exact = OnnxRuntimeEngine(network).run(images)
    half = OnnxRuntimeEngine(out).run(images)
    assert half["logits"].dtype == np.float32
    distance = np.linalg.norm(half["logits"] - exact["logits"]) / np.linalg.norm(exact["logits"])
    assert 1e-6 < distance < 2e-3
    assert (half["mask"] == exact["mask"]).mean() > 0.999


def test_bfloat16_is_near(network: Path, images: Images, tmp_path: Path) -> None:
    out = tmp_path / "bf16.onnx"
    to_half(network, out, GpuPrecision.BF16)
    exact = OpenVinoEngine(network, CpuPrecision.F32).run(images)
    half = OpenVinoEngine(out, CpuPrecision.F32).run(images)
    distance = np.linalg.norm(half["logits"] - exact["logits"]) / np.linalg.norm(exact["logits"])
    assert 1e-4 < distance < 2e-2
    assert (half["mask"] == exact["mask"]).mean() > 0.98


@pytest.mark.parametrize("precision", HALVES)
def test_picture_and_heads_keep_their_types(
    network: Path, tmp_path: Path, precision: GpuPrecision
) -> None:
    out = tmp_path / "half.onnx"
    to_half(network, out, precision)
    model = onnx.load(out)
    assert types(out)["image"] == TensorProto.FLOAT
    assert types(out)["mask"] == TensorProto.UINT8
    weights = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert weights.pop("scales") == TensorProto.FLOAT
    assert set(weights.values()) == {ELEMENT[precision]}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert [list(node.output) for node in casts] == [["image_half"], ["logits"], ["mask"]]


def test_heads_behind_and_beside_the_scores_stay_in_float(tmp_path: Path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "fp16.onnx"
    onnx.save(onnx.parser.parse_model(BRANCHES), source)
    to_half(source, out, GpuPrecision.FP16)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    found = types(out)
    assert found["features"] == found["shifted"] == TensorProto.FLOAT16
    assert found["logits"] == found["mean"] == found["embedding"] == TensorProto.FLOAT
    images = np.random.default_rng(1).normal(size=(3, 1, 8, 8)).astype(np.float32)
    exact, half = OnnxRuntimeEngine(source).run(images), OnnxRuntimeEngine(out).run(images)
    np.testing.assert_allclose(half["embedding"], exact["embedding"], atol=2e-3)
    np.testing.assert_allclose(half["logits"], exact["logits"], atol=5e-3)


def test_transposed_convolutions_have_no_bfloat16(tmp_path: Path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "bf16.onnx"
    onnx.save(onnx.parser.parse_model(BRANCHES), source)
    to_half(source, out, GpuPrecision.BF16)
    model = onnx.load(out)
    weights = {weight.name: weight.data_type for weight in model.graph.initializer}
    (up,) = (node for node in model.graph.node if node.op_type == "ConvTranspose")
    assert [weights.get(name) for name in up.input] == [None, TensorProto.FLOAT]
    assert list(up.output) == ["logits"]
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert weights[conv.input[1]] == TensorProto.BFLOAT16


def test_a_weight_beyond_float16_is_named(network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    (weight,) = (w for w in model.graph.initializer if w.name == "c2_w")
    large = numpy_helper.to_array(weight) * np.float32(1e6)
    weight.CopyFrom(numpy_helper.from_array(large, "c2_w"))
    path = tmp_path / "large.onnx"
    onnx.save(model, path)
    with pytest.raises(EngineError, match=r"large\.onnx.*c2_w reaches .*take bf16"):
        to_half(path, tmp_path / "out.onnx", GpuPrecision.FP16)
    to_half(path, tmp_path / "out.onnx", GpuPrecision.BF16)


def test_a_graph_without_scores_is_refused(network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["classes" if name == "logits" else name for name in names]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="expected a tensor named 'logits'"):
        to_half(tmp_path / "model.onnx", tmp_path / "out.onnx", GpuPrecision.FP16)


def test_quantised_pairs_stand_before_convolutions(
    network: Path, images: Images, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    made = to_qdq(network, out, images[:4])
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"]
    assert made.quantised == 5  # the pooling between two of them too
    maker = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert [maker.get(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2
        if node.op_type == "ArgMax":
            assert maker[node.input[0]] == "Conv"
    values = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    assert all(not value.any() for name, value in values.items() if "zero_point" in name)
    assert values["c2_w_scale"].shape == (16,)
    exact, int8 = OnnxRuntimeEngine(network).run(images), OnnxRuntimeEngine(out).run(images)
    assert 0.9 < (int8["mask"] == exact["mask"]).mean() < 1


def test_a_score_gives_operations_back(network: Path, images: Images, tmp_path: Path) -> None:
    exact = OnnxRuntimeEngine(network).run(images)["mask"]

    def score(engine: Engine) -> float:
        return float((engine.run(images)["mask"] == exact).mean())

    all_int8 = to_qdq(network, tmp_path / "all.onnx", images[:4], score, max_drop=1)
    assert all_int8.kept_in_float == ()
    assert all_int8.score_int8 is not None
    drop = 1 - all_int8.score_int8
    strict = to_qdq(network, tmp_path / "strict.onnx", images[:4], score, max_drop=drop / 2)
    assert strict.score_int8 is not None
    assert strict.score_int8 >= 1 - drop / 2
    assert 0 < len(strict.kept_in_float) < 4
    exact_again = to_qdq(network, tmp_path / "none.onnx", images[:4], score, max_drop=0)
    assert exact_again.score_int8 == 1
    assert not re.search("Quantize", str(onnx.load(tmp_path / "none.onnx").graph.node))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind")
    empty = np.zeros((1, 1, SIDE, SIDE), np.float32)
    with pytest.raises(EngineError, match=re.escape(str(path))):
        to_half(path, tmp_path / "out.onnx", GpuPrecision.FP16)
    with pytest.raises(EngineError, match=re.escape(str(path))):
        to_qdq(path, tmp_path / "out.onnx", empty)

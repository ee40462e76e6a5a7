"""The exported graph: its heads against plain numpy, its contract, its bytes, its refusals."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from export.errors import GraphError, RecipeError
from export.graph.eager import EagerNetwork
from export.graph.exporting import TensorInfo, export_graph, inspect_graph
from export.graph.exposing import with_logits
from export.graph.heads import decide, uncertainty
from export.recipe import GraphOptions
from export.sources.network import Decision, DecisionKind
from tests.export_networks import (
    CLASSES,
    SIDE,
    TinyUNet,
    smooth_images,
    tiny_network,
    tiny_spec,
    tiny_unet,
)

pytestmark = pytest.mark.unit

ARGMAX = Decision()
REGIONS = Decision(DecisionKind.REGIONS, (1, 2))
HEADS = ("uncertainty", "embedding", "logits")


def answers(model: Path | onnx.ModelProto, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Every output of a graph, by ONNX Runtime."""
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def scores(module: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        answer: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return answer


def entropy_in_float64(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Entropy of the softmax over log(classes), 0 to 255."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    entropy: NDArray[np.float64] = -(np.exp(log_p) * log_p).sum(1)
    share: NDArray[np.float64] = 255 * entropy / np.log(logits.shape[1])
    return share


@pytest.fixture(scope="module")
def with_every_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "all.onnx"
    options = GraphOptions(embedding="deep", training_data="synthetic-1")
    network = tiny_network(facts={"library_version": "1.2"})
    metadata = {"git_revision": "abc", "calibration": "none"}
    export_graph(network, tiny_spec(heads=HEADS), options, path, metadata)
    return path


def test_every_head_is_what_numpy_makes_of_the_scores(with_every_head: Path) -> None:
    module, images = tiny_unet(), smooth_images(5, SIDE, SIDE)
    expected = scores(module, images)
    answer = answers(with_every_head, images)
    np.testing.assert_allclose(answer["logits"], expected, atol=2e-5)
    assert np.array_equal(answer["mask"], expected.argmax(1))
    assert set(np.unique(answer["mask"])) == set(range(CLASSES))
    assert np.abs(answer["uncertainty"] - entropy_in_float64(expected)).max() < 0.52
    features = _features(module, images)
    np.testing.assert_allclose(answer["embedding"], features.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_the_contract_is_written_into_the_file(with_every_head: Path) -> None:
    info = inspect_graph(with_every_head)
    canvas = (SIDE, SIDE)
    assert info.inputs == {"image": TensorInfo("FLOAT", ("N", 1, *canvas))}
    assert info.outputs == {
        "mask": TensorInfo("UINT8", ("N", *canvas)),
        "uncertainty": TensorInfo("UINT8", ("N", *canvas)),
        "embedding": TensorInfo("FLOAT", ("N", 12)),
        "logits": TensorInfo("FLOAT", ("N", CLASSES, *canvas)),
    }
    assert info.opset == 18
    assert info.metadata == {
        "calibration": "none",
        "git_revision": "abc",
        "library_version": "1.2",
        "model": "tiny",
        "opset": "18",
        "spec_sha256": tiny_spec(heads=HEADS).sha256,
        "torch_version": torch.__version__,
        "training_data": "synthetic-1",
    }


def test_a_batch_answers_as_its_images_alone(with_every_head: Path) -> None:
    images = smooth_images(3, SIDE, SIDE)
    together = answers(with_every_head, images)
    for index in range(len(images)):
        alone = answers(with_every_head, images[index : index + 1])
        for name, answer in alone.items():
            np.testing.assert_allclose(answer[0], together[name][index], atol=1e-5)


def test_equal_arguments_give_equal_bytes_without_a_trace_of_the_machine(tmp_path: Path) -> None:
    infos = [
        export_graph(tiny_network(), tiny_spec(), GraphOptions(), tmp_path / name, {"b": "1"})
        for name in ("one.onnx", "two.onnx")
    ]
    assert infos[0] == infos[1]
    content = (tmp_path / "one.onnx").read_bytes()
    assert infos[0].sha256 == inspect_graph(tmp_path / "two.onnx").sha256
    for secret in (b".py", b"/usr", b"torch.nn", b"site-packages", str(Path.cwd()).encode()):
        assert secret not in content
    assert not onnx.load(tmp_path / "one.onnx").graph.metadata_props


def test_the_graph_is_slim(tmp_path: Path) -> None:
    export_graph(tiny_network(), tiny_spec(), GraphOptions(), tmp_path / "g.onnx", {})
    operators = [node.op_type for node in onnx.load(tmp_path / "g.onnx").graph.node]
    assert operators == [
        "Conv", "Relu", "MaxPool", "Conv", "Relu", "ConvTranspose", "Concat", "Conv", "ArgMax",
        "Cast",
    ]  # fmt: skip


def test_the_scores_can_be_exposed_where_they_are_no_output(tmp_path: Path) -> None:
    info = export_graph(tiny_network(), tiny_spec(), GraphOptions(), tmp_path / "g.onnx", {})
    assert list(info.outputs) == ["mask"]
    model = onnx.load(tmp_path / "g.onnx")
    exposed = with_logits(model)
    onnx.checker.check_model(exposed, full_check=True)
    images = smooth_images(2, SIDE, SIDE)
    expected = scores(tiny_unet(), images)
    np.testing.assert_allclose(answers(exposed, images)["logits"], expected, atol=2e-5)
    assert [output.name for output in model.graph.output] == ["mask"]
    assert with_logits(exposed) is exposed


def test_a_graph_without_scores_cannot_expose_them() -> None:
    node = onnx.helper.make_node("Relu", ["image"], ["mask"])
    value = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in ("image", "mask")]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    with pytest.raises(GraphError, match="'logits'"):
        with_logits(onnx.helper.make_model(graph))


def test_regions_are_painted_in_their_order(tmp_path: Path) -> None:
    decision = Decision(DecisionKind.REGIONS, (2, 1))
    network = tiny_network(tiny_unet(classes=2), decision=decision)
    spec = tiny_spec(heads=("uncertainty", "logits"))
    export_graph(network, spec, GraphOptions(), tmp_path / "r.onnx", {})
    images = smooth_images(4, SIDE, SIDE)
    answer = answers(tmp_path / "r.onnx", images)
    logits = scores(tiny_unet(classes=2), images)
    painted = np.zeros(answer["mask"].shape, np.uint8)
    painted[logits[:, 0] > 0] = 2
    painted[logits[:, 1] > 0] = 1
    assert np.array_equal(answer["mask"], painted)
    assert set(np.unique(painted)) == {0, 1, 2}
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.nan_to_num(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))
    assert np.abs(answer["uncertainty"] - 255 * entropy.max(1)).max() < 0.52


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_uncertainty_at_its_ends(dtype: torch.dtype) -> None:
    equal, sure = torch.zeros(1, 4, 1, 1, dtype=dtype), torch.zeros(1, 4, 1, 1, dtype=dtype)
    sure[:, 2] = 1000
    assert uncertainty(equal, ARGMAX).item() == 255
    assert uncertainty(sure, ARGMAX).item() == 0
    assert uncertainty(equal[:, :2], REGIONS).item() == 255
    assert uncertainty(torch.cat([sure[:, 2:3], -sure[:, 2:3]], 1), REGIONS).item() == 0
    assert uncertainty(torch.cat([sure[:, 2:3], equal[:, :1]], 1), REGIONS).item() == 255


def test_uncertainty_does_not_mind_a_constant_and_a_tie_takes_the_first_class() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 8, 8))).float()
    assert torch.equal(uncertainty(logits, ARGMAX), uncertainty(logits + 16, ARGMAX))
    assert decide(torch.ones(1, 3, 2, 2), ARGMAX).max() == 0


def test_rows_and_columns_may_vary(tmp_path: Path) -> None:
    options = GraphOptions(dynamic_spatial=True, orientation="RA", embedding="deep")
    spec, path = tiny_spec(heads=HEADS), tmp_path / "d.onnx"
    info = export_graph(tiny_network(), spec, options, path, {})
    assert info.inputs["image"].dims == ("N", 1, "rows", "columns")
    assert info.outputs["logits"].dims == ("N", CLASSES, "rows", "columns")
    assert info.outputs["mask"].dims == ("N", "rows", "columns")
    for shape in ((SIDE, SIDE), (40, 96), (16, 18)):
        images = smooth_images(3, *shape)
        reference = EagerNetwork(tiny_network(), spec, options).run(images)
        answer = answers(path, images)
        assert np.array_equal(answer["mask"], reference["mask"])
        np.testing.assert_allclose(answer["logits"], reference["logits"], atol=2e-5)
        np.testing.assert_allclose(answer["embedding"], reference["embedding"], atol=1e-4)


def test_a_fixed_canvas_refuses_another_size(with_every_head: Path) -> None:
    session = ort.InferenceSession(with_every_head, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Got: 32 Expected: 64"):
        session.run(None, {"image": np.zeros((1, 1, 32, 64), np.float32)})


def test_a_volume_is_exported_with_and_without_a_description(tmp_path: Path) -> None:
    module = tiny_unet(axes=3)
    network = tiny_network(module, spatial=(8, 16, 12))
    described = tiny_spec(heads=("uncertainty",))
    for spec, outputs in ((None, ["mask"]), (described, ["mask", "uncertainty"])):
        info = export_graph(network, spec, GraphOptions(), tmp_path / "v.onnx", {})
        assert list(info.outputs) == outputs
        assert info.outputs["mask"] == TensorInfo("UINT8", ("N", 8, 16, 12))
    volume = smooth_images(2, 8, 16, 12)
    mask = answers(tmp_path / "v.onnx", volume)["mask"]
    assert np.array_equal(mask, scores(module, volume).argmax(1))


def test_the_reference_answers_more_images_than_fit_one_batch() -> None:
    images = smooth_images(11, SIDE, SIDE)
    reference = EagerNetwork(tiny_network(), tiny_spec(heads=("uncertainty",)), GraphOptions())
    answer = reference.run(images)
    assert reference.name == "torch-f32"
    assert list(answer) == ["mask", "uncertainty", "logits"]
    np.testing.assert_allclose(answer["logits"], scores(tiny_unet(), images), atol=1e-5)
    assert {name: value.dtype.name for name, value in answer.items()} == {
        "mask": "uint8", "uncertainty": "uint8", "logits": "float32",
    }  # fmt: skip


def test_references_leave_nothing_behind_on_the_network() -> None:
    network, images = tiny_network(), smooth_images(1, SIDE, SIDE)
    spec, options = tiny_spec(heads=("embedding",)), GraphOptions(embedding="deep")
    EagerNetwork(network, spec, options).run(images)
    assert not network.module.deep._forward_hooks


class _Branches(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        if image.sum() > 1e9:
            return image.repeat(1, CLASSES, 1, 1) + 1
        return image.repeat(1, CLASSES, 1, 1)


class _Fails(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        raise RuntimeError("sizes do not match\nat length")


class _Halves(TinyUNet):
    def forward(self, image: Tensor) -> Tensor:
        return functional.avg_pool2d(super().forward(image), 2)


class _Twice(TinyUNet):
    def forward(self, image: Tensor) -> Tensor:
        self.deep(self.first(image))
        return super().forward(image)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_Branches, r"cannot trace the network: .*data-dependent"),
        (_Fails, r"fails on images \[2, 1, 64, 64\]: RuntimeError: sizes do not match$"),
        (_Halves, r"mask: expected .*64, 64\)\), came .*32, 32"),
    ],
)
def test_a_network_that_is_no_graph_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[], nn.Module], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "g.onnx"
    with pytest.raises(GraphError, match=reason) as caught:
        export_graph(tiny_network(make().eval()), tiny_spec(), GraphOptions(), path, {})
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("keys", "options", "error", "reason"),
    [
        ({"classes": 5}, {}, GraphError, "expected 5 classes .4 segments.*has 3"),
        ({"heads": ("embedding",)}, {}, RecipeError, "embedding None disagree"),
        ({}, {"embedding": "deep"}, RecipeError, "embedding 'deep' disagree"),
        ({}, {"orientation": "SP"}, RecipeError, "'SP'"),
    ],
)
def test_what_does_not_agree_is_refused(
    tmp_path: Path,
    keys: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    reason: str,
) -> None:
    with pytest.raises(error, match=reason):
        export_graph(tiny_network(), tiny_spec(**keys), GraphOptions(**options), tmp_path / "g", {})


@pytest.mark.parametrize(
    ("module", "name", "error", "reason"),
    [
        (TinyUNet, "deeep", RecipeError, "no module 'deeep'; near it: deep"),
        (TinyUNet, "q", RecipeError, "near it: first, first.0"),
        (_Twice, "deep", GraphError, "'deep': expected one tensor .*'Tensor', 'Tensor'"),
    ],
)
def test_an_embedding_needs_one_module_that_runs_once(
    module: Callable[[], nn.Module], name: str, error: type[Exception], reason: str, tmp_path: Path
) -> None:
    spec, options = tiny_spec(heads=("embedding",)), GraphOptions(embedding=name)
    with pytest.raises(error, match=reason):
        export_graph(tiny_network(module().eval()), spec, options, tmp_path / "g.onnx", {})


def test_a_disk_that_is_full_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    network = tiny_network()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(GraphError, match=r"g\.onnx: cannot be written: File too large"):
            export_graph(network, tiny_spec(), GraphOptions(), path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()


@pytest.mark.parametrize("content", [None, b"", b"not onnx at all", b"\x08\x0a"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GraphError, match=r"x\.onnx"):
        inspect_graph(path)


def _features(module: TinyUNet, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        pooled = functional.max_pool2d(module.first(torch.from_numpy(images)), 2)
        answer: NDArray[np.float32] = module.deep(pooled).numpy()
    return answer

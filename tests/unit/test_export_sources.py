"""The factory and the ONNX source: what they give, and what they refuse."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.errors import RecipeError, SourceError
from export.graph.eager import EagerNetwork
from export.graph.exporting import export_graph
from export.graph.exposing import with_logits
from export.recipe import ExportOptions, FactorySource, GraphOptions, Recipe
from export.sources.opening import open_source, source_files
from preprocess.spec import load_model_spec
from tests.export_networks import (
    CLASSES,
    SIDE,
    TinyUNet,
    smooth_images,
    tiny_network,
    tiny_spec,
    tiny_unet,
    write_recipe,
)

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
HERE = "tests.unit.test_export_sources"
NOT_CALLABLE = 5


class Pair(TinyUNet):
    def forward(self, image: Tensor) -> Any:
        return super().forward(image), image


class Integers(TinyUNet):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).argmax(1, keepdim=True).repeat(1, CLASSES, 1, 1)


def not_a_module() -> dict[str, int]:
    return {}


def _factory(name: str, **others: Any) -> dict[str, Any]:
    return {"kind": "factory", "factory": name, "weights": "tiny.safetensors", **others}


def _recipe(folder: Path, source: dict[str, Any], **keys: Any) -> Recipe:
    write_recipe(folder)
    return write_recipe(folder, source, **keys)


def test_a_factory_gives_its_module_in_evaluation_mode(tmp_path: Path) -> None:
    network = open_source(write_recipe(tmp_path))
    assert isinstance(network.module, TinyUNet)
    assert not network.module.training
    assert (network.channels, network.spatial, network.classes) == (1, (SIDE, SIDE), CLASSES)
    images = torch.from_numpy(smooth_images(2, SIDE, SIDE))
    assert torch.equal(network.module(images), tiny_unet()(images))
    assert not any(parameter.requires_grad for parameter in network.module.parameters())


def test_arguments_reach_the_factory_and_the_orientation_turns_the_size(tmp_path: Path) -> None:
    torch.save({"net": tiny_unet(classes=5, widths=(4, 8)).state_dict()}, tmp_path / "w.pt")
    arguments = {"classes": 5, "widths": [4, 8]}
    source = _factory(f"{TinyUNet.__module__}:TinyUNet", weights="w.pt", key="net")
    network = open_source(
        write_recipe(
            tmp_path,
            {**source, "arguments": arguments},
            {"graph": {"orientation": "RA"}},
            classes=5,
            size=(32, 48),
        )
    )
    assert network.spatial == (48, 32)
    assert network.classes == 5


def test_the_key_of_a_stage_is_weights_and_code(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert source_files(recipe) == (
        tmp_path / "tiny.safetensors",
        ROOT / "tests" / "export_networks.py",
    )
    (tmp_path / "tiny.safetensors").unlink()
    with pytest.raises(SourceError, match=r"tiny\.safetensors: expected a file that MODEL\.yaml"):
        source_files(recipe)


def test_a_factory_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "surgeons_network.py").write_text(
        "from tests.export_networks import TinyUNet\n\ndef make():\n    return TinyUNet()\n"
    )
    recipe = _recipe(tmp_path, _factory("surgeons_network:make"))
    with pytest.raises(SourceError, match="surgeons_network"):
        source_files(recipe)
    with pytest.raises(SourceError, match=r"cannot be imported .*ModuleNotFoundError"):
        open_source(recipe)
    monkeypatch.chdir(tmp_path)
    assert open_source(recipe).classes == CLASSES
    assert source_files(recipe)[1] == tmp_path / "surgeons_network.py"


@pytest.mark.parametrize(
    ("factory", "arguments", "reason"),
    [
        ("no_such_package.net:UNet", {}, "cannot be imported .*no_such_package"),
        (f"{HERE}:Missing", {}, f"{HERE} has no Missing"),
        (f"{HERE}:NOT_CALLABLE", {}, "expected a function or class, .* has a int"),
        (f"{HERE}:not_a_module", {}, "expected a torch.nn.Module, came a dict"),
        (f"{HERE}:TinyUNet", {"depth": 3}, r"TinyUNet\(depth=3\): TypeError.*'depth'"),
        (f"{HERE}:TinyUNet", {"classes": 4}, r"head\.weight expected float \[4, .*came float \[3"),
        (f"{HERE}:Pair", {}, r"expected scores \[1, 3, 64, 64\], came a tuple"),
        (f"{HERE}:Integers", {}, r"expected float scores .* came torch.int64 \[1, 3, 64, 64\]"),
    ],
)
def test_a_factory_that_makes_no_network_is_refused(
    tmp_path: Path, factory: str, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SourceError, match=reason):
        open_source(_recipe(tmp_path, _factory(factory, arguments=arguments)))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"classes": 4}, r"expected float scores \[1, 4, 64, 64\], came torch.float32 \[1, 3"),
        ({"size": (33, 64)}, r"forward pass of an image \[1, 1, 33, 64\] failed: RuntimeError"),
    ],
)
def test_a_description_that_the_network_does_not_fit_is_refused(
    tmp_path: Path, keys: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SourceError, match=reason):
        open_source(write_recipe(tmp_path, **keys))


@pytest.mark.parametrize(
    "keys", [{"geometry": {"spacing_mm": [1.0, 1.0]}}, {"segments": 3}, {"route": {}}]
)
def test_a_description_without_what_a_factory_does_not_know_is_refused(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match=r"MODEL\.yaml: .*expected geometry\.size"):
        open_source(write_recipe(tmp_path, **keys))


@pytest.mark.parametrize("factory", ["TinyUNet", "a.b:", ":c", "a:b.c"])
def test_a_factory_is_spelled_with_one_colon(tmp_path: Path, factory: str) -> None:
    with pytest.raises(RecipeError, match=r"expected package\.module:name"):
        open_source(_recipe(tmp_path, _factory(factory)))


def test_our_own_network_answers_as_the_one_in_service(tmp_path: Path) -> None:
    served = ROOT / "model_repository" / "brain_mr_net" / "1" / "model.onnx"
    description = ROOT / "model_repository" / "brain_mr" / "model.yaml"
    source = FactorySource(
        "factory", "training.unet:UNet", str(ROOT / "training/weights/brain_mr.safetensors")
    )
    recipe = Recipe(description, yaml.safe_load(description.read_text()), ExportOptions(source))
    spec = load_model_spec(description)
    network = open_source(recipe)
    export_graph(network, spec, GraphOptions(), tmp_path / "b.onnx", {})
    images = 2 * smooth_images(2, 256, 256)
    session = ort.InferenceSession(tmp_path / "b.onnx", providers=["CPUExecutionProvider"])
    ours = session.run(["mask"], {"image": images})[0]
    theirs = ort.InferenceSession(served, providers=["CPUExecutionProvider"])
    assert (ours != theirs.run(["mask"], {"image": images})[0]).mean() <= 1e-5
    assert len(np.unique(ours)) > 3


def _trace(module: nn.Module, path: Path, *, opset: int = 17, batch: bool = True) -> None:
    """What a foreign engineer's script would write, with torch's older exporter."""
    axes = {"pic": {0: "b"}, "out": {0: "b"}} if batch else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1, 1, SIDE, SIDE),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["pic"],
            output_names=["out"],
            dynamic_axes=axes,
        )


def _onnx(folder: Path, file: Path, scores: str = "out", **keys: Any) -> Recipe:
    return write_recipe(folder, {"kind": "onnx", "file": file.name, "scores": scores}, **keys)


@pytest.mark.parametrize(("opset", "batch"), [(11, True), (17, False)])
def test_an_onnx_file_gets_our_heads_and_answers_as_before(
    tmp_path: Path, opset: int, batch: bool
) -> None:
    source = tmp_path / "theirs.onnx"
    _trace(tiny_unet(), source, opset=opset, batch=batch)
    before = source.read_bytes()
    relu = [n.output[0] for n in onnx.load(source).graph.node if n.op_type == "Relu"][-1]
    heads = ("uncertainty", "embedding")
    spec = tiny_spec(heads=heads)
    recipe = _onnx(
        tmp_path, source, heads=heads, export={"graph": {"orientation": "AR", "embedding": relu}}
    )
    network, options = open_source(recipe), recipe.export.graph
    info = export_graph(network, spec, options, tmp_path / "ours.onnx", {})
    assert list(info.inputs) == ["image"]
    assert list(info.outputs) == ["mask", *heads]
    assert (info.opset, info.metadata["source"]) == (18, "theirs.onnx")
    images = smooth_images(3, SIDE, SIDE)
    model = with_logits(onnx.load(tmp_path / "ours.onnx"))
    answer = _answers(model, images)
    by_torch = EagerNetwork(
        tiny_network(), spec, GraphOptions(orientation="AR", embedding="deep")
    ).run(images)
    reference = EagerNetwork(network, spec, options)
    assert reference.name == "source-onnx"
    for expected in (by_torch, reference.run(images)):
        assert np.array_equal(answer["mask"], expected["mask"])
        assert np.abs(answer["uncertainty"].astype(int) - expected["uncertainty"]).max() <= 1
        for name in ("logits", "embedding"):
            np.testing.assert_allclose(answer[name], expected[name], atol=1e-4)
    assert source.read_bytes() == before


def test_a_newer_opset_is_converted_and_the_file_is_deterministic(tmp_path: Path) -> None:
    source = tmp_path / "new.onnx"
    _trace(tiny_unet(), source)
    converted = onnx.version_converter.convert_version(onnx.load(source), 21)
    onnx.save(converted, source)
    network = open_source(_onnx(tmp_path, source))
    infos = [
        export_graph(network, tiny_spec(), GraphOptions(), tmp_path / f"{i}.onnx", {})
        for i in (1, 2)
    ]
    assert infos[0] == infos[1]
    assert infos[0].opset == 18


@pytest.mark.parametrize("ending", ["mask", "softmax"])
def test_scores_are_found_behind_a_finished_mask_or_a_softmax(tmp_path: Path, ending: str) -> None:
    class Finished(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_unet()

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.net(image)
            return scores.argmax(1).to(torch.uint8) if ending == "mask" else scores.softmax(1)

    source = tmp_path / "done.onnx"
    _trace(Finished().eval(), source)
    model = onnx.load(source)
    model.graph.output[0].name = model.graph.node[-1].output[0] = ending
    onnx.save(model, source)
    spec = tiny_spec(heads=("uncertainty",))
    network = open_source(_onnx(tmp_path, source, "logits" if ending == "mask" else ending))
    export_graph(network, spec, GraphOptions(), tmp_path / "ours.onnx", {})
    images = smooth_images(2, SIDE, SIDE)
    answer = _answers(onnx.load(tmp_path / "ours.onnx"), images)
    expected = EagerNetwork(tiny_network(), spec, GraphOptions()).run(images)
    assert np.array_equal(answer["mask"], expected["mask"])
    assert np.abs(answer["uncertainty"].astype(int) - expected["uncertainty"]).max() <= 1


def test_external_data_is_read_and_part_of_the_key(tmp_path: Path) -> None:
    source = tmp_path / "big.onnx"
    _trace(tiny_unet(), source)
    model = onnx.load(source)
    onnx.save(model, source, save_as_external_data=True, location="big.data", size_threshold=0)
    recipe = _onnx(tmp_path, source)
    assert source_files(recipe) == (source, tmp_path / "big.data")
    network = open_source(recipe)
    export_graph(network, tiny_spec(), GraphOptions(), tmp_path / "ours.onnx", {})
    images = smooth_images(2, SIDE, SIDE)
    mask = _answers(onnx.load(tmp_path / "ours.onnx", load_external_data=False), images)["mask"]
    assert np.array_equal(mask, tiny_unet()(torch.from_numpy(images)).argmax(1))
    (tmp_path / "big.data").write_bytes((tmp_path / "big.data").read_bytes()[:100])
    with pytest.raises(SourceError, match=r"big\.onnx"):
        open_source(recipe)
    (tmp_path / "big.data").unlink()
    with pytest.raises(SourceError, match=r"big\.data: expected a file"):
        source_files(recipe)
    with pytest.raises(SourceError, match=r"big\.onnx"):
        open_source(recipe)


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1000))
    folder = tmp_path / "model"
    folder.mkdir()
    model = _graph([("Relu", ["image"], ["out"])])
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (folder / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match=r"x\.onnx"):
        open_source(_onnx(folder, folder / "x.onnx"))


@pytest.mark.parametrize("damage", ["missing", "empty", "random", "half"])
def test_a_damaged_onnx_file_is_refused(tmp_path: Path, damage: str) -> None:
    source = tmp_path / "x.onnx"
    _trace(tiny_unet(), source)
    content = source.read_bytes()
    recipe = _onnx(tmp_path, source)
    source.write_bytes(
        {"random": np.random.default_rng(0).bytes(999), "half": content[: len(content) // 2]}.get(
            damage, b""
        )
    )
    if damage == "missing":
        source.unlink()
    with pytest.raises(SourceError, match=r"x\.onnx: "):
        open_source(recipe)


def _graph(
    nodes: Sequence[tuple[str, list[str], list[str]]],
    *,
    dims: Sequence[int | str] = ("N", 1, SIDE, SIDE),
    element: int = TensorProto.FLOAT,
    domain: str = "",
    inputs: Sequence[str] = ("image",),
    weights: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """A graph of plain nodes whose output is ``out``."""
    made = [helper.make_node(op, given, out, domain=domain) for op, given, out in nodes]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info(name, element, dims) for name in inputs],
        [helper.make_tensor_value_info("out", element, [None] * len(dims))],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


RELU = [("Relu", ["image"], ["out"])]
TILE = [("Concat", ["image"] * CLASSES, ["out"])]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_graph([("FancyConv", ["image"], ["out"])], domain="com.acme"), "FancyConv of com.acme"),
        (_graph([("NoSuchOp", ["image"], ["out"])]), "not a whole, valid ONNX file: .*NoSuchOp"),
        (_graph([("Add", ["image", "b"], ["out"])], inputs=("image", "b")), r"one input, got"),
        (_graph(RELU, element=TensorProto.FLOAT16), "float32 input .* got FLOAT16"),
        (_graph(RELU, dims=("N", 1, SIDE)), r"got FLOAT \['N', 1, 64\]"),
        (_graph(RELU, dims=("N", 3, SIDE, SIDE)), r"its input is \['any', 3, 64, 64\]"),
        (_graph(RELU, dims=("N", 1, 32, SIDE)), r"an image \[N, 1, \*\[64, 64\]\], its input is"),
        (_graph(RELU, dims=(4, 1, SIDE, SIDE)), r"its input is \[4, 1, 64, 64\]"),
        (_graph(RELU), r"'out' float32 \[2, 3, 64, 64\], came float32 \[2, 1, 64, 64\]"),
        (_graph([("Relu", ["image"], ["other"]), ("Relu", ["other"], ["out"])]), "came float32"),
    ],
)
def test_an_onnx_file_that_is_no_such_network_is_refused(
    tmp_path: Path, model: onnx.ModelProto, reason: str
) -> None:
    source = tmp_path / "x.onnx"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match=reason) as caught:
        open_source(_onnx(tmp_path, source))
    assert "x.onnx" in str(caught.value)


def test_scores_that_are_not_there_are_refused_with_the_names_of_the_outputs(
    tmp_path: Path,
) -> None:
    source = tmp_path / "x.onnx"
    source.write_bytes(_graph(RELU).SerializeToString())
    with pytest.raises(SourceError, match=r"tensor 'logits' .* its outputs are \['out'\]"):
        open_source(_onnx(tmp_path, source, "logits"))


def test_a_graph_made_for_one_image_only_is_refused(tmp_path: Path) -> None:
    nodes = [
        ("Concat", ["image"] * CLASSES, ["wide"]),
        ("Reshape", ["wide", "shape"], ["out"]),
    ]
    weights = {"shape": np.array([1, CLASSES, SIDE, SIDE])}
    source = tmp_path / "x.onnx"
    model = _graph(nodes, dims=(1, 1, SIDE, SIDE), weights=weights)
    model.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    source.write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match=r"x\.onnx: fails on images \[2, 1, 64, 64\]"):
        open_source(_onnx(tmp_path, source))


def test_a_graph_whose_batch_mixes_is_refused(tmp_path: Path) -> None:
    nodes = [
        ("ReduceMean", ["image", "batch"], ["mean"]),
        ("Sub", ["image", "mean"], ["centred"]),
        ("Concat", ["centred"] * CLASSES, ["out"]),
    ]
    model = _graph(nodes, weights={"batch": np.array([0])})
    model.graph.node[2].attribute.append(helper.make_attribute("axis", 1))
    source = tmp_path / "x.onnx"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match="depends on the others in its batch"):
        open_source(_onnx(tmp_path, source))


def test_an_embedding_that_is_no_tensor_of_the_file_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "x.onnx"
    _trace(tiny_unet(), source)
    network = open_source(_onnx(tmp_path, source))
    spec, options = tiny_spec(heads=("embedding",)), GraphOptions(embedding="/deep/relu")
    with pytest.raises(RecipeError, match=r"no tensor '/deep/relu' .*near it: .*Relu"):
        export_graph(network, spec, options, tmp_path / "y.onnx", {})


def test_rows_and_columns_that_a_file_fixes_cannot_vary(tmp_path: Path) -> None:
    source = tmp_path / "x.onnx"
    _trace(tiny_unet(), source)
    network = open_source(_onnx(tmp_path, source))
    with pytest.raises(SourceError, match="dynamic_spatial"):
        export_graph(
            network, tiny_spec(), GraphOptions(dynamic_spatial=True), tmp_path / "y.onnx", {}
        )


def test_a_volume_network_in_a_file_keeps_its_size(tmp_path: Path) -> None:
    source = tmp_path / "v.onnx"
    model = _graph(TILE, dims=("N", 1, 8, 16, 12))
    model.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    source.write_bytes(model.SerializeToString())
    network = open_source(_onnx(tmp_path, source))
    assert network.spatial == (8, 16, 12)
    info = export_graph(network, tiny_spec(), GraphOptions(), tmp_path / "o.onnx", {})
    assert info.outputs["mask"].dims == ("N", 8, 16, 12)


def _answers(model: onnx.ModelProto, images: Any) -> dict[str, Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))

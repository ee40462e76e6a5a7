"""One command from a checkpoint to a served, verified model; and what it says of bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from export.benchmark.records import read_bench
from export.cli import main
from export.parity.results import read_parity
from export.stages import tree_sha256
from preprocess.spec import load_model_spec
from tests.export_bundles import train_nnunet, write_bundle
from tests.export_networks import TinyUNet, tiny_description, tiny_unet, write_recipe
from tests.nnunet_training import Task

pytestmark = [
    pytest.mark.integration,
    # The exporter of torch 2.13 uses what torch deprecates.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning"),
]

ROOT = Path(__file__).parents[2]
BARELY_TRAINED = {"f32_mask_dice": 0.998, "f32_class_dice": 0.998, "half_mask_dice": 0.97}
"""After a few training steps the scores of two classes are nearly the same in places, and a class
there follows from the last bit of float32, which differs between kinds of processors."""
CODE = {"scheme": "SCT", "value": "91723000", "meaning": "Anatomical Structure"}


class Bench:
    """A repository, a work folder, and the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.repository = folder / "model_repository"
        self.repository.mkdir()
        self.work = folder / "work"
        self._capsys = capsys

    def run(self, command: str, recipe: Path, *options: str) -> int:
        """The command's exit status."""
        arguments = [command, str(recipe), "--repository", str(self.repository)]
        sys.argv = ["export", *arguments, "--work", str(self.work), *options]
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def said(self) -> str:
        """What it printed since the last call, lines joined."""
        out, err = self._capsys.readouterr()
        return " ".join((out + err).split())

    def parity(self, name: str, which: str = "parity") -> Any:
        """The report of the last comparison."""
        return read_parity(self.work / name / which / "parity.json")

    def version(self, name: str, version: int) -> Path:
        """Folder of a published network."""
        return self.repository / f"{name}_net" / str(version)


@pytest.fixture
def bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "bench"
    folder.mkdir()
    return Bench(folder, capsys)


def segments(*labels: str) -> list[dict[str, Any]]:
    return [
        {"value": i, "label": label, "category": CODE, "type": CODE, "color": [99, 40 * i, 0]}
        for i, label in enumerate(labels, start=1)
    ]


def recipe_of(path: Path, source: dict[str, Any], **keys: Any) -> Path:
    """A recipe without geometry and intensity, which its source knows."""
    export = {"source": source, **keys.pop("export", {})}
    description = tiny_description(**keys)
    del description["geometry"], description["intensity"]
    path.write_text(yaml.safe_dump(description | {"export": export}))
    return path


def test_the_demo_model_is_built_served_and_verified(bench: Bench) -> None:
    recipe = ROOT / "models" / "brain_mr.yaml"
    assert bench.run("build", recipe) == 0, bench.said()
    assert "published: brain_mr version 1" in bench.said()
    report = bench.parity("brain_mr")
    engines = {one.engine: one for one in report.engines}
    assert engines.keys() == {
        "onnxruntime",
        "openvino-f32",
        "openvino-int8",
        "tensorrt-fp16 graph",
        "tensorrt-int8 graph",
        "triton-cpu",
    }
    assert engines["triton-cpu"].served
    assert report.reference.label_dice - engines["openvino-int8"].label_dice <= 0.005
    for precision in ("fp32", "fp16", "int8"):
        made = json.loads(
            (bench.work / "brain_mr" / f"tensorrt-{precision}" / "stage.json").read_text()
        )
        assert made["facts"]["refusal"] == ""
        assert set(made["facts"]["targets"]) == {"SM75", "SM80", "SM86", "SM89", "SM120"}

    before = tree_sha256(bench.repository)
    assert bench.run("build", recipe, "--dry-run") == 0
    assert " run " not in bench.said().replace("would", "")
    assert bench.run("build", recipe) == 0
    said = bench.said()
    assert "nothing changed: brain_mr version 1 stands" in said
    assert "starts" not in said
    assert tree_sha256(bench.repository) == before
    generated = {p: h for p, h in before.items() if not p.endswith("provenance.json")}
    checked_in = tree_sha256(ROOT / "model_repository")
    same = {p for p in generated if generated[p] == checked_in.get(p)}
    assert generated.keys() - same <= {
        "brain_mr_net/1/model.onnx",
        "brain_mr_net/1/model.fp16.onnx",
    }


def test_a_monai_bundle_is_built_served_and_verified(bench: Bench, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    source = {"kind": "monai_bundle", "bundle": "bundle"}
    keys = {"name": "liver_ct", "heads": ("uncertainty",), "segments": segments("liver", "tumour")}
    recipe = recipe_of(tmp_path / "MODEL.yaml", source, **keys)
    assert bench.run("build", recipe) == 0, bench.said()
    spec = load_model_spec(bench.repository / "liver_ct" / "model.yaml")
    assert spec.geometry.size in {(64, 80), (80, 64)}
    assert "triton-cpu" in {one.engine for one in bench.parity("liver_ct").engines}
    assert bench.run("verify", recipe) == 0, bench.said()


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    root = tmp_path_factory.mktemp("nnunet")
    # As it was initialised, a network of volumes answers every class on whatever it is shown.
    tasks = Task(steps=12, configurations=("2d",)), Task(steps=0, configurations=("3d_fullres",))
    trained, initialised = train_nnunet(root, *tasks)
    return root / "0" / "raw", trained | initialised


def test_an_nnunet_folder_is_built_served_and_verified(
    bench: Bench, tmp_path: Path, nnunet: tuple[Path, dict[str, Path]]
) -> None:
    raw, folders = nnunet
    image = next(raw.rglob("imagesTr/*.nii.gz"))
    labels = next(raw.rglob(f"labelsTr/{image.name.replace('_0000', '')}"))
    export = {
        "graph": {"orientation": "AR"},
        "verification": [{"image": str(image), "labels": str(labels)}],
        "limits": BARELY_TRAINED,
    }
    source = {"kind": "nnunet", "folder": str(folders["2d"])}
    keys = {"name": "organ_ct", "segments": segments("organ", "core"), "export": export}
    recipe = recipe_of(tmp_path / "MODEL.yaml", source, **keys)
    assert bench.run("build", recipe) == 0, bench.said()
    report = bench.parity("organ_ct")
    assert "triton-cpu" in {one.engine for one in report.engines}
    assert report.series[0].labelled


def test_an_nnunet_of_volumes_is_exported_and_compared(
    bench: Bench, tmp_path: Path, nnunet: tuple[Path, dict[str, Path]]
) -> None:
    folder = str(nnunet[1]["3d_fullres"])
    source = {"kind": "nnunet", "folder": folder, "configuration": "3d_fullres"}
    export = {"graph": {"orientation": "SAR"}, "limits": BARELY_TRAINED}
    keys = {"name": "organ_3d", "segments": segments("organ", "core"), "export": export}
    recipe = recipe_of(tmp_path / "MODEL.yaml", source, **keys)
    assert bench.run("build", recipe) == 0, bench.said()
    assert "not published" in bench.said()
    engines = {one.engine for one in bench.parity("organ_3d").engines}
    assert {"onnxruntime", "openvino-f32", "tensorrt-fp16 graph"} <= engines
    assert not list(bench.repository.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe of a small model, where it was built, and the repository."""
    folder = tmp_path_factory.mktemp("built")
    write_recipe(folder)
    (folder / "bench" / "model_repository").mkdir(parents=True)
    where = ["--repository", "bench/model_repository", "--work", "bench/work"]
    command = [sys.executable, "-m", "export", "build", "MODEL.yaml", *where]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def published(bench: Bench, built: Path, tmp_path: Path) -> Path:
    """The recipe of a small model that is in the repository."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path / "MODEL.yaml"


def test_verify_fails_when_one_weight_of_the_published_network_moved(
    bench: Bench, published: Path
) -> None:
    assert bench.run("verify", published) == 0, bench.said()
    path = bench.version("tiny", 1) / "model.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    value = numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).standard_normal(value.shape).astype(value.dtype)
    weight.CopyFrom(numpy_helper.from_array(value + 0.05 * value.std() * noise, weight.name))
    onnx.save(model, path)
    assert bench.run("verify", published) == 7
    said = bench.said()
    assert "expected at" in said
    assert "slice" in said
    assert list((bench.work / "tiny" / "verify").glob("worst-*.png"))


def test_bench_measures_the_engines_of_the_build(bench: Bench, published: Path) -> None:
    assert bench.run("bench", published, "--seconds", "1") == 0, bench.said()
    report = read_bench(bench.work / "tiny" / "bench" / "bench.json")
    assert report.engines[0].name == "openvino-f32"
    assert {"onnxruntime", "torch"} <= {one.name for one in report.engines}
    assert (bench.work / "tiny" / "bench" / "bench.png").stat().st_size > 10_000


def test_plans_without_tensorrt_say_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    monkeypatch.setattr(sys, "argv", ["export", "plans"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 3
    assert "tensorrt-cu12" in capsys.readouterr().err


def corrupt(folder: Path) -> None:
    path = folder / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def wrong_shapes(folder: Path) -> None:
    state = TinyUNet(widths=(8, 16)).state_dict()
    save_file(state, folder / "tiny.safetensors")


def missing_keys(folder: Path) -> None:
    state = tiny_unet().state_dict()
    del state["head.weight"]
    save_file(state, folder / "tiny.safetensors")


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(Path(__file__).parent / "exploded"), "w"))


def pickle_bomb(folder: Path) -> None:
    torch.save({"state": Bomb()}, folder / "bomb.pt", pickle_module=pickle)
    change(folder, lambda export: export["source"].update(weights="bomb.pt"))


def unknown_operation(folder: Path) -> None:
    """A network that ONNX Runtime computes and TensorRT's parser does not know."""
    tensor = helper.make_tensor_value_info
    weight = np.random.default_rng(0).normal(0, 1, (3, 1, 3, 3)).astype(np.float32)
    constants = {
        "weight": weight,
        "start": np.array([0, 0, 0]),
        "end": np.array([1, 2, 2]),
        "axes": np.array([1, 2, 3]),
        "square": np.array([-1, 2, 2]),
        "scalar": np.array([-1, 1, 1, 1]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1] * 4),
        helper.make_node("Slice", ["image", "start", "end", "axes"], ["corner"]),
        helper.make_node("Reshape", ["corner", "square"], ["matrix"]),
        helper.make_node("Det", ["matrix"], ["determinant"]),
        helper.make_node("Reshape", ["determinant", "scalar"], ["factor"]),
        helper.make_node("Add", ["features", "factor"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [tensor("image", TensorProto.FLOAT, ["N", 1, 64, 64])],
        [tensor("logits", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "det.onnx")
    change(folder, lambda export: export.update(source={"kind": "onnx", "file": "det.onnx"}))


def change(folder: Path, how: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "MODEL.yaml"
    content = yaml.safe_load(path.read_text())
    how(content["export"])
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (corrupt, 4, ("tiny.safetensors",)),
        (wrong_shapes, 4, ("tiny.safetensors", "expected")),
        (missing_keys, 4, ("tiny.safetensors", "head.weight")),
        (pickle_bomb, 4, ("bomb.pt", "code", "safetensors")),
        (unknown_operation, 6, ("Det",)),
    ],
)
def test_bad_input_is_named_and_leaves_the_repository_as_it_was(
    bench: Bench,
    published: Path,
    spoil: Callable[[Path], None],
    status: int,
    words: tuple[str, ...],
) -> None:
    before = tree_sha256(bench.repository)
    spoil(published.parent)
    bench.said()
    assert bench.run("build", published) == status
    said = bench.said().replace(" ", "")  # lines are wrapped within words too
    assert all(word.replace(" ", "") in said for word in words), said
    assert tree_sha256(bench.repository) == before
    assert not (Path(__file__).parent / "exploded").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system that holds a third of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_in_the_middle_is_said_and_changes_nothing(
    bench: Bench, published: Path, small_disk: Path
) -> None:
    before = tree_sha256(bench.repository)
    change(
        published.parent, lambda export: export["source"].update(arguments={"widths": [64, 128]})
    )
    save_file(tiny_unet(widths=(64, 128)).state_dict(), published.parent / "tiny.safetensors")
    bench.said()
    bench.work = small_disk
    assert bench.run("build", published) != 0
    assert "No space left on device" in bench.said()
    assert tree_sha256(bench.repository) == before
    assert not [path for path in small_disk.rglob("*") if path.is_file()]

"""Trained nnU-Net v2 folders, written by nnU-Net itself, as a source of networks."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from export.errors import RecipeError, SourceError
from export.recipe import load_recipe
from export.sources.network import Decision, DecisionKind, SourceNetwork
from export.sources.opening import open_source, source_files
from preprocess.geometry import SliceGeometry
from preprocess.intensity import plan_intensity
from preprocess.parsing import build
from preprocess.spec import (
    GeometrySpec,
    HuWindow,
    ModelSpec,
    Padding,
    PercentileRange,
    ZScore,
    ZScoreRegion,
)
from tests.export_bundles import network_slices, recipe_file, train_nnunet, write_bundle
from tests.nnunet_training import DATASET, Task, case

pytestmark = pytest.mark.integration

CT = Task()
SAGITTAL = Task(
    channel="zscore",
    shape=(48, 56, 16),
    spacing_mm=(0.8, 0.9, 3.0),
    labels={"background": 0, "organ": [1, 2], "core": 2},
    regions=(1, 2),
    margin=1,
    configurations=("2d",),
    steps=0,
    reader="NibabelIOWithReorient",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Path]]]:
    """Folder of everything, and the trained folders of ``CT`` and ``SAGITTAL``."""
    root = tmp_path_factory.mktemp("nnunet")
    return root, train_nnunet(root, CT, SAGITTAL)


@pytest.fixture
def ct(trained: tuple[Path, list[dict[str, Path]]], tmp_path: Path) -> Path:
    """A copy of the trained 2d folder, to be spoilt."""
    folder = tmp_path / "trained"
    shutil.copytree(trained[1][0]["2d"], folder)
    return folder


def opened(folder: Path, where: Path, orientation: str | None = "AR", **keys: Any) -> SourceNetwork:
    source = {"kind": "nnunet", "folder": str(folder)}
    source |= {key: keys.pop(key) for key in ("configuration", "checkpoint") if key in keys}
    recipe = load_recipe(recipe_file(where, source, orientation=orientation, **keys))
    for path in source_files(recipe):
        assert path.is_file()
    return open_source(recipe)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def predictor(folder: Path) -> Any:
    """nnU-Net's own, with the folder's network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        made = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
        made.initialize_from_trained_model_folder(str(folder), (0,))
    return made


@pytest.mark.parametrize(
    ("index", "configuration", "keys", "spatial"),
    [
        (0, "2d", {"orientation": "AR"}, (56, 48)),
        (0, "3d_fullres", {"orientation": "SAR"}, (12, 56, 48)),
        (1, "2d", {"orientation": None, "route": {"planes": ["sagittal"]}}, (48, 56)),
    ],
)
def test_scores_are_those_of_nnunets_own_network(  # noqa: PLR0917
    trained: tuple[Path, list[dict[str, Path]]],
    tmp_path: Path,
    index: int,
    configuration: str,
    keys: dict[str, Any],
    spatial: tuple[int, ...],
) -> None:
    folder = trained[1][index][configuration]
    ours = opened(folder, tmp_path, configuration=configuration, **keys)
    theirs = predictor(folder)
    assert (ours.channels, ours.spatial) == (1, spatial)
    images = torch.randn(2, 1, *spatial, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs.network.eval()(images)
        assert torch.equal(ours.module(images), expected)
    assert expected.shape[1] == (len(ours.decision.values) or ours.classes)
    assert float(expected.std()) > 0.01


def test_description_of_a_ct_folder(
    trained: tuple[Path, list[dict[str, Path]]], tmp_path: Path
) -> None:
    flat = opened(trained[1][0]["2d"], tmp_path)
    assert flat.geometry == GeometrySpec((0.8999999761581421, 0.800000011920929), (56, 48))
    assert flat.labels == ("background", "organ", "core")
    assert (flat.decision, flat.orientation) == (Decision(), "AR")
    assert flat.facts["nnunet_trainer"] == "nnUNetTrainer"
    assert isinstance(flat.intensity, HuWindow)
    assert flat.intensity.padding is Padding.ZERO
    volume = opened(trained[1][0]["3d_fullres"], tmp_path, "SAR", configuration="3d_fullres")
    assert (volume.spatial, volume.geometry) == ((12, 56, 48), flat.geometry)
    assert volume.facts["training_spacing_mm"].startswith("3.0 ")


def test_description_of_a_reoriented_sagittal_folder_with_regions(
    trained: tuple[Path, list[dict[str, Path]]], tmp_path: Path
) -> None:
    """The reader turns images to R, A, S; the transposition makes slices along x."""
    network = opened(trained[1][1]["2d"], tmp_path, None, route={"planes": ["sagittal"]})
    assert network.orientation == "SA"
    assert network.decision == Decision(DecisionKind.REGIONS, (1, 2))
    assert (network.classes, network.labels) == (3, ("background", "organ", "core"))
    assert isinstance(network.intensity, ZScore)
    assert network.intensity.region is ZScoreRegion.NONZERO_BOX
    assert network.geometry is not None
    assert network.geometry.spacing_mm == pytest.approx((0.8, 0.9))
    assert network.geometry.size == (48, 56)


def nnunet_input(root: Path, index: int, folder: Path) -> tuple[NDArray[np.float32], Any]:
    """A training case as nnU-Net's own preprocessor gives it to the network: [slices, ...]."""
    theirs = predictor(folder)
    image = root / str(index) / "raw" / DATASET / "imagesTr" / "case0_0000.nii.gz"
    data, _, properties = theirs.configuration_manager.preprocessor_class().run_case(
        [str(image)], None, theirs.plans_manager, theirs.configuration_manager, theirs.dataset_json
    )
    return data[0], properties["bbox_used_for_cropping"]


def test_input_is_that_of_nnunets_own_preprocessing(
    trained: tuple[Path, list[dict[str, Path]]], tmp_path: Path
) -> None:
    root, folders = trained
    expected, _ = nnunet_input(root, 0, folders[0]["2d"])
    stored, _ = case(CT, 0)
    geometry = SliceGeometry(56, 48, 0.9, 0.8, (-1, 0, 0, 0, -1, 0))
    images = network_slices(opened(folders[0]["2d"], tmp_path), stored, geometry)
    assert images.shape == expected.shape == (12, 56, 48)
    assert np.ptp(expected) > 4
    assert np.abs(images - expected).max() < 2e-6

    wider = opened(folders[0]["2d"], tmp_path, geometry={"size": [72, 64]})
    assert wider.spatial == (72, 64)
    padded = np.pad(expected, ((0, 0), (8, 8), (8, 8)))
    assert np.abs(network_slices(wider, stored, geometry) - padded).max() < 2e-6


def test_input_of_transposed_and_cropped_series_is_nnunets_too(
    trained: tuple[Path, list[dict[str, Path]]], tmp_path: Path
) -> None:
    root, folders = trained
    expected, box = nnunet_input(root, 1, folders[1]["2d"])
    assert expected.shape == (14, 48, 54)
    network = opened(folders[1]["2d"], tmp_path, None, route={"planes": ["sagittal"]})
    stored = np.ascontiguousarray(case(SAGITTAL, 0)[0].transpose(2, 0, 1))
    geometry = SliceGeometry(48, 56, 0.8, 0.9, (0, -1, 0, 0, 0, 1))
    images = network_slices(network, stored, geometry)
    cropped = images[tuple(slice(*bounds) for bounds in box)]
    assert np.abs(cropped - expected).max() < 2e-6


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("CTNormalization", HuWindow),
        ("ZScoreNormalization", ZScore),
        ("RescaleTo01Normalization", PercentileRange),
    ],
)
def test_normalisations_are_nnunets_own(ct: Path, tmp_path: Path, scheme: str, kind: type) -> None:
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes

    def choose(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["normalization_schemes"] = [scheme]

    edit(ct / "plans.json", choose)
    spec = opened(ct, tmp_path).intensity
    assert spec is not None
    assert isinstance(spec, kind)
    foreground = json.loads((ct / "plans.json").read_text())
    properties = foreground["foreground_intensity_properties_per_channel"]["0"]
    values = np.random.default_rng(3).normal(50, 200, (4, 16, 16)).astype(np.int16)
    values[0, 0, 0] = values[-1, -1, -1] = 1
    theirs = getattr(schemes, scheme)(use_mask_for_norm=False, intensityproperties=properties)
    expected = theirs.run(values.astype(np.float32))
    plan = plan_intensity(spec, values, 1.0, 0.0)
    ours = np.clip(values * plan.scale + plan.offset, 0, 1) * plan.gain + plan.bias
    assert np.abs(ours - expected).max() < 1e-5


def test_orientation_is_required_and_explained(ct: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"axes y, x grow.*superior it is AR.*superior\) PL"):
        opened(ct, tmp_path, None)
    with pytest.raises(RecipeError, match="'SAR': expected 2 letters"):
        opened(ct, tmp_path, "SAR")
    with pytest.raises(RecipeError, match="'SA': expected the directions of an axial canvas"):
        opened(ct, tmp_path, "SA")


def test_a_reader_that_reorients_settles_the_orientation(
    trained: tuple[Path, list[dict[str, Path]]], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="'IP': the source says 'SA'; leave the key out"):
        opened(trained[1][1]["2d"], tmp_path, "IP")


def test_what_the_recipe_states_must_be_the_folders(ct: Path, tmp_path: Path) -> None:
    network = opened(ct, tmp_path)
    assert isinstance(network.intensity, HuWindow)
    stated: dict[str, Any] = asdict(network.intensity)
    stated |= {"kind": "hu_window", "padding": "zero"}
    rounded = stated | {"low_value": round(stated["low_value"], 4)}
    same = opened(ct, tmp_path, intensity=rounded, geometry={"spacing_mm": [0.9, 0.8]})
    assert same.geometry == GeometrySpec((0.9, 0.8), (56, 48))
    with pytest.raises(RecipeError, match="but the source does"):
        opened(ct, tmp_path, intensity=stated | {"padding": "low"})
    with pytest.raises(RecipeError, match=r"spacing_mm \[1.0, 1.0\]: the source was trained at"):
        opened(ct, tmp_path, geometry={"spacing_mm": [1.0, 1.0]})
    with pytest.raises(SourceError, match=r"down by \[8, 8\].*\[60, 48\]"):
        opened(ct, tmp_path, geometry={"size": [60, 48]})
    with pytest.raises(SourceError, match=r"2 classes beside the background .organ, core."):
        opened(ct, tmp_path, segments=[{}])
    with pytest.raises(RecipeError, match="unknown key 'sizes'"):
        opened(ct, tmp_path, geometry={"sizes": [56, 48]})


def test_what_cannot_be_expressed_is_refused_unless_stated(ct: Path, tmp_path: Path) -> None:
    def mask(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["use_mask_for_norm"] = [True]

    edit(ct / "plans.json", mask)
    with pytest.raises(SourceError, match="use_mask_for_norm normalises the voxels inside"):
        opened(ct, tmp_path)
    network = opened(ct, tmp_path, intensity={"kind": "zscore", "padding": "zero"})
    assert isinstance(network.intensity, ZScore)

    def raw(plans: dict[str, Any]) -> None:
        settings = plans["configurations"]["2d"]
        settings |= {"use_mask_for_norm": [False], "normalization_schemes": ["NoNormalization"]}

    edit(ct / "plans.json", raw)
    with pytest.raises(SourceError, match="low_value equal to hu_low"):
        opened(ct, tmp_path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "boom")


def test_a_checkpoint_may_not_run_code(ct: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    checkpoint = ct / "fold_0/checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "extra": Bomb(canary)}, checkpoint)
    with pytest.raises(SourceError, match=r"checkpoint_final.pth: wants to run code"):
        opened(ct, tmp_path)
    checkpoint.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(SourceError, match=r"checkpoint_final.pth"):
        opened(ct, tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "dynamic_network_architectures.architectures.unet.np.load",
        "dynamic_network_architectures.architectures.unet.torch",
        "torch.nn.Conv2d",
        "dynamic_network_architectures.architectures.unet.Absent",
    ],
)
def test_plans_may_not_name_anything_else(ct: Path, tmp_path: Path, name: str) -> None:
    def rename(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["architecture"]["network_class_name"] = name

    edit(ct / "plans.json", rename)
    with pytest.raises(SourceError, match=f"plans.json: network_class_name: names '{name}'"):
        opened(ct, tmp_path)


@pytest.mark.parametrize("name", ["subprocess.run", "torch.nn.modules.module.torch", "torch.load"])
def test_arguments_may_not_name_anything_else(ct: Path, tmp_path: Path, name: str) -> None:
    def rename(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["nonlin"] = name

    edit(ct / "plans.json", rename)
    with pytest.raises(SourceError, match=f"plans.json: nonlin: names '{name}'"):
        opened(ct, tmp_path)


def spoil_channels(folder: Path) -> None:
    edit(folder / "dataset.json", lambda d: d.update(channel_names={"0": "T1", "1": "T2"}))


def spoil_labels(folder: Path) -> None:
    edit(folder / "dataset.json", lambda d: d.update(labels={"background": 0, "organ": 7}))


def spoil_order(folder: Path) -> None:
    labels = {"background": 0, "organ": [1, 2], "core": 2}
    edit(folder / "dataset.json", lambda d: d.update(labels=labels))


def spoil_cascade(folder: Path) -> None:
    edit(folder / "plans.json", lambda p: p["configurations"]["2d"].update(previous_stage="low"))


def write_older_plans(folder: Path, network: str = "PlainConvUNet") -> None:
    """Spells the plans as nnU-Net did before 2.5."""

    def change(plans: dict[str, Any]) -> None:
        settings = plans["configurations"]["2d"]
        arguments = settings.pop("architecture")["arch_kwargs"]
        settings |= {
            "UNet_class_name": network,
            "UNet_base_num_features": arguments["features_per_stage"][0],
            "unet_max_num_features": arguments["features_per_stage"][-1],
            "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
            "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
            "num_pool_per_axis": [3, 3],
            "pool_op_kernel_sizes": arguments["strides"],
            "conv_kernel_sizes": arguments["kernel_sizes"],
        }

    edit(folder / "plans.json", change)


def test_older_plans_are_read_as_nnunet_reads_them(ct: Path, tmp_path: Path) -> None:
    """The oracle is nnU-Net's own conversion of such plans."""
    images = torch.randn(1, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    write_older_plans(ct)
    with torch.inference_mode():
        expected = predictor(ct).network.eval()(images)
        assert torch.equal(opened(ct, tmp_path).module(images), expected)


def spoil_old(folder: Path) -> None:
    write_older_plans(folder, "Generic_UNet")


def spoil_features(folder: Path) -> None:
    def widen(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"][0] = 6

    edit(folder / "plans.json", widen)


def spoil_kwargs(folder: Path) -> None:
    def add(plans: dict[str, Any]) -> None:
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["depth"] = 6

    edit(folder / "plans.json", add)


def spoil_spacing(folder: Path) -> None:
    edit(folder / "plans.json", lambda p: p["configurations"]["2d"].pop("spacing"))


def spoil_version(folder: Path) -> None:
    (folder / "plans.json").rename(folder / "plans.pkl")


def spoil_stages(folder: Path) -> None:
    (folder / "plans.json").write_text(json.dumps({"plans_per_stage": {}}))


def spoil_json(folder: Path) -> None:
    (folder / "plans.json").write_text("{")


def spoil_weights(folder: Path) -> None:
    torch.save({"weights": {}}, folder / "fold_0/checkpoint_final.pth")


def spoil_truncated(folder: Path) -> None:
    checkpoint = folder / "fold_0/checkpoint_final.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_channels, r"dataset.json: 2 input channels \(T1, T2\)"),
        (spoil_labels, r"dataset.json: mask values \[0, 7\]"),
        (spoil_order, "KeyError: 'regions_class_order'"),
        (spoil_cascade, "second stage of a cascade"),
        (spoil_old, "network 'Generic_UNet'; expected one of PlainConvUNet"),
        (spoil_features, "checkpoint_final.pth: the weights do not fit PlainConvUNet: different"),
        (spoil_kwargs, "cannot be made from its arch_kwargs: TypeError"),
        (spoil_spacing, "not what nnU-Net v2 writes: KeyError: 'spacing'"),
        (spoil_version, "a model of nnU-Net v1"),
        (spoil_stages, "plans of nnU-Net v1"),
        (spoil_json, "plans.json: not JSON"),
        (spoil_weights, "no 'network_weights' in it"),
        (spoil_truncated, "checkpoint_final.pth: not a whole file"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(
    ct: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(ct)
    with pytest.raises(SourceError, match=reason):
        open_source(
            load_recipe(
                recipe_file(tmp_path, {"kind": "nnunet", "folder": str(ct)}, orientation="AR")
            )
        )


def test_a_checkpoint_of_another_configuration_is_refused(
    trained: tuple[Path, list[dict[str, Path]]], ct: Path, tmp_path: Path
) -> None:
    other = trained[1][0]["3d_fullres"] / "fold_0/checkpoint_final.pth"
    shutil.copy(other, ct / "fold_0/checkpoint_final.pth")
    with pytest.raises(SourceError, match="expected weights of the configuration '2d'"):
        opened(ct, tmp_path)
    with pytest.raises(SourceError, match=r"no configuration '2.5d'; it has 2d, 3d_fullres"):
        opened(ct, tmp_path, configuration="2.5d")


def test_names_that_compiling_and_distributing_leave_are_taken_off(
    ct: Path, tmp_path: Path
) -> None:
    expected = opened(ct, tmp_path).module.state_dict()
    checkpoint = ct / "fold_0/checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    weights = content["network_weights"].items()
    content["network_weights"] = {f"module._orig_mod.{name}": value for name, value in weights}
    torch.save(content, checkpoint)
    state = opened(ct, tmp_path).module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_the_worked_examples_are_whole(
    trained: tuple[Path, list[dict[str, Path]]], tmp_path: Path
) -> None:
    """Both MODEL.yaml of docs/export-sources.md, on a bundle and a folder with their paths."""
    page = (Path(__file__).parents[2] / "docs/export-sources.md").read_text()
    examples = [yaml.safe_load(part) for part in re.findall(r"```yaml\n(.*?)```", page, re.S)]
    write_bundle(tmp_path / examples[0]["export"]["source"]["bundle"])
    shutil.copytree(trained[1][0]["2d"], tmp_path / examples[1]["export"]["source"]["folder"])
    for example in examples:
        path = tmp_path / "MODEL.yaml"
        path.write_text(yaml.safe_dump(example))
        network = open_source(load_recipe(path))
        description = {key: value for key, value in example.items() if key != "export"}
        assert network.geometry is not None
        assert network.intensity is not None
        description["geometry"] = json.loads(json.dumps(asdict(network.geometry)))
        description["intensity"] = asdict(network.intensity)
        spec = build(ModelSpec, description, "model")
        assert len(spec.segments) + 1 == network.classes
        assert (spec.geometry, spec.intensity) == (network.geometry, network.intensity)

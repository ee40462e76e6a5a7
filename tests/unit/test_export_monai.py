"""MONAI bundles, written by MONAI itself, as a source of networks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
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
from preprocess.spec import GeometrySpec, HuWindow, IntensityKind, Padding, ZScore
from tests.export_bundles import (
    ARGMAX,
    CT_TRANSFORMS,
    NETWORK,
    SLICES,
    bundle_metadata,
    network_slices,
    recipe_file,
    write_bundle,
)

pytestmark = pytest.mark.unit

READING = CT_TRANSFORMS[:4]
WINDOW = CT_TRANSFORMS[4]
PERCENTILES = {
    "_target_": "ScaleIntensityRangePercentilesd",
    "keys": "image",
    "lower": 1,
    "upper": 99,
    "b_min": 0.0,
    "b_max": 1.0,
    "clip": True,
}
RANGE = {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0}
STANDARD = {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}
CONSTANTS = {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 0.2, "divisor": 0.4}
PAD = {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [64, 80, -1]}


def opened(bundle: Path, orientation: str | None = None, **keys: Any) -> SourceNetwork:
    source = {"kind": "monai_bundle", "bundle": bundle.name}
    source |= {key: keys.pop(key) for key in ("config", "weights") if key in keys}
    path = recipe_file(bundle.parent, source, orientation=orientation, **keys)
    return open_source(load_recipe(path))


def with_values(*values: Any) -> tuple[Any, ...]:
    return (*READING, *values, CT_TRANSFORMS[5])


def theirs(bundle: Path) -> Any:
    """The bundle's configuration, parsed and run by MONAI."""
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle / "configs/inference.json")
    return parser


def test_scores_are_those_of_monais_own_network(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    network = theirs(bundle).get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    images = torch.randn(2, 1, 64, 80, generator=torch.Generator().manual_seed(1))
    ours = opened(bundle)
    with torch.inference_mode():
        expected = network.eval()(images)
        assert torch.equal(ours.module(images), expected)
    assert float(expected.std()) > 0.01
    assert not ours.module.training


def test_description_of_a_bundle(tmp_path: Path) -> None:
    network = opened(write_bundle(tmp_path / "bundle"))
    assert (network.channels, network.spatial, network.classes) == (1, (64, 80), 3)
    assert network.orientation == "RA"
    assert network.geometry == GeometrySpec((0.9, 0.8), (80, 64))
    assert network.intensity == HuWindow(
        IntensityKind.HU_WINDOW, -160.0, 240.0, -1.0, 1.0, Padding.ZERO
    )
    assert network.decision == Decision()
    assert network.labels == ("background", "liver", "tumour")
    assert network.facts["bundle_version"] == "0.2.0"


def test_files_are_those_that_decide(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    source = {"kind": "monai_bundle", "bundle": "bundle"}
    found = source_files(load_recipe(recipe_file(tmp_path, source)))
    assert [path.relative_to(bundle.resolve()).as_posix() for path in found] == [
        "configs/metadata.json",
        "configs/inference.json",
        "models/model.pt",
    ]


def volume(letters: str) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """A series [x, y, z] whose axes grow in the given directions, and its RAS affine."""
    rng = np.random.default_rng(5)
    values = rng.normal(40, 150, (56, 72, 6)).astype(np.int16)
    signs = [1 if letter in "RAS" else -1 for letter in letters]
    return values, np.diag([*np.multiply(signs, (0.8, 0.9, 3.0)), 1.0])


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
@pytest.mark.filterwarnings("ignore:monai.transforms.spatial.*labels:FutureWarning")
@pytest.mark.parametrize("letters", ["RAS", "LPS", "RPS"])
@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        ((WINDOW,), 2e-6),
        ((WINDOW, CONSTANTS), 5e-6),
        ((WINDOW, PAD), 2e-6),
        ((PERCENTILES,), 2e-6),
        ((RANGE,), 2e-6),
        ((STANDARD,), 5e-6),
        ((RANGE, STANDARD), 5e-6),
        ((STANDARD, PERCENTILES), 5e-6),
    ],
    ids=[
        "window",
        "window-constants",
        "window-pad",
        "percentiles",
        "range",
        "zscore",
        "range-zscore",
        "zscore-percentiles",
    ],
)
def test_input_is_that_of_the_bundles_own_transforms(
    tmp_path: Path, letters: str, values: tuple[Any, ...], tolerance: float
) -> None:
    """One NIfTI series at the bundle's spacing, through MONAI and through our preprocessing."""
    bundle = write_bundle(tmp_path / "bundle", transforms=with_values(*values))
    stored, affine = volume(letters)
    nifti: Any = nibabel.nifti1
    nibabel.save(nifti.Nifti1Image(stored, affine), tmp_path / "image.nii.gz")
    compose = theirs(bundle).get_parsed_content("preprocessing")
    transformed = compose({"image": str(tmp_path / "image.nii.gz")})["image"]
    expected = np.moveaxis(np.asarray(transformed)[0], 2, 0)
    margins = [(window - n) // 2 for window, n in zip((64, 80), expected.shape[1:], strict=True)]
    expected = np.pad(expected, ((0, 0), *((margin, margin) for margin in margins)))

    right, ahead = (1 if letter in "LP" else -1 for letter in letters[:2])
    geometry = SliceGeometry(72, 56, 0.9, 0.8, (right, 0, 0, 0, ahead, 0))
    slices = np.ascontiguousarray(stored.transpose(2, 1, 0))
    ours = network_slices(opened(bundle), slices, geometry)
    assert ours.shape == expected.shape == (6, 64, 80)
    assert np.ptp(expected) > 0.9
    assert np.abs(ours - expected).max() < tolerance


def test_a_volume_network(tmp_path: Path) -> None:
    network = {**NETWORK, "spatial_dims": 3}
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [32, 48, 16], "sw_batch_size": 1}
    metadata = bundle_metadata(("16*n", "16*n", "16*n"))
    bundle = write_bundle(tmp_path / "b", network=network, inferer=inferer, metadata=metadata)
    found = opened(bundle)
    assert (found.spatial, found.orientation) == ((32, 48, 16), "RAS")
    assert found.geometry == GeometrySpec((0.9, 0.8), (48, 32))
    assert found.module(torch.zeros(1, 1, 32, 48, 16)).shape == (1, 3, 32, 48, 16)


@pytest.mark.parametrize(("axis", "code", "plane"), [(0, "AS", "sagittal"), (1, "RS", "coronal")])
def test_slices_along_another_axis(tmp_path: Path, axis: int, code: str, plane: str) -> None:
    bundle = write_bundle(tmp_path / "b", inferer={**SLICES, "spatial_dim": axis})
    network = opened(bundle, route={"planes": [plane]})
    assert network.orientation == code
    assert network.geometry is not None
    assert network.geometry.spacing_mm == ((3.0, 0.9) if axis == 0 else (3.0, 0.8))
    with pytest.raises(RecipeError, match="expected the directions of an axial canvas"):
        opened(bundle)


def test_one_channel_with_sigmoid_is_a_region(tmp_path: Path) -> None:
    sigmoid = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    half = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
    written: dict[str, Any] = {
        "network": {**NETWORK, "out_channels": 1},
        "metadata": bundle_metadata(labels=("spleen",)),
    }
    network = opened(write_bundle(tmp_path / "a", postprocessing=(sigmoid, half), **written))
    assert network.decision == Decision(DecisionKind.REGIONS, (1,))
    assert (network.classes, network.labels) == (2, ("background", "spleen"))
    with pytest.raises(SourceError, match="no Activationsd with sigmoid"):
        opened(write_bundle(tmp_path / "b", postprocessing=(half,), **written))
    low = {**half, "threshold": 0.3}
    with pytest.raises(SourceError, match=r"AsDiscrete: threshold is 0.3; expected 0.5"):
        opened(write_bundle(tmp_path / "c", postprocessing=(sigmoid, low), **written))
    with pytest.raises(SourceError, match="does not say which covers which"):
        opened(write_bundle(tmp_path / "d", postprocessing=(sigmoid, half)))


def test_what_is_done_to_finished_masks_is_named(tmp_path: Path) -> None:
    largest = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    network = opened(write_bundle(tmp_path / "b", postprocessing=(*ARGMAX, largest)))
    assert network.facts["bundle_transforms_not_done"] == "KeepLargestConnectedComponent"


def test_references_and_yaml_are_followed(tmp_path: Path) -> None:
    network = {**NETWORK, "out_channels": "@classes"}
    bundle = write_bundle(
        tmp_path / "b",
        network=network,
        transforms=("@reading", {**WINDOW, "a_max": "@windows::soft::1"}, "%cast"),
        changes={
            "classes": 3,
            "windows": {"soft": [-160, 200]},
            "reading": {"_target_": "Compose", "transforms": list(READING)},
            "cast": {"_target_": "monai.transforms.CastToTyped", "dtype": "$torch.float32"},
        },
    )
    content = json.loads((bundle / "configs/inference.json").read_text())
    (bundle / "configs/inference.yaml").write_text(yaml.safe_dump(content))
    for config in ("configs/inference.json", "configs/inference.yaml"):
        intensity = opened(bundle, config=config).intensity
        assert isinstance(intensity, HuWindow)
        assert intensity.hu_high == 200


def test_checkpoints_with_a_state_dict_inside(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    expected = opened(bundle).module.state_dict()
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    torch.save({"model": weights, "epoch": 3}, bundle / "models/saved.pt")
    state = opened(bundle, weights="models/saved.pt").module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "boom")


def test_a_bundle_may_not_run_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"$open({str(canary)!r}, 'w').close()"
    bundle = write_bundle(tmp_path / "b")
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    safe = json.dumps(content)

    content["imports"], content["extra"] = [code], code
    path.write_text(json.dumps(content))
    assert opened(bundle).classes == 3

    path.write_text(json.dumps({**content, "network_def": {**NETWORK, "dropout": "@extra"}}))
    with pytest.raises(SourceError, match=r"network_def::dropout is the expression .\$open"):
        opened(bundle)
    path.write_text(json.dumps({**content, "preprocessing": code}))
    with pytest.raises(SourceError, match="is code, which a bundle may not run here"):
        opened(bundle, "RA", geometry={"spacing_mm": [1, 1]})

    path.write_text(safe)
    torch.save({"model": Bomb(canary)}, bundle / "models/model.pt")
    with pytest.raises(SourceError, match=r"model.pt: wants to run code"):
        opened(bundle)
    (bundle / "models/model.pt").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(SourceError, match=r"model.pt"):
        opened(bundle)
    assert not canary.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "monai.bundle.run",
        "monai.networks.utils.save_state",
        "monai.networks.nets.unet.torch",
        "torch.nn.modules.module.torch",
        "torch.hub.load",
        "torch.load",
        "Absent",
    ],
)
def test_a_bundle_may_name_modules_of_networks_only(tmp_path: Path, target: str) -> None:
    bundle = write_bundle(tmp_path / "b")
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    for definition in ({**NETWORK, "_target_": target}, {**NETWORK, "act": {"_target_": target}}):
        path.write_text(json.dumps({**content, "network_def": definition}))
        with pytest.raises(SourceError, match=r"expected a torch.nn.Module class of monai"):
            opened(bundle)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (({**WINDOW, "clip": False},), "ScaleIntensityRange clip is false"),
        (({**WINDOW, "a_min": "$-10 * 16"},), r"a_min is '\$-10 \* 16'; write a number"),
        (({**STANDARD, "nonzero": True},), "NormalizeIntensity nonzero is true"),
        ((CONSTANTS,), "without a range to clip to"),
        ((WINDOW, STANDARD), "comes after values were clipped"),
        ((RANGE, WINDOW), "window from values that were scaled before"),
        (({**PERCENTILES, "relative": True},), "relative is true"),
        (({**RANGE, "factor": 0.1},), "factor multiplies values"),
        (({**WINDOW, "b_min": 2.0},), "expected low_value below high_value"),
        ((PAD, WINDOW), "pads with 0 before it normalises"),
        ((WINDOW, {**PAD, "mode": "reflect"}), "SpatialPad pads by 'reflect'"),
        ((WINDOW, {**PAD, "method": "end"}), "SpatialPad pads on one side"),
        ((WINDOW, {**PAD, "value": 0.5}), r"pads with 0.5 after it normalised"),
        ((), "the bundle has no normalisation"),
        (({"_target_": "GaussianSmoothd", "keys": "image"}, WINDOW), "GaussianSmooth cannot be"),
        (({"_target_": "CastToTyped", "keys": "image", "dtype": "$np.uint8"}, WINDOW), "casts to"),
    ],
)
def test_values_that_cannot_be_expressed(
    tmp_path: Path, values: tuple[Any, ...], reason: str
) -> None:
    """Refused with the reason; taken where MODEL.yaml itself states the normalisation."""
    bundle = write_bundle(tmp_path / "b", transforms=with_values(*values))
    grid: dict[str, Any] = {"geometry": {"spacing_mm": [0.9, 0.8], "size": [80, 64]}}
    with pytest.raises(SourceError, match=reason):
        opened(bundle, "RA", **grid)
    stated = opened(bundle, "RA", **grid, intensity={"kind": "zscore"})
    assert stated.intensity == ZScore(IntensityKind.ZSCORE)


@pytest.mark.parametrize(
    ("values", "inferer"), [((PERCENTILES,), None), ((STANDARD,), None), ((RANGE,), None)]
)
def test_single_images_have_no_series_to_measure(
    tmp_path: Path, values: tuple[Any, ...], inferer: None
) -> None:
    bundle = write_bundle(tmp_path / "b", transforms=with_values(*values), inferer=inferer)
    with pytest.raises(SourceError, match="measures each 2D image by itself"):
        opened(bundle)


@pytest.mark.parametrize(
    ("early", "reason"),
    [
        ({"_target_": "Resized", "keys": "image", "spatial_size": [64, 80]}, "Resize cannot be"),
        ({"_target_": "Flipd", "keys": "image", "spatial_axis": 0}, "Flip cannot be"),
        ({"_target_": "my.transforms.Secretd", "keys": "image"}, "my.transforms.Secretd cannot be"),
    ],
)
def test_geometry_that_cannot_be_expressed(
    tmp_path: Path, early: dict[str, Any], reason: str
) -> None:
    bundle = write_bundle(tmp_path / "b", transforms=with_values(early, WINDOW))
    with pytest.raises(RecipeError, match=f"export.graph.orientation is missing: {reason}"):
        opened(bundle)
    with pytest.raises(RecipeError, match=f"spacing_mm is missing: {reason}"):
        opened(bundle, "RA")
    with pytest.raises(SourceError, match=f"intensity is not stated.*{reason}"):
        opened(bundle, "RA", geometry={"spacing_mm": [1.0, 1.0]})
    stated = {"geometry": {"spacing_mm": [1.0, 1.0]}, "intensity": {"kind": "zscore"}}
    network = opened(bundle, "RA", **stated)
    assert network.geometry == GeometrySpec((1.0, 1.0), (80, 64))
    name = reason.partition(" ")[0]
    assert network.facts["bundle_transforms_not_done"] == name


def test_spacing_by_axes_that_are_not_known_yet(tmp_path: Path) -> None:
    order = (*READING[:2], READING[3], READING[2], WINDOW)
    bundle = write_bundle(tmp_path / "b", transforms=order)
    with pytest.raises(RecipeError, match="Orientation comes after a Spacing whose distances"):
        opened(bundle)
    keeping = {**READING[3], "pixdim": [-1.0, -1.0, 3.0]}
    bundle = write_bundle(tmp_path / "c", transforms=(*READING[:3], keeping, WINDOW))
    with pytest.raises(RecipeError, match="spacing_mm is missing: Spacing pixdim"):
        opened(bundle)


def test_size_that_the_bundle_leaves_open(tmp_path: Path) -> None:
    metadata = bundle_metadata(("*", "8*n"))
    bundle = write_bundle(tmp_path / "b", metadata=metadata, inferer=None)
    with pytest.raises(RecipeError, match=r"geometry.size is missing: .*'\*', '8\*n'"):
        opened(bundle)
    network = opened(bundle, geometry={"size": [96, 128]})
    assert (network.spatial, network.geometry) == ((128, 96), GeometrySpec((0.9, 0.8), (96, 128)))
    assert network.intensity is not None
    assert network.intensity.padding is Padding.LOW
    with pytest.raises(SourceError, match=r"forward pass of an image \[1, 1, 130, 97\] failed"):
        opened(bundle, geometry={"size": [97, 130]})


def test_what_the_recipe_states_must_be_the_bundles(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    window = {"kind": "hu_window", "hu_low": -160.0, "hu_high": 240.0, "low_value": -1.0}
    assert opened(bundle, "RA", intensity=window | {"padding": "zero"}).classes == 3
    with pytest.raises(RecipeError, match=r"padding low, but the source does .* padding zero"):
        opened(bundle, intensity=window)
    with pytest.raises(RecipeError, match="'PL': the source says 'RA'"):
        opened(bundle, "PL")
    with pytest.raises(RecipeError, match="the source was trained at"):
        opened(bundle, geometry={"spacing_mm": [0.8, 0.9]})
    with pytest.raises(SourceError, match=r"2 classes beside the background .liver, tumour."):
        opened(bundle, segments=[{}, {}, {}])


def spoil_channels(bundle: Path) -> None:
    metadata = bundle_metadata(channels=4)
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))


def spoil_scores(bundle: Path) -> None:
    metadata = bundle_metadata(scores=5)
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))


def spoil_names(bundle: Path) -> None:
    metadata = bundle_metadata(labels=("background", "liver"), scores=3)
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))


def spoil_metadata(bundle: Path) -> None:
    (bundle / "configs/metadata.json").write_text("{")


def spoil_config(bundle: Path) -> None:
    (bundle / "configs/inference.json").unlink()


def spoil_reference(bundle: Path) -> None:
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "network_def": {**NETWORK, "dropout": "@absent"}}))


def spoil_macro(bundle: Path) -> None:
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "network_def": "%/etc/secret.json::network"}))


def spoil_argument(bundle: Path) -> None:
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "network_def": {**NETWORK, "depth": 4}}))


def spoil_fetching(bundle: Path) -> None:
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "network_def": {**NETWORK, "pretrained": True}}))


def spoil_weights(bundle: Path) -> None:
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    weights.popitem()
    torch.save(weights, bundle / "models/model.pt")


def spoil_truncated(bundle: Path) -> None:
    path = bundle / "models/model.pt"
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_channels, "metadata.json: says 4 where the network's definition has in_channels 1"),
        (spoil_scores, "metadata.json: says 5 where"),
        (spoil_names, "3 score channels, but channel_def names"),
        (spoil_metadata, "metadata.json: not JSON"),
        (spoil_config, "inference.json: expected a bundle's configuration"),
        (spoil_reference, "network_def: the referring item `@absent` is not defined"),
        (spoil_macro, "takes '%/etc/secret.json::network' from another file"),
        (spoil_argument, "network_def: UNet: TypeError"),
        (spoil_fetching, "fetches pretrained weights"),
        (spoil_weights, "the weights do not fit UNet: missing"),
        (spoil_truncated, "model.pt: not a whole file"),
    ],
)
def test_a_damaged_or_foreign_bundle_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    bundle = write_bundle(tmp_path / "b")
    spoil(bundle)
    with pytest.raises(SourceError, match=reason):
        opened(bundle)


def test_several_input_channels_are_refused(tmp_path: Path) -> None:
    network = {**NETWORK, "in_channels": 4}
    bundle = write_bundle(tmp_path / "b", network=network, metadata=bundle_metadata(channels=4))
    with pytest.raises(SourceError, match="4 input channels; expected 1"):
        opened(bundle)

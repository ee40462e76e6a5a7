"""MONAI bundles and trained nnU-Net folders for tests, written by those libraries' own code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from export.sources.network import SourceNetwork
from export.sources.orientation import plan_turn
from preprocess.geometry import SliceGeometry
from preprocess.plan import plan_series
from preprocess.reference import network_image
from preprocess.spec import Code, ModelSpec, Plane, RouteSpec, SegmentSpec
from tests.nnunet_training import Task

__all__ = (
    "ARGMAX",
    "CT_TRANSFORMS",
    "NETWORK",
    "SLICES",
    "bundle_metadata",
    "network_slices",
    "recipe_file",
    "served_spec",
    "train_nnunet",
    "write_bundle",
)

NETWORK: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 16],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "instance",
}
CT_TRANSFORMS: tuple[dict[str, Any], ...] = (
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [0.8, 0.9, 3.0], "mode": "bilinear"},
    {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": -160,
        "a_max": 240,
        "b_min": -1.0,
        "b_max": 1.0,
        "clip": True,
    },
    {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
)
ARGMAX: tuple[dict[str, Any], ...] = (
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
)
SLICES: dict[str, Any] = {"_target_": "SliceInferer", "roi_size": [64, 80], "spatial_dim": 2}


def bundle_metadata(
    shape: tuple[int | str, ...] = (64, 80),
    labels: tuple[str, ...] = ("background", "liver", "tumour"),
    scores: int | None = None,
    channels: int = 1,
) -> dict[str, Any]:
    """metadata.json as MONAI's default has it, with the network's input and output."""
    from monai.bundle.utils import DEFAULT_METADATA

    image = {"type": "image", "num_channels": channels, "spatial_shape": list(shape)}
    named = {str(index): label for index, label in enumerate(labels)}
    count = len(labels) if scores is None else scores
    prediction = {"type": "image", "num_channels": count, "channel_def": named}
    formats = {"inputs": {"image": image}, "outputs": {"pred": prediction}}
    return {**DEFAULT_METADATA, "version": "0.2.0", "network_data_format": formats}


def write_bundle(
    folder: Path,
    *,
    network: Mapping[str, Any] = NETWORK,
    transforms: tuple[Any, ...] = CT_TRANSFORMS,
    inferer: Mapping[str, Any] | None = SLICES,
    postprocessing: tuple[Any, ...] = ARGMAX,
    metadata: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Writes a bundle by ``monai.bundle.init_bundle``: MONAI's default, with these parts.

    Args:
        folder: Made here.
        network: ``network_def``.
        transforms: Of ``preprocessing``.
        inferer: None leaves MONAI's default, SimpleInferer.
        postprocessing: Its transforms.
        metadata: metadata.json, see ``bundle_metadata``.
        changes: Other items of the configuration.
        seed: Of the network's weights.
    """
    from monai.bundle.config_parser import ConfigParser
    from monai.bundle.scripts import init_bundle
    from monai.bundle.utils import DEFAULT_INFERENCE

    config = {
        **DEFAULT_INFERENCE,
        "device": "$torch.device('cpu')",
        "network_def": dict(network),
        "preprocessing": {"_target_": "Compose", "transforms": list(transforms)},
        "postprocessing": {"_target_": "Compose", "transforms": list(postprocessing)},
        **({"inferer": dict(inferer)} if inferer else {}),
        **(changes or {}),
    }
    torch.manual_seed(seed)
    module = ConfigParser(json.loads(json.dumps(config))).get_parsed_content("network_def")
    init_bundle(
        folder,
        network=module,
        metadata_str=dict(metadata or bundle_metadata()),
        inference_str=config,
    )
    return folder


def recipe_file(
    folder: Path,
    source: Mapping[str, Any],
    *,
    orientation: str | None = None,
    **description: Any,
) -> Path:
    """Writes a MODEL.yaml with this source, and with what else is given."""
    export: dict[str, Any] = {"source": dict(source)}
    if orientation:
        export["graph"] = {"orientation": orientation}
    path = folder / "MODEL.yaml"
    path.write_text(yaml.safe_dump({"name": "liver_ct", **description, "export": export}))
    return path


def train_nnunet(folder: Path, *tasks: Task) -> list[dict[str, Path]]:
    """Trains tiny nnU-Nets in a process of their own.

    Returns:
        For each task the trained folder of each configuration; ``folder/N/raw`` is the raw
        dataset of the task N.
    """
    program = [sys.executable, "-m", "tests.nnunet_training", str(folder)]
    done = subprocess.run(
        [*program, *(json.dumps(asdict(task)) for task in tasks)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [{k: Path(v) for k, v in folders.items()} for folders in json.loads(done.stdout)]


def served_spec(network: SourceNetwork, plane: Plane = Plane.AXIAL) -> ModelSpec:
    """A description that says of the network's input what its source says."""
    assert network.geometry is not None
    assert network.intensity is not None
    code = Code("SCT", "10200004", "Liver structure")
    segments = tuple(
        SegmentSpec(value, f"class {value}", code, code, (0, 0, value))
        for value in range(1, network.classes)
    )
    route = RouteSpec(("CT",), (), (), (), (), (plane,), 5.0, 1)
    return ModelSpec(
        name="liver_ct",
        version=1,
        title="Liver",
        intended_use="Tests.",
        route=route,
        geometry=network.geometry,
        intensity=network.intensity,
        segments=segments,
    )


def network_slices(
    network: SourceNetwork, stored: NDArray[np.int16], geometry: SliceGeometry
) -> NDArray[np.float32]:
    """What the network sees of a series by our preprocessing: [slices, *its own axes]."""
    spec = served_spec(network, geometry.plane)
    plan = plan_series(spec, stored, geometry)
    turn = plan_turn(network.orientation, spec.route.planes)
    images = np.stack([network_image(spec, plan.tensors(image)) for image in stored])
    turned: NDArray[np.float32] = turn.to_network(torch.from_numpy(images)).numpy()
    return turned[:, 0]

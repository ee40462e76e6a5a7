"""plans.json and dataset.json of a trained nnU-Net v2 folder, read strictly.

plans.json ─▶ architecture, patch, spacing, normalisation    dataset.json ─▶ labels, decision
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import SourceError
from export.sources.json_object import read_json_object
from export.sources.network import Decision, DecisionKind

__all__ = ("NnunetPlan", "read_plan")

_UNET = "dynamic_network_architectures.architectures.unet"
_OLDER_NETWORKS = {
    "PlainConvUNet": (f"{_UNET}.PlainConvUNet", "n_conv_per_stage"),
    "ResidualEncoderUNet": (f"{_UNET}.ResidualEncoderUNet", "n_blocks_per_stage"),
}


@dataclass(frozen=True)
class NnunetPlan:
    """What nnU-Net decided about one configuration.

    Attributes:
        dataset: Name of the dataset.
        network: Full name of the network's class.
        arguments: Its arguments.
        imported: Those of its arguments that name a class.
        patch: Size of the network's own axes, 2 or 3 numbers.
        spacing_mm: Distances along them.
        transpose: For each of the network's three axes (slices first), the axis of the image
            array [z, y, x] that it is.
        reader: nnU-Net's class that read the images.
        normalisation: nnU-Net's class that normalised them.
        masked: Whether only nonzero voxels were normalised.
        foreground: Statistics of the labelled voxels of the training images.
        labels: Name of each mask value, background first.
        decision: How scores become the mask.
        scores: Score channels.
    """

    dataset: str
    network: str
    arguments: dict[str, Any]
    imported: tuple[str, ...]
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    transpose: tuple[int, int, int]
    reader: str
    normalisation: str
    masked: bool
    foreground: dict[str, float]
    labels: tuple[str, ...]
    decision: Decision
    scores: int


def read_plan(folder: Path, configuration: str) -> NnunetPlan:
    """Reads a trained folder's description of one configuration.

    Raises:
        SourceError: Not there, not nnU-Net v2's, several input channels, a cascade's second
            stage, or labels that are not 1, 2, 3 and so on.
    """
    if not (folder / "plans.json").exists() and any(folder.glob("plans*.pkl")):
        raise SourceError(
            f"{folder}: a model of nnU-Net v1, whose plans are a pickle; expected plans.json of "
            "nnU-Net v2: train it again with v2"
        )
    plans, dataset = (
        read_json_object(folder / name, "a trained nnU-Net v2 folder")
        for name in ("plans.json", "dataset.json")
    )
    # The files are foreign: any entry of theirs may be absent or of another kind.
    try:
        return _plan(plans, dataset, folder, configuration)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SourceError(
            f"{folder}: plans.json and dataset.json are not what nnU-Net v2 writes: "
            f"{type(error).__name__}: {error}"
        ) from error


def _plan(
    plans: dict[str, Any], dataset: dict[str, Any], folder: Path, configuration: str
) -> NnunetPlan:
    settings = _configuration(plans, configuration, folder / "plans.json")
    channels = dataset["channel_names"]
    if len(channels) != 1:
        raise SourceError(
            f"{folder / 'dataset.json'}: {len(channels)} input channels "
            f"({', '.join(map(str, channels.values()))}); expected 1, because a request holds one "
            "series"
        )
    architecture = settings["architecture"]
    labels, decision = _labels(dataset, folder / "dataset.json")
    first, second, third = (int(axis) for axis in plans["transpose_forward"])
    patch = tuple(int(length) for length in settings["patch_size"])
    spacing = tuple(float(distance) for distance in settings["spacing"])
    if len(patch) != len(spacing) or len(patch) not in (2, 3):
        raise ValueError(f"patch_size {patch} and spacing {spacing}")
    return NnunetPlan(
        dataset=str(plans["dataset_name"]),
        network=str(architecture["network_class_name"]),
        arguments=dict(architecture["arch_kwargs"]),
        imported=tuple(architecture["_kw_requires_import"]),
        patch=patch,
        spacing_mm=spacing,
        transpose=(first, second, third),
        reader=str(plans["image_reader_writer"]),
        normalisation=str(settings["normalization_schemes"][0]),
        masked=bool(settings["use_mask_for_norm"][0]),
        foreground=dict(plans["foreground_intensity_properties_per_channel"]["0"]),
        labels=labels,
        decision=decision,
        scores=len(decision.values) or len(labels),
    )


def _configuration(plans: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """A configuration with what it inherits."""
    if "plans_per_stage" in plans:
        raise SourceError(f"{path}: plans of nnU-Net v1; expected v2: train it again with v2")
    known, chain = plans["configurations"], [name]
    if name not in known:
        raise SourceError(f"{path}: no configuration {name!r}; it has {', '.join(known)}")
    while (parent := known[chain[-1]].get("inherits_from")) and parent not in chain:
        chain.append(parent)
    settings: dict[str, Any] = {}
    for step in reversed(chain):
        settings.update(known[step])
    if settings.get("previous_stage"):
        raise SourceError(
            f"{path}: configuration {name!r} is the second stage of a cascade and wants the "
            f"answer of {settings['previous_stage']!r} as input; take 2d or 3d_fullres"
        )
    if "architecture" not in settings:
        settings["architecture"] = _older_architecture(settings, path)
    return settings


def _older_architecture(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """What plans of nnU-Net before 2.5 say of the network, as its ConfigurationManager reads it."""
    name = settings["UNet_class_name"]
    if name not in _OLDER_NETWORKS:
        raise SourceError(f"{path}: network {name!r}; expected one of {', '.join(_OLDER_NETWORKS)}")
    full_name, blocks = _OLDER_NETWORKS[name]
    convolutions, axes = settings["n_conv_per_stage_encoder"], len(settings["patch_size"])
    base, most = settings["UNet_base_num_features"], settings["unet_max_num_features"]
    arguments = {
        "n_stages": len(convolutions),
        "features_per_stage": [min(base * 2**i, most) for i in range(len(convolutions))],
        "conv_op": f"torch.nn.Conv{axes}d",
        "kernel_sizes": settings["conv_kernel_sizes"],
        "strides": settings["pool_op_kernel_sizes"],
        blocks: convolutions,
        "n_conv_per_stage_decoder": settings["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": full_name,
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


def _labels(dataset: dict[str, Any], path: Path) -> tuple[tuple[str, ...], Decision]:
    """Names of the mask values, and how scores become them.

    Labels are regions where one of them lists several values; then each has a channel, and
    ``regions_class_order`` says what it paints (nnU-Net, LabelManager).
    """
    given: Mapping[str, Any] = dataset["labels"]
    named = {name: value for name, value in given.items() if name != "ignore"}
    if any(isinstance(value, list) and len(value) > 1 for value in named.values()):
        regions = [name for name, value in named.items() if value not in (0, [0])]
        values = tuple(int(value) for value in dataset["regions_class_order"])
        if len(values) != len(regions):
            raise ValueError(f"regions_class_order {values} for the regions {regions}")
        decision = Decision(DecisionKind.REGIONS, values)
        painted = {0: "background", **dict(zip(values, regions, strict=True))}
    else:
        decision = Decision()
        painted = {int(v[0] if isinstance(v, list) else v): n for n, v in named.items()}
    if sorted(painted) != list(range(len(decision.values) + 1 if decision.values else len(named))):
        raise SourceError(
            f"{path}: mask values {sorted(painted)}; expected 0 (background), 1, 2 and so on, "
            "without gaps"
        )
    return tuple(painted[value] for value in sorted(painted)), decision

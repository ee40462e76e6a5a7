"""A trained nnU-Net v2 folder as a network: its architecture, weights and preprocessing.

plans.json, dataset.json ─▶ NnunetPlan ─┬─▶ module ◀─ fold_X/checkpoint
                                        └─▶ geometry, intensity, labels in our terms

nnU-Net itself is not needed, only the package that its plans name their networks from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from export.errors import MissingPart, SourceError
from export.recipe import NnunetSource, Recipe
from export.sources.agreement import (
    Unknown,
    agree_classes,
    agree_geometry,
    agree_intensity,
    agree_orientation,
)
from export.sources.allowed import module_class
from export.sources.network import SourceNetwork
from export.sources.nnunet_plans import NnunetPlan, read_plan
from export.sources.probing import probe
from export.sources.state import fit_state, read_checkpoint, state_of
from preprocess.spec import (
    HuWindow,
    IntensityKind,
    IntensitySpec,
    Padding,
    PercentileRange,
    ZScore,
    ZScoreRegion,
)

__all__ = ("files", "open_folder")

_ARCHITECTURES = "dynamic_network_architectures"
_PARTS = ("torch.nn", _ARCHITECTURES)
_REORIENTING = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
_SMALLEST_SD = 1e-8

# The training log in a checkpoint holds NumPy numbers; NumPy 1 had this function elsewhere.
_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
_SAFE = (
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)),
)


def files(recipe: Recipe, source: NnunetSource) -> tuple[Path, ...]:
    """The files that decide the network."""
    folder = recipe.resolve(source.folder)
    checkpoint = folder / f"fold_{source.fold}" / source.checkpoint
    return folder / "plans.json", folder / "dataset.json", checkpoint


def open_folder(recipe: Recipe, source: NnunetSource) -> SourceNetwork:
    """Rebuilds a trained nnU-Net.

    Args:
        recipe: States ``export.graph.orientation``, which nnU-Net does not record; its
            ``geometry.size`` may replace the patch.
        source: The folder, its configuration, fold and checkpoint.

    Raises:
        SourceError: The folder is damaged, unsafe, of another version, or needs what ours
            cannot express.
        RecipeError: MODEL.yaml contradicts the folder, or does not say what only it can say.
        MissingPart: ``dynamic-network-architectures`` is not installed.
    """
    folder = recipe.resolve(source.folder)
    plan = read_plan(folder, source.configuration)
    agree_classes(recipe, plan.labels, str(folder / "dataset.json"))
    orientation = agree_orientation(recipe, _orientation(plan), len(plan.patch))
    geometry, spatial = agree_geometry(recipe, orientation, plan.spacing_mm, plan.patch)
    intensity = agree_intensity(recipe, _intensity(plan))
    _require_divisible(plan, spatial, folder / "plans.json")
    module = _build(plan, folder / "plans.json")
    trainer = _load(module, files(recipe, source)[2], source)
    probe(module, 1, spatial, plan.scores, str(folder))
    return SourceNetwork(
        module=module,
        onnx=None,
        channels=1,
        spatial=spatial,
        classes=len(plan.labels),
        decision=plan.decision,
        orientation=orientation,
        geometry=geometry,
        intensity=intensity,
        labels=plan.labels,
        facts={
            "nnunet_dataset": plan.dataset,
            "nnunet_configuration": source.configuration,
            "nnunet_fold": source.fold,
            "nnunet_trainer": trainer,
            "training_spacing_mm": " ".join(map(str, plan.spacing_mm)),
            "training_patch": " ".join(map(str, plan.patch)),
        },
    )


def _build(plan: NnunetPlan, path: Path) -> nn.Module:
    try:
        import dynamic_network_architectures  # noqa: F401
    except ImportError as error:
        raise MissingPart(
            "an nnU-Net folder needs: pip install dynamic-network-architectures"
        ) from error
    arguments = dict(plan.arguments)
    for name in plan.imported:
        if arguments.get(name) is not None:
            arguments[name] = module_class(str(arguments[name]), _PARTS, f"{path}: {name}")
    make = module_class(plan.network, (_ARCHITECTURES,), f"{path}: network_class_name")
    # A foreign constructor raises anything.
    try:
        module = make(
            input_channels=1, num_classes=plan.scores, deep_supervision=False, **arguments
        )
    except Exception as error:
        raise SourceError(
            f"{path}: {plan.network} cannot be made from its arch_kwargs: "
            f"{type(error).__name__}: {error}"
        ) from error
    return module.float().eval().requires_grad_(requires_grad=False)


def _load(module: nn.Module, path: Path, source: NnunetSource) -> str:
    """Loads the checkpoint; returns the name of the trainer that wrote it."""
    checkpoint = read_checkpoint(path, _SAFE)
    state = state_of(checkpoint, path, key="network_weights")
    trained = _entry(_entry(checkpoint, "init_args"), "configuration")
    if trained not in (None, source.configuration):
        raise SourceError(
            f"{path}: expected weights of the configuration {source.configuration!r}, came those "
            f"of {trained!r}"
        )
    fit_state(module, {_bare(name): tensor for name, tensor in state.items()}, path)
    return str(_entry(checkpoint, "trainer_name"))


def _bare(name: str) -> str:
    """Without what distributed training and compiling put before it."""
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def _entry(mapping: Any, key: str) -> Any:
    return mapping.get(key) if isinstance(mapping, Mapping) else None


def _orientation(plan: NnunetPlan) -> str | Unknown:
    """Directions of the network's own axes: image arrays are [z, y, x], then transposed."""
    ras, lps = (_own_axes(code, plan) for code in ("SAR", "SPL"))
    if plan.reader in _REORIENTING:
        return ras
    axes = ", ".join(_own_axes("zyx", plan))
    return Unknown(
        f"nnU-Net takes images as they lie in their files and does not record it; state the "
        f"directions in which the file's axes {axes} grow (the network's own axes): for NIfTI "
        f"files with axes towards right, anterior, superior it is {ras}, for files with the axes "
        f"of DICOM (left, posterior, superior) {lps}"
    )


def _own_axes(array_axes: str, plan: NnunetPlan) -> str:
    """Reorders what is said of an array's axes [z, y, x]; 2D slices lie along the first one."""
    return "".join(array_axes[axis] for axis in plan.transpose)[-len(plan.patch) :]


def _intensity(plan: NnunetPlan) -> IntensitySpec | Unknown:
    """The normalisation in our terms; nnU-Net pads with 0 after it."""
    if plan.masked:
        return Unknown(
            f"{plan.normalisation} with use_mask_for_norm normalises the voxels inside the "
            "nonzero mask only and leaves the others at 0, which depends on the shape of each "
            "object; train with a planner that sets it to false"
        )
    match plan.normalisation:
        case "CTNormalization":
            return _ct(plan.foreground)
        case "ZScoreNormalization":
            return ZScore(IntensityKind.ZSCORE, ZScoreRegion.NONZERO_BOX, Padding.ZERO)
        case "RescaleTo01Normalization":
            return PercentileRange(
                IntensityKind.PERCENTILE_RANGE, 0.0, 100.0, 0.0, 1.0, Padding.ZERO
            )
        case "NoNormalization":
            return Unknown(
                "NoNormalization gives raw values to the network; state the hu_window that covers "
                "them, with low_value equal to hu_low, high_value equal to hu_high, padding zero"
            )
    return Unknown(f"{plan.normalisation} is not a normalisation that can be expressed")


def _ct(foreground: Mapping[str, float]) -> HuWindow:
    low, high = float(foreground["percentile_00_5"]), float(foreground["percentile_99_5"])
    mean, sd = float(foreground["mean"]), max(float(foreground["std"]), _SMALLEST_SD)
    return HuWindow(
        IntensityKind.HU_WINDOW, low, high, (low - mean) / sd, (high - mean) / sd, Padding.ZERO
    )


def _require_divisible(plan: NnunetPlan, spatial: tuple[int, ...], path: Path) -> None:
    strides = plan.arguments.get("strides")
    if not isinstance(strides, list):
        return
    steps = np.prod([np.broadcast_to(step, len(spatial)) for step in strides], axis=0)
    if any(length % step for length, step in zip(spatial, steps, strict=True)):
        raise SourceError(
            f"{path}: the network halves its axes down by {steps.tolist()}, but the canvas is "
            f"{list(spatial)} along its own axes; choose a geometry.size of multiples"
        )

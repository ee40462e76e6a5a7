"""A MONAI bundle folder as a network: its definition, weights, transforms and metadata.

configs/inference ─┬─▶ network_def ─▶ module ◀─ models/model.pt
                   └─▶ preprocessing, inferer, postprocessing ─┐
configs/metadata.json ─▶ channels, size, labels ───────────────┴─▶ our terms

A bundle may not run code: expressions are refused where they matter, and only modules of MONAI
and torch are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from export.errors import SourceError
from export.recipe import MonaiSource, Recipe
from export.sources.agreement import (
    Unknown,
    agree_classes,
    agree_geometry,
    agree_intensity,
    agree_orientation,
)
from export.sources.allowed import module_class
from export.sources.bundle_answers import read_answers
from export.sources.bundle_config import BundleConfig, read_config, refuse_expressions
from export.sources.bundle_format import BundleFormat, read_format
from export.sources.network import SourceNetwork
from export.sources.probing import probe
from export.sources.state import fit_state, read_checkpoint, state_of
from export.sources.transforms import Inference, read_transforms, transform_name

__all__ = ("files", "open_bundle")

_PACKAGES = ("monai.networks", "torch.nn")
_BARE_NAMES = "monai.networks.nets"
_WRAPPERS = ("model", "state_dict")
_NOT_ARGUMENTS = ("_target_", "_desc_", "_disabled_", "_mode_", "_requires_")


def files(recipe: Recipe, source: MonaiSource) -> tuple[Path, ...]:
    """The files that decide the network."""
    bundle = recipe.resolve(source.bundle)
    return bundle / "configs/metadata.json", bundle / source.config, bundle / source.weights


def open_bundle(recipe: Recipe, source: MonaiSource) -> SourceNetwork:
    """Makes the network of a bundle.

    Args:
        recipe: States what the bundle does not, or not in terms that ours can express.
        source: The bundle, and where in it the parts are.

    Raises:
        SourceError: The bundle is damaged, wants to run code, or needs what ours cannot express.
        RecipeError: MODEL.yaml contradicts the bundle, or does not say what only it can say.
        MissingPart: MONAI is not installed.
    """
    metadata, path, weights = files(recipe, source)
    config = read_config(path)
    definition = config.item(source.network)
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise SourceError(f"{path}: expected {source.network!r}, a mapping with _target_")
    refuse_expressions(definition, source.network, path)
    form = read_format(metadata, definition)
    inference, window = _inference(config, form)
    before = read_transforms(config.item(source.preprocessing) or [], form.image, inference)
    answers = read_answers(config.item("postprocessing"), form.scores, form.channel_names, path)
    agree_classes(recipe, answers.labels or ("",) * answers.classes, str(metadata))
    orientation = agree_orientation(recipe, before.orientation, form.axes)
    size = window if isinstance(form.spatial, Unknown) and window else form.spatial
    geometry, spatial = agree_geometry(recipe, orientation, before.spacing_mm, size)
    intensity = agree_intensity(recipe, before.intensity)
    module = _make(definition, source.network, path).float().eval()
    _load(module, weights)
    probe(module, 1, spatial, form.scores, str(recipe.resolve(source.bundle)))
    not_done = ", ".join((*before.unread, *answers.unread))
    return SourceNetwork(
        module=module.requires_grad_(requires_grad=False),
        onnx=None,
        channels=1,
        spatial=spatial,
        classes=answers.classes,
        decision=answers.decision,
        orientation=orientation,
        geometry=geometry,
        intensity=intensity,
        labels=answers.labels,
        facts=form.facts | ({"bundle_transforms_not_done": not_done} if not_done else {}),
    )


def _inference(config: BundleConfig, form: BundleFormat) -> tuple[Inference, tuple[int, ...]]:
    """What the inferer does, and the size of its window; empty where it has none."""
    inferer = config.item("inferer")
    kind = transform_name(inferer) if inferer is not None else "SimpleInferer"
    if kind == "SimpleInferer":
        return Inference(form.axes), ()
    if kind not in {"SlidingWindowInferer", "SliceInferer"}:
        return Inference(form.axes, None, Unknown(f"may come from the inferer {kind}")), ()
    sliced = inferer.get("spatial_dim", 0) if kind == "SliceInferer" else None
    mode, value = inferer.get("padding_mode", "constant"), inferer.get("cval", 0)
    known = mode == "constant" and isinstance(value, (int, float))
    padding = float(value) if known else Unknown(f"comes from an inferer that pads by {mode}")
    roi = inferer.get("roi_size")
    roi = roi if isinstance(roi, list) else [roi] * form.axes
    usable = len(roi) == form.axes and all(type(n) is int and n > 0 for n in roi)
    return Inference(form.axes, sliced, padding), tuple(roi) if usable else ()


def _make(definition: Mapping[str, Any], name: str, path: Path) -> nn.Module:
    """Makes a module from its definition, and those among its arguments."""
    target, where = str(definition["_target_"]), f"{path}: {name}"
    if definition.get("_mode_", "default") != "default" or definition.get("_requires_"):
        raise SourceError(f"{where}: _mode_ and _requires_ are not followed; leave them out")
    arguments = {
        key: _argument(value, f"{name}::{key}", path)
        for key, value in definition.items()
        if key not in _NOT_ARGUMENTS
    }
    if any(key.startswith("pretrained") and value for key, value in arguments.items()):
        raise SourceError(f"{where}: fetches pretrained weights; set `pretrained` to false")
    full = target if "." in target else f"{_BARE_NAMES}.{target}"
    make = module_class(full, _PACKAGES, where)
    # A foreign constructor raises anything.
    try:
        return make(**arguments)
    except Exception as error:
        raise SourceError(f"{where}: {target}: {type(error).__name__}: {error}") from error


def _argument(value: Any, name: str, path: Path) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return _make(value, name, path)
        return {key: _argument(inner, f"{name}::{key}", path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_argument(inner, f"{name}::{i}", path) for i, inner in enumerate(value)]
    return value


def _load(module: nn.Module, path: Path) -> None:
    """Loads the checkpoint: a state dict, or what MONAI's CheckpointSaver puts around it."""
    content = read_checkpoint(path)
    wrapped = isinstance(content, Mapping) and [
        key for key in _WRAPPERS if isinstance(content.get(key), Mapping)
    ]
    fit_state(module, state_of(content, path, key=wrapped[0] if wrapped else ""), path)

"""Small torch networks, their descriptions and MODEL.yaml files, for the tests of the export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from export.recipe import Recipe, load_recipe
from export.sources.network import SourceNetwork
from preprocess.parsing import build
from preprocess.spec import ModelSpec

__all__ = (
    "CLASSES",
    "SIDE",
    "TinyUNet",
    "smooth_images",
    "tiny_description",
    "tiny_network",
    "tiny_spec",
    "tiny_unet",
    "write_recipe",
)

SIDE = 64
CLASSES = 3
_CODE = {"scheme": "SCT", "value": "12738006", "meaning": "Brain"}


class TinyUNet(nn.Module):
    """Two levels, batch normalisation; not equivariant to turning. 2D, or 3D with ``axes=3``."""

    def __init__(self, classes: int = CLASSES, widths: tuple[int, int] = (6, 12), axes: int = 2):
        super().__init__()
        conv, up, norm = (
            (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
            if axes == 2
            else (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d)
        )
        self.axes = axes
        self.first = nn.Sequential(conv(1, widths[0], 3, padding=1), norm(widths[0]), nn.ReLU())
        self.deep = nn.Sequential(conv(widths[0], widths[1], 3, padding=1), nn.ReLU())
        self.up = up(widths[1], widths[0], 2, stride=2)
        self.head = conv(2 * widths[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        pool = functional.max_pool2d if self.axes == 2 else functional.max_pool3d
        skip = self.first(image)
        scores: Tensor = self.head(torch.cat([self.up(self.deep(pool(skip, 2))), skip], 1))
        return scores


def tiny_unet(seed: int = 0, **arguments: Any) -> TinyUNet:
    """A network in evaluation mode whose every class wins somewhere on ``smooth_images``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = TinyUNet(**arguments)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, 0.4)
    return module.eval().requires_grad_(requires_grad=False)


def smooth_images(count: int, *shape: int, seed: int = 0) -> Any:
    """float32 [count, 1, *shape]: noise without its finest details, unit variance."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, *(max(2, n // 8) for n in shape), generator=generator)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    images = functional.interpolate(coarse, shape, mode=mode, align_corners=True)
    return (images / images.std()).numpy()


def tiny_description(
    *,
    name: str = "tiny",
    size: tuple[int, int] = (SIDE, SIDE),
    planes: tuple[str, ...] = ("axial",),
    classes: int = CLASSES,
    heads: tuple[str, ...] = (),
    **others: Any,
) -> dict[str, Any]:
    """The keys of model.yaml for a small network on CT; ``others`` replace them."""
    segments = [
        {"value": i, "label": f"part {i}", "category": _CODE, "type": _CODE, "color": [9 * i, 0, 0]}
        for i in range(1, classes)
    ]
    return {
        "name": name,
        "version": 1,
        "title": "Tiny",
        "intended_use": "tests",
        "route": {
            "modalities": ["CT"],
            "sop_classes": [],
            "body_parts": [],
            "description_patterns": [],
            "exclude_patterns": [],
            "planes": list(planes),
            "max_slice_spacing_mm": 10.0,
            "min_slices": 1,
        },
        "geometry": {"spacing_mm": [1.0, 1.0], "size": list(size)},
        "intensity": {"kind": "hu_window", "hu_low": -100.0, "hu_high": 200.0},
        "segments": segments,
        "heads": list(heads),
        **others,
    }


def tiny_spec(**keys: Any) -> ModelSpec:
    """The description as the rest of the system sees it; arguments of ``tiny_description``."""
    return build(ModelSpec, tiny_description(**keys), "model")


def tiny_network(module: nn.Module | None = None, **fields: Any) -> SourceNetwork:
    """What a source would give for a module; ``fields`` replace those of ``SourceNetwork``."""
    known: dict[str, Any] = {
        "module": module or tiny_unet(),
        "onnx": None,
        "channels": 1,
        "spatial": (SIDE, SIDE),
        "classes": CLASSES,
    }
    return SourceNetwork(**{**known, **fields})


def write_recipe(
    folder: Path,
    source: Mapping[str, Any] | None = None,
    export: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Recipe:
    """Writes MODEL.yaml and, where no source is given, the weights of ``tiny_unet`` beside it.

    Args:
        folder: Where.
        source: ``export.source``; None means a factory source with ``TinyUNet``.
        export: The other keys of ``export``.
        keys: Arguments of ``tiny_description``.
    """
    if source is None:
        save_file(tiny_unet().state_dict(), folder / "tiny.safetensors")
        source = {
            "kind": "factory",
            "factory": "tests.export_networks:TinyUNet",
            "weights": "tiny.safetensors",
        }
    description = tiny_description(**keys)
    description["export"] = {"source": dict(source), **(export or {})}
    path = folder / "MODEL.yaml"
    path.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    return load_recipe(path)

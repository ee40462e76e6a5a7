"""A network as its source gives it: the module, and what the source knows about its input."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from preprocess.spec import GeometrySpec, IntensitySpec

__all__ = ("Decision", "DecisionKind", "SourceNetwork")


class DecisionKind(StrEnum):
    """How class scores become a mask."""

    ARGMAX = "argmax"
    REGIONS = "regions"


@dataclass(frozen=True)
class Decision:
    """How scores [N, channels, ...] become a mask.

    Attributes:
        kind: ``argmax``: one channel for each class, background first, softmax; ``regions``: one
            channel for each region, sigmoid, painted in the order of the channels.
        values: For ``regions`` the mask value that each channel paints where its score is
            above 0 (a probability above 0.5), as nnU-Net's ``regions_class_order``.
    """

    kind: DecisionKind = DecisionKind.ARGMAX
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class SourceNetwork:
    """What a source gives.

    Attributes:
        module: float32 ``torch.nn.Module`` on the CPU in evaluation mode,
            image [N, channels, *spatial] ▶ scores [N, score channels, *spatial];
            None where the source is an ONNX file.
        onnx: The ONNX file, None where the source is a module.
        scores: Name of the tensor of class scores in the ONNX file.
        channels: Input channels.
        spatial: Size of the spatial axes the network was made for, in the network's own axes:
            2 numbers (rows, columns) or 3 (slices, rows, columns).
        classes: Number of mask values, background included.
        decision: How scores become the mask.
        orientation: Directions of the spatial axes where the source knows, see
            ``GraphOptions.orientation``.
        geometry: Grid the network was trained on, where the source knows, agreed with the recipe;
            its rows and columns are those of the canvas, not of the network's own axes.
        intensity: Normalisation, where the source knows, agreed with the recipe.
        labels: Name of each mask value, background first, where the source knows.
        facts: What else belongs into the metadata, as {"monai_version": "1.6.1"}.
    """

    module: Any
    onnx: Path | None
    channels: int
    spatial: tuple[int, ...]
    classes: int
    decision: Decision = Decision()
    orientation: str | None = None
    geometry: GeometrySpec | None = None
    intensity: IntensitySpec | None = None
    labels: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    scores: str = ""

"""What a model is: the one description that routing, planning, serving and results follow.

model.yaml ─▶ ModelSpec ─▶ route │ plan │ pipeline │ network export │ DICOM SEG
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, astuple, dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import yaml

from preprocess.errors import SpecError
from preprocess.normalisation import (
    HuWindow,
    IntensityKind,
    IntensitySpec,
    Padding,
    PercentileRange,
    PercentileZScore,
    ZScore,
    ZScoreRegion,
)
from preprocess.parsing import build, require

__all__ = (
    "CleanupSpec",
    "Code",
    "GeometrySpec",
    "Head",
    "HuWindow",
    "IntensityKind",
    "IntensitySpec",
    "ModelSpec",
    "Padding",
    "PercentileRange",
    "PercentileZScore",
    "Plane",
    "RouteSpec",
    "SegmentSpec",
    "SpecError",
    "TensorSpec",
    "ZScore",
    "ZScoreRegion",
    "find_model_specs",
    "load_model_spec",
)


class Plane(StrEnum):
    """Anatomical plane that a slice lies in, or nearest to."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class Head(StrEnum):
    """What a network answers in addition to its mask.

    UNCERTAINTY: the entropy of the softmax over its greatest value, 0 to 255 (UINT8, canvas).
    LOGITS: a score for each class (FP32, classes x canvas). EMBEDDING: features of the whole
    slice (FP32, one number each).
    """

    UNCERTAINTY = "uncertainty"
    LOGITS = "logits"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.3 section 8): coding scheme, code value, code meaning."""

    scheme: str
    value: str
    meaning: str

    def __post_init__(self) -> None:
        require(0 < len(self.value) <= 16, f"code value {self.value!r}: 1 to 16 characters")
        require(0 < len(self.meaning) <= 64, f"code meaning {self.meaning!r}: 1 to 64 characters")


@dataclass(frozen=True)
class SegmentSpec:
    """One class of the mask.

    Attributes:
        value: Its pixel value in the mask, 1 to 255 (0 is background).
        label: Short name for people.
        category: Segmented Property Category (PS3.16 CID 7150).
        type: Segmented Property Type (for the brain PS3.16 CID 7153).
        color: Display colour, red, green, blue, each 0 to 255.
        anatomy: Anatomic region, where the type alone does not say it.
    """

    value: int
    label: str
    category: Code
    type: Code
    color: tuple[int, int, int]
    anatomy: Code | None = None

    def __post_init__(self) -> None:
        require(1 <= self.value <= 255, f"segment value {self.value}: 1 to 255")
        require(0 < len(self.label) <= 64, f"segment label {self.label!r}: 1 to 64 characters")
        require(all(0 <= c <= 255 for c in self.color), f"colour {self.color}: 0 to 255 each")


@dataclass(frozen=True)
class RouteSpec:
    """Which series the model takes.

    A series fits when modality, SOP class, plane, slice spacing and slice count fit, no exclude
    pattern is found in its description, and the body part is listed or, where the body part is
    absent, some description pattern is found.

    Attributes:
        modalities: Values of Modality (0008,0060).
        sop_classes: SOP class UIDs; empty means any.
        body_parts: Values of Body Part Examined (0018,0015), upper case; empty means any.
        description_patterns: Regular expressions, searched without regard to case.
        exclude_patterns: The same; one hit refuses.
        planes: Anatomical planes the model was trained on.
        max_slice_spacing_mm: Largest distance between neighbouring slices.
        min_slices: Fewest slices.
    """

    modalities: tuple[str, ...]
    sop_classes: tuple[str, ...]
    body_parts: tuple[str, ...]
    description_patterns: tuple[str, ...]
    exclude_patterns: tuple[str, ...]
    planes: tuple[Plane, ...]
    max_slice_spacing_mm: float
    min_slices: int

    def __post_init__(self) -> None:
        require(bool(self.modalities), "route.modalities: at least one")
        require(bool(self.planes), "route.planes: at least one")
        require(self.max_slice_spacing_mm > 0, "route.max_slice_spacing_mm: above 0")
        require(self.min_slices >= 1, "route.min_slices: at least 1")
        for pattern in (*self.description_patterns, *self.exclude_patterns):
            try:
                re.compile(pattern)
            except re.error as error:
                raise SpecError(f"route pattern {pattern!r}: {error}") from error


@dataclass(frozen=True)
class GeometrySpec:
    """The grid the network sees.

    Attributes:
        spacing_mm: Distance between neighbouring rows, then between neighbouring columns.
        size: Canvas rows and columns.
    """

    spacing_mm: tuple[float, float]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        require(
            all(0.05 <= distance <= 20 for distance in self.spacing_mm),
            f"geometry.spacing_mm {self.spacing_mm}: 0.05 to 20 each",
        )
        require(all(16 <= n <= 4096 for n in self.size), f"geometry.size {self.size}: 16 to 4096")


@dataclass(frozen=True)
class CleanupSpec:
    """How islands are removed from a series' mask, see ``preprocess.cleanup``.

    Attributes:
        core: Classes that the organ consists of.
        opening_mm: Bridges thinner than twice this do not connect.
        min_fraction: Parts smaller than this fraction of the largest one are islands.
    """

    core: tuple[int, ...]
    opening_mm: float
    min_fraction: float

    def __post_init__(self) -> None:
        require(bool(self.core), "cleanup.core: at least one class")
        require(0 < self.opening_mm <= 10, "cleanup.opening_mm: above 0, at most 10")
        require(0 < self.min_fraction < 1, "cleanup.min_fraction: between 0 and 1")


@dataclass(frozen=True)
class TensorSpec:
    """Names of the tensors that cross the wire, and of the one between the two steps.

    Attributes:
        image: Input, INT16 [rows, columns], one slice of stored values.
        region: Input, FP32 [4], see ``GeometryPlan.region``.
        size: Input, INT32 [2], see ``GeometryPlan.size``.
        intensity: Input, FP32 [4], see ``IntensityPlan``.
        network: Preprocessed slice, FP32 [1, canvas rows, canvas columns].
        mask: Output, UINT8 [canvas rows, canvas columns].
    """

    image: str = "image"
    region: str = "region"
    size: str = "size"
    intensity: str = "intensity"
    network: str = "network"
    mask: str = "mask"

    def __post_init__(self) -> None:
        names = astuple(self)
        require(
            all(names) and len(set(names)) == len(names),
            f"tensors: expected {len(names)} different names, got {names}",
        )


@dataclass(frozen=True)
class ModelSpec:
    """A model in service. ``name`` is the Triton ensemble that answers for it.

    ``heads`` are what its network answers beside the mask. ``cleanup`` is what is done to a
    series' mask on the canvas; None leaves it as it is.
    """

    name: str
    version: int
    title: str
    intended_use: str
    route: RouteSpec
    geometry: GeometrySpec
    intensity: IntensitySpec
    segments: tuple[SegmentSpec, ...]
    heads: tuple[Head, ...] = ()
    tensors: TensorSpec = TensorSpec()
    cleanup: CleanupSpec | None = None

    def __post_init__(self) -> None:
        require(re.fullmatch(r"[a-z][a-z0-9_]*", self.name) is not None, f"name {self.name!r}")
        require(self.version >= 1, f"version {self.version}: at least 1")
        require(bool(self.segments), "segments: at least one")
        values = [segment.value for segment in self.segments]
        expected = list(range(1, len(values) + 1))
        require(values == expected, f"segment values: expected {expected}, got {values}")
        heads = [*map(str, self.heads)]
        require(len(set(heads)) == len(heads), f"heads: expected each one once, got {heads}")
        mask = self.tensors.mask
        require(mask not in [*Head], f"tensors.mask: {mask!r} is a head's name")
        core = self.cleanup.core if self.cleanup else ()
        require(set(core) <= set(values), f"cleanup.core {core}: expected classes of {values}")

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, the same for every spelling of the same description."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return sha256(content.encode()).hexdigest()


def load_model_spec(path: Path) -> ModelSpec:
    """Reads one ``model.yaml``.

    Raises:
        SpecError: Not readable, not YAML, an unknown or missing key, a wrong type or value.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return build(ModelSpec, data, "model")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, SpecError) as error:
        raise SpecError(f"{path.parent.name}/{path.name}: {error}") from error


def find_model_specs(repository: Path) -> tuple[ModelSpec, ...]:
    """Reads every ``<repository>/*/model.yaml``, sorted by name.

    Raises:
        SpecError: A description is wrong, or its name is not its folder's.
    """
    specs = []
    for path in sorted(repository.glob("*/model.yaml")):
        spec = load_model_spec(path)
        require(spec.name == path.parent.name, f"{path.parent.name}: name is {spec.name!r}")
        specs.append(spec)
    return tuple(specs)

"""MODEL.yaml: the model's description and, under ``export``, how it is made.

MODEL.yaml, MODEL.tuning.json ─▶ Recipe ─▶ source │ graph │ engines │ series │ limits │ tuning
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import yaml

from export.errors import RecipeError
from export.tuned import Tuning, read_tuning, tuning_path
from preprocess.errors import SpecError
from preprocess.parsing import build
from preprocess.serving.configured import Precision as CpuPrecision

__all__ = (
    "CpuPrecision",
    "EngineOptions",
    "ExportOptions",
    "FactorySource",
    "GpuPrecision",
    "GraphOptions",
    "Limits",
    "MonaiSource",
    "NnunetSource",
    "OnnxSource",
    "Recipe",
    "SeriesFile",
    "SourceOptions",
    "load_recipe",
)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RecipeError(message)


def _is_orientation(code: str) -> bool:
    axes = [next((i for i, pair in enumerate(("RL", "AP", "IS")) if c in pair), -1) for c in code]
    return len(code) in (2, 3) and -1 not in axes and len(set(axes)) == len(axes)


class GpuPrecision(StrEnum):
    """How a strongly typed TensorRT network computes."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class FactorySource:
    """A function or class that makes a ``torch.nn.Module``, and a state dict.

    Attributes:
        factory: ``package.module:name``, importable from the working directory.
        weights: safetensors file, or a file that ``torch.load(weights_only=True)`` accepts.
        arguments: Keyword arguments of the factory.
        key: Where in a torch checkpoint the state dict lies, as ``average`` or
            ``model.state_dict``; "" means the file is the state dict.
        strip_prefix: Prefix that is removed from every name in the state dict.
    """

    kind: Literal["factory"]
    factory: str
    weights: str
    arguments: dict[str, Any] | None = None
    key: str = ""
    strip_prefix: str = ""


@dataclass(frozen=True)
class MonaiSource:
    """A MONAI bundle folder.

    Attributes:
        bundle: Folder with ``configs/metadata.json``.
        config: Configuration file that holds ``network_def``; relative to the bundle.
        weights: Checkpoint, relative to the bundle.
        network: Id of the network's definition in the configuration.
        preprocessing: Id of the transforms that come before it.
    """

    kind: Literal["monai_bundle"]
    bundle: str
    config: str = "configs/inference.json"
    weights: str = "models/model.pt"
    network: str = "network_def"
    preprocessing: str = "preprocessing"


@dataclass(frozen=True)
class NnunetSource:
    """A trained nnU-Net v2 folder, ``nnUNet_results/DatasetXXX/TRAINER__PLANS__CONFIGURATION``.

    Attributes:
        folder: Holds plans.json, dataset.json and fold_X.
        configuration: ``2d`` or ``3d_fullres``.
        fold: Number of the fold, or ``all``.
        checkpoint: File in the fold's folder.
    """

    kind: Literal["nnunet"]
    folder: str
    configuration: str = "2d"
    fold: str = "0"
    checkpoint: str = "checkpoint_final.pth"


@dataclass(frozen=True)
class OnnxSource:
    """An ONNX file as it is: image in, class scores (or finished heads) out.

    Attributes:
        file: The file.
        scores: Name of the output that holds class scores [N, classes, rows, columns].
    """

    kind: Literal["onnx"]
    file: str
    scores: str = "logits"


SourceOptions = FactorySource | MonaiSource | NnunetSource | OnnxSource


@dataclass(frozen=True)
class GraphOptions:
    """What the exported graph is.

    Attributes:
        orientation: Anatomical directions in which the network's spatial axes grow, as two (2D)
            or three (3D) letters of R, L, A, P, I, S. None means the canvas of docs/models.md,
            or what the source says. The graph turns the image there and the answers back.
        embedding: Name of the module (ONNX: of the tensor) whose output, averaged over space,
            is the embedding; None where the model has no such head.
        dynamic_spatial: Whether rows and columns may vary too.
        training_data: Hash or name of the data the weights were trained on, for the metadata.
    """

    orientation: str | None = None
    embedding: str | None = None
    dynamic_spatial: bool = False
    training_data: str = ""

    def __post_init__(self) -> None:
        _require(
            self.orientation is None or _is_orientation(self.orientation),
            f"graph.orientation {self.orientation!r}: expected one letter of each pair RL, AP, IS "
            "used, as PL, RA or SAR",
        )


@dataclass(frozen=True)
class EngineOptions:
    """Which engines are made, and which of them each profile serves.

    Attributes:
        cpu: What the cpu profile serves.
        gpu: What the gpu profile serves.
        openvino: OpenVINO engines that are made and verified.
        tensorrt: Precisions that are compiled for TensorRT, and by TensorRT for RTX as a check.
        batch_cpu: Most slices of a request in the cpu profile, and its first step's largest batch.
        batch_gpu: Smallest, most frequent and largest batch of the TensorRT profile.
    """

    cpu: CpuPrecision = CpuPrecision.F32
    gpu: GpuPrecision = GpuPrecision.FP16
    openvino: tuple[CpuPrecision, ...] = (CpuPrecision.F32,)
    tensorrt: tuple[GpuPrecision, ...] = (GpuPrecision.FP32, GpuPrecision.FP16)
    batch_cpu: int = 8
    batch_gpu: tuple[int, int, int] = (1, 8, 32)

    def __post_init__(self) -> None:
        _require(1 <= self.batch_cpu <= 64, f"engines.batch_cpu {self.batch_cpu}: 1 to 64")
        low, best, high = self.batch_gpu
        _require(
            1 <= low <= best <= high <= 256, f"engines.batch_gpu {self.batch_gpu}: must not fall"
        )
        _require(self.cpu in self.openvino, f"engines.cpu {self.cpu}: not among engines.openvino")
        _require(self.gpu in self.tensorrt, f"engines.gpu {self.gpu}: not among engines.tensorrt")


@dataclass(frozen=True)
class SeriesFile:
    """A real series, for calibration or verification.

    Attributes:
        image: NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.
        labels: File of the same grid with the model's classes; None means unlabelled.
        label_classes: Classes that the labels tell; empty means all of the model's.
        first: First slice that is taken.
        step: Every how-manieth slice is taken.
    """

    image: str
    labels: str | None = None
    label_classes: tuple[int, ...] = ()
    first: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        _require(self.first >= 0 and self.step >= 1, "series: first >= 0, step >= 1")


@dataclass(frozen=True)
class Limits:
    """How far answers may move.

    ``mask_dice`` is of all classes together, ``class_dice`` of the worst class, both against the
    float32 network's mask. A class of a few hundred pixels moves more by chance than a mask does.

    Attributes:
        f32_mask_dice: Engines that compute in float32.
        f32_class_dice: The same.
        f32_logits_l2: Their relative L2 distance of the class scores.
        half_mask_dice: Engines in float16 or bfloat16.
        half_class_dice: The same.
        int8_mask_dice: Engines in INT8.
        int8_class_dice: The same.
        label_dice_drop: Largest fall of the mean Dice against labels, any engine.
        served_mask_dice: The served ensemble against the float32 network on the reference
            preprocessing, with a float32 engine; the engine's own limit applies where lower.
    """

    f32_mask_dice: float = 0.9999
    f32_class_dice: float = 0.999
    f32_logits_l2: float = 5e-4
    half_mask_dice: float = 0.999
    half_class_dice: float = 0.98
    int8_mask_dice: float = 0.99
    int8_class_dice: float = 0.9
    label_dice_drop: float = 0.005
    served_mask_dice: float = 0.999

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            _require(math.isfinite(value) and 0 <= value <= 1, f"limits.{name} {value}: 0 to 1")


@dataclass(frozen=True)
class ExportOptions:
    """The ``export`` part of MODEL.yaml.

    Attributes:
        source: Where the network comes from.
        graph: What the exported graph is.
        engines: What is made from it.
        calibration: Series that set the ranges of INT8.
        verification: Series on which answers are compared; none means synthetic ones.
        limits: How far answers may move.
    """

    source: SourceOptions
    graph: GraphOptions = GraphOptions()
    engines: EngineOptions = EngineOptions()
    calibration: tuple[SeriesFile, ...] = ()
    verification: tuple[SeriesFile, ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        engines = self.engines
        int8 = CpuPrecision.INT8 in engines.openvino or GpuPrecision.INT8 in engines.tensorrt
        _require(
            bool(self.calibration) or not int8,
            "export.calibration: expected at least one series, because export.engines has int8, "
            "whose ranges are measured on real images; name a series or leave int8 out",
        )


@dataclass(frozen=True)
class Recipe:
    """MODEL.yaml, read.

    Attributes:
        path: The file; paths in it are relative to its folder.
        description: The keys of model.yaml as they stand; what the source knows may be missing.
        export: How the model is made.
        tuning: What a search chose for it; None where there was none.
    """

    path: Path
    description: dict[str, Any]
    export: ExportOptions
    tuning: Tuning | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.description["name"])

    def resolve(self, path: str) -> Path:
        """A path of the recipe, relative to its folder."""
        return (self.path.parent / path).resolve()


def load_recipe(path: Path) -> Recipe:
    """Reads MODEL.yaml, and what a search left beside it.

    Raises:
        RecipeError: Not readable, not YAML, an unknown or missing key, a wrong type or value; or
            the record of the search is.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise RecipeError("expected a mapping with the keys of model.yaml and 'export'")
        options = build(ExportOptions, data.pop("export", None), "export")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, SpecError, RecipeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return Recipe(path, data, options, read_tuning(tuning_path(path), data["name"]))

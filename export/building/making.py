"""What the stages before the comparison do with the folder they are given.

graph: source ─▶ model.onnx, model.yaml      openvino-int8: ─▶ model.xml, model.bin
tensorrt-PRECISION: ─▶ typed ONNX, compiled by TensorRT for RTX as a check
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.engines.openvino_int8 import quantise
from export.engines.quantised_onnx import to_qdq
from export.engines.rtx_check import compile_check, targets_of
from export.engines.running import Engine, OpenVinoEngine
from export.engines.tensorrt_build import BatchProfile
from export.engines.typed import to_half
from export.graph.exporting import export_graph
from export.graph.planning import score_channels
from export.parity.comparison import score_labels
from export.parity.material import Series, network_images, plan_of, read_series
from export.parity.measures import class_counts, dice
from export.recipe import CpuPrecision, GpuPrecision, Recipe
from export.repository.describing import describe, spec_yaml
from export.sources.opening import open_source
from export.stages import file_sha256
from preprocess.spec import ModelSpec

__all__ = (
    "GRAPH_FILE",
    "SPEC_FILE",
    "calibration",
    "make_graph",
    "make_openvino_int8",
    "make_tensorrt",
    "typed_file",
)

GRAPH_FILE = "model.onnx"
SPEC_FILE = "model.yaml"


def typed_file(precision: GpuPrecision) -> str:
    """Name of the strongly typed ONNX file that TensorRT compiles."""
    return GRAPH_FILE if precision is GpuPrecision.FP32 else f"model.{precision}.onnx"


def make_graph(recipe: Recipe, folder: Path) -> Mapping[str, Any]:
    """Opens the source and exports its graph; a network of slices gets its description too.

    Raises:
        SourceError: The source cannot be used.
        RecipeError: The recipe contradicts it.
        GraphError: It cannot be exported.
    """
    network = open_source(recipe)
    volume = len(network.spatial) == 3
    spec = None if volume else describe(recipe, network)
    metadata = {
        "git_revision": _revision(recipe.path.parent),
        "recipe_sha256": file_sha256(recipe.path),
    }
    info = export_graph(network, spec, recipe.export.graph, folder / GRAPH_FILE, metadata)
    if spec is not None:
        (folder / SPEC_FILE).write_text(spec_yaml(spec), encoding="utf-8")
    embedding = info.outputs.get("embedding")
    return {
        "volume": volume,
        "scores": score_channels(network),
        "image": list(info.inputs["image"].dims),
        "embedding": embedding.dims[1] if embedding else 0,
        "metadata": info.metadata,
    }


def calibration(recipe: Recipe, spec: ModelSpec) -> list[tuple[Series, NDArray[np.float32]]]:
    """The calibration series, each with what the network sees: [slices, 1, rows, columns]."""
    series = (read_series(recipe, file, spec) for file in recipe.export.calibration)
    return [(each, network_images(each, spec)) for each in series]


def make_openvino_int8(
    recipe: Recipe, spec: ModelSpec, graph: Path, folder: Path
) -> Mapping[str, Any]:
    """Quantises for OpenVINO; operations that cost too much accuracy stay in float.

    Accuracy is the mean Dice on the calibration slices, against labels where there are some, else
    against the float32 network's masks; it may fall by as much as the gate allows.

    Raises:
        EngineError: The quantiser refuses the graph.
    """
    seen = calibration(recipe, spec)
    images = np.concatenate([each for _, each in seen])
    limits = recipe.export.limits
    if any(series.labels is not None for series, _ in seen):
        score, allowed = _label_score(seen, spec), limits.label_dice_drop
    else:
        score, allowed = _mask_score(images, graph, spec), 1 - limits.int8_class_dice
    made = quantise(graph, folder / "model.xml", images, score, allowed)
    return {
        "calibration_slices": made.calibration_slices,
        "quantised": made.quantised,
        "kept_in_float": made.kept_in_float,
        "score_float": made.score_float,
        "score_int8": made.score_int8,
    }


def _label_score(
    seen: Sequence[tuple[Series, NDArray[np.float32]]], spec: ModelSpec
) -> Callable[[Engine], float]:
    """Mean Dice against labels, over classes and labelled series."""
    known = [
        (series, plan_of(series, spec), images)
        for series, images in seen
        if series.labels is not None
    ]

    def score(engine: Engine) -> float:
        found = [score_labels(s, plan, engine.run(x)["mask"], spec) for s, plan, x in known]
        return fmean(one.dice for scores in found for one in scores)

    return score


def _mask_score(
    images: NDArray[np.float32], graph: Path, spec: ModelSpec
) -> Callable[[Engine], float]:
    """Mean Dice of the classes against the float32 network's masks."""
    masks = OpenVinoEngine(graph, CpuPrecision.F32).run(images)["mask"]

    def score(engine: Engine) -> float:
        counts = class_counts(engine.run(images)["mask"], masks, len(spec.segments) + 1)
        return float(np.nanmean(dice(counts)[1:]))

    return score


def make_tensorrt(
    recipe: Recipe, spec: ModelSpec | None, graph: Path, precision: GpuPrecision, folder: Path
) -> Mapping[str, Any]:
    """Types the graph for TensorRT, and has TensorRT for RTX compile it.

    Raises:
        EngineError: The precision that the gpu profile serves, or float32, is refused.
    """
    typed = folder / typed_file(precision)
    if precision is GpuPrecision.FP32:
        shutil.copyfile(graph, typed)
    elif precision is GpuPrecision.INT8 and spec is not None:
        images = np.concatenate([each for _, each in calibration(recipe, spec)])
        to_qdq(graph, typed, images)
    else:
        to_half(graph, typed, precision)
    profile = BatchProfile(recipe.export.engines.batch_gpu, spec.geometry.size if spec else None)
    targets = targets_of(precision, 2 if spec else 3)
    report = compile_check(typed, profile, targets)
    if precision in (recipe.export.engines.gpu, GpuPrecision.FP32):
        report.require_accepted()
    return asdict(report)


def _revision(folder: Path) -> str:
    command = ("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not under git"

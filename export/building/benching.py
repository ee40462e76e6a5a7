"""Which engines of a build are measured by themselves, and on what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from export.benchmark.measuring import BenchOptions, BenchTarget, TargetKind, run_benchmark
from export.benchmark.records import BenchReport
from export.building.making import GRAPH_FILE, SPEC_FILE
from export.errors import EngineError
from export.graph.inspecting import inspect_graph
from export.recipe import CpuPrecision, Recipe
from export.repository.layout import PLAN, ModelFolders

__all__ = ("bench_built", "targets_of_build")


def targets_of_build(recipe: Recipe, work: Path, repository: Path) -> list[BenchTarget]:
    """Engines of a finished build: torch, ONNX Runtime, OpenVINO in every precision there is.

    What the cpu profile serves in float32 comes first: the others are multiples of it.

    Args:
        recipe: The recipe.
        work: Folder of the build's stages.
        repository: Where the TensorRT plan lies, if there is one.

    Raises:
        EngineError: The model was not built yet.
    """
    graph, spec = work / "graph" / GRAPH_FILE, work / "graph" / SPEC_FILE
    if not graph.exists():
        raise EngineError(f"{graph}: expected a finished build; run build {recipe.path} first")
    targets = [
        BenchTarget("openvino-f32", TargetKind.OPENVINO, graph),
        BenchTarget("openvino-bf16", TargetKind.OPENVINO, graph, CpuPrecision.BF16),
        BenchTarget("onnxruntime", TargetKind.ONNXRUNTIME, graph),
    ]
    if spec.exists():
        targets.append(BenchTarget("torch", TargetKind.TORCH, recipe.path, model=spec))
    int8 = work / "openvino-int8" / "model.xml"
    model = ModelFolders(repository, recipe.name)
    plans = [model.net / str(version) / PLAN for version in model.versions[-1:]]
    if int8.exists():
        engine = BenchTarget("openvino-int8", TargetKind.OPENVINO, int8, CpuPrecision.INT8)
        targets.insert(2, engine)
    found = (BenchTarget("tensorrt", TargetKind.TENSORRT, plan) for plan in plans if plan.exists())
    return [*targets, *found]


def bench_built(
    recipe: Recipe,
    work: Path,
    repository: Path,
    options: BenchOptions,
    advance: Callable[[str], None],
) -> BenchReport:
    """Measures the engines of a finished build, see ``run_benchmark``.

    Raises:
        EngineError: The model was not built yet, or no engine runs.
    """
    targets = targets_of_build(recipe, work, repository)
    image = inspect_graph(work / "graph" / GRAPH_FILE).inputs["image"]
    shape = tuple(int(side) for side in image.dims[1:])
    return run_benchmark(targets, model=recipe.name, shape=shape, options=options, advance=advance)

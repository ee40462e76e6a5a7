"""The build: MODEL.yaml ─▶ graph ─▶ engines ─▶ staged model ─▶ parity ─▶ repository version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from export.building.making import (
    GRAPH_FILE,
    SPEC_FILE,
    make_graph,
    make_openvino_int8,
    make_tensorrt,
    typed_file,
)
from export.building.verifying import compare, compare_volume
from export.errors import EngineError, ExportError, GateError, PublishError
from export.parity.comparison import Comparison
from export.parity.gate import judge, require
from export.parity.report import write_report
from export.parity.results import ParityReport, read_parity
from export.recipe import CpuPrecision, GpuPrecision, Recipe, SeriesFile
from export.repository.layout import ModelFolders
from export.repository.options import Serving
from export.repository.publishing import Published, publish
from export.repository.staging import stage, write_provenance
from export.sources.opening import open_source, source_files
from export.stages import Stage, StageResult, StageRunner, file_sha256, tree_sha256
from preprocess.spec import ModelSpec, load_model_spec

__all__ = ("BuildSettings", "Built", "build", "preview", "toolchain")

_TOOLS = (
    "dynamic-network-architectures",
    "monai",
    "nncf",
    "numpy",
    "nvidia-dali-cuda130",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "openvino",
    "simpleitk",
    "tensorrt-rtx-cu13-libs",
    "torch",
)
_ROOT = Path(__file__).parents[2]
Announce = Callable[[str, str, float], None]
Results = dict[str, StageResult]


@dataclass(frozen=True)
class BuildSettings:
    """Where a build works, and how far it goes.

    Attributes:
        repository: The model repository.
        work: Folder for the stages' outputs of this model.
        publish: Whether the model goes into the repository.
        replace: Whether older versions may go where they no longer fit the preprocessing.
    """

    repository: Path
    work: Path
    publish: bool = True
    replace: bool = False


@dataclass(frozen=True)
class Built:
    """What a build left.

    Attributes:
        stages: Every stage's outcome by its name.
        published: What happened to the repository; None where it was not to change.
        report: Folder of the parity report.
    """

    stages: Mapping[str, StageResult]
    published: Published | None
    report: Path


def build(recipe: Recipe, settings: BuildSettings, announce: Announce) -> Built:
    """Makes, compares and publishes a model; does nothing where nothing changed.

    Args:
        recipe: MODEL.yaml.
        settings: Where and how far.
        announce: See ``StageRunner``.

    Raises:
        ExportError: A stage failed, or the answers moved; the repository is as it was.
    """
    runner, results = StageRunner(settings.work, announce), Results()
    for each in _chain(recipe, results):
        try:
            results[each.name] = runner.run(each)
        except OSError as error:
            what = f"{error.filename or settings.work}: {error.strerror or error}"
            raise ExportError(f"stage {each.name}: {what}; the repository is as it was") from error
    parity = results["parity"]
    try:
        require(read_parity(parity.folder / "parity.json"), recipe.export.limits)
    except GateError as error:
        raise GateError(f"{error}; see {parity.folder / 'parity.html'}") from error
    published = None
    if settings.publish and "staged" in results:
        published = _publish(recipe, results, settings)
    return Built(results, published, parity.folder)


def preview(recipe: Recipe, settings: BuildSettings) -> list[tuple[str, bool]]:
    """What a build would do: each stage that is known so far, and whether it would run.

    A stage that would run hides what follows from its outputs: those stages would run too.
    """
    runner, results = StageRunner(settings.work, lambda *_: None), Results()
    seen = []
    for each in _chain(recipe, results):
        finished = runner.finished(each)
        seen.append((each.name, finished is None))
        if finished is None:
            known = {name for name, _ in seen}
            return seen + [(name, True) for name in _names(recipe) if name not in known]
        results[each.name] = finished
    return seen


def toolchain() -> dict[str, str]:
    """What decides the outcome besides the recipe: versions of the tools, and our own code."""
    versions = {name: _version(name) for name in _TOOLS}
    for package in ("export", "preprocess"):
        code = tree_sha256(_ROOT / package)
        versions[package] = sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()
    return versions


def _publish(recipe: Recipe, results: Results, settings: BuildSettings) -> Published:
    """Publishes a copy of what was compared, whose provenance says how the comparison ended."""
    staged = results["staged"]
    report = read_parity(results["parity"].folder / "parity.json")
    unwanted = shutil.ignore_patterns("stage.json", "__pycache__")
    try:
        with TemporaryDirectory(dir=settings.work, prefix=".publishing-") as scratch:
            folder = Path(scratch) / "model"
            shutil.copytree(staged.folder, folder, ignore=unwanted)
            facts = {**staged.facts, "parity": _summary(report)}
            write_provenance(ModelFolders(folder, recipe.name), facts)
            return publish(folder, settings.repository, replace=settings.replace)
    except (OSError, shutil.Error) as error:
        raise PublishError(f"{settings.repository} is as it was: {error}") from error


def _summary(report: ParityReport) -> dict[str, Any]:
    """How the comparison ended, for the provenance: per engine its smallest Dice of a class."""
    return {
        "series": [one.name for one in report.series],
        "engines": {
            one.engine: {
                "differing_fraction": one.differing_fraction,
                "lowest_dice": min(each.dice for each in one.classes if each.dice is not None),
                "label_dice": one.label_dice,
            }
            for one in report.engines
        },
        "label_dice": report.reference.label_dice,
    }


def _names(recipe: Recipe) -> tuple[str, ...]:
    engines = recipe.export.engines
    int8 = ("openvino-int8",) if CpuPrecision.INT8 in engines.openvino else ()
    typed = (f"tensorrt-{precision}" for precision in engines.tensorrt)
    return ("graph", *int8, *typed, "staged", "parity")


def _chain(recipe: Recipe, results: Results) -> Generator[Stage]:
    """The stages in their order; each sees the results of those before it."""
    tools = toolchain()
    yield Stage("graph", _graph_inputs(recipe) | {"tools": tools}, partial(make_graph, recipe))
    graph = results["graph"]
    base = {"tools": tools, "graph": graph.sha256}
    spec = None if graph.facts["volume"] else load_model_spec(graph.folder / SPEC_FILE)
    yield from _engine_stages(recipe, spec, graph.folder / GRAPH_FILE, base)
    made = {name: result for name, result in results.items() if name != "graph"}
    base |= {name: result.sha256 for name, result in made.items()}
    limits = asdict(recipe.export.limits)
    series = _series_inputs(recipe, recipe.export.verification)
    compared = base | {
        "limits": limits,
        "series": series,
        "engines": recipe.export.engines.openvino,
    }
    files = {
        file.name: file
        for result in (graph, *made.values())
        for file in result.folder.iterdir()
        if result is graph or file.name != GRAPH_FILE
    }
    if spec is None:
        yield Stage("parity", compared, partial(_compare_volume, recipe, files))
        return
    serving = Serving.of(recipe, embedding=graph.facts["embedding"], scores=graph.facts["scores"])
    yield Stage(
        "staged",
        base | {"serving": asdict(serving)},
        partial(_stage, spec, serving, files, graph.facts),
    )
    staged = results["staged"]
    compared["staged"] = staged.sha256
    yield Stage("parity", compared, partial(_compare, recipe, spec, files, staged.folder))


def _engine_stages(
    recipe: Recipe, spec: ModelSpec | None, graph: Path, base: dict[str, Any]
) -> Generator[Stage]:
    engines = recipe.export.engines
    measured = base | {"series": _series_inputs(recipe, recipe.export.calibration)}
    if CpuPrecision.INT8 in engines.openvino and spec is not None:
        work = partial(_apart, make_openvino_int8, recipe, spec, graph)
        limits = asdict(recipe.export.limits)
        yield Stage("openvino-int8", measured | {"limits": limits}, work)
    for precision in engines.tensorrt:
        if precision is GpuPrecision.INT8 and spec is None:
            continue
        inputs = measured if precision is GpuPrecision.INT8 else base
        options = {"batch": engines.batch_gpu, "served": engines.gpu}
        work = partial(make_tensorrt, recipe, spec, graph, precision)
        yield Stage(f"tensorrt-{precision}", inputs | options, work)


def _apart(make: Callable[..., Mapping[str, Any]], *arguments: Any) -> Mapping[str, Any]:
    """Runs a stage in a process of its own: NNCF leaves a signal stack behind that is too small.

    After it any signal would end this process.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(make, *arguments).result()
        except BrokenProcessPool as error:
            raise EngineError(
                f"{make.__name__}: its process ended; is there enough memory?"
            ) from error


def _stage(
    spec: ModelSpec,
    serving: Serving,
    files: Mapping[str, Path],
    facts: Mapping[str, Any],
    folder: Path,
) -> Mapping[str, Any]:
    """What both profiles serve: the graph, its typed form, OpenVINO's own where that is served."""
    wanted = {GRAPH_FILE, typed_file(serving.gpu)}
    if serving.cpu is CpuPrecision.INT8:
        wanted |= {"model.xml", "model.bin"}
    chosen = {name: file for name, file in files.items() if name in wanted}
    told = {"metadata": facts["metadata"], "serving": asdict(serving)}
    stage(folder, spec, serving, chosen, facts=told)
    return told


def _compare(
    recipe: Recipe, spec: ModelSpec, files: Mapping[str, Path], staged: Path, folder: Path
) -> Mapping[str, Any]:
    comparison = compare(recipe, open_source(recipe), spec, files, staged)
    return _reported(comparison, recipe, folder, spec)


def _compare_volume(recipe: Recipe, files: Mapping[str, Path], folder: Path) -> Mapping[str, Any]:
    return _reported(compare_volume(recipe, open_source(recipe), files), recipe, folder)


def _reported(
    comparison: Comparison, recipe: Recipe, folder: Path, spec: ModelSpec | None = None
) -> Mapping[str, Any]:
    write_report(comparison, recipe.export.limits, folder, spec.segments if spec else ())
    return {"violations": len(judge(comparison.report, recipe.export.limits))}


def _graph_inputs(recipe: Recipe) -> dict[str, Any]:
    return {
        "description": recipe.description,
        "source": asdict(recipe.export.source),
        "options": asdict(recipe.export.graph),
        "files": {path.name: file_sha256(path) for path in source_files(recipe)},
    }


def _series_inputs(recipe: Recipe, series: Sequence[SeriesFile]) -> list[dict[str, Any]]:
    return [
        asdict(each) | {"content": [_content(recipe.resolve(p)) for p in _paths(each)]}
        for each in series
    ]


def _paths(series: SeriesFile) -> tuple[str, ...]:
    return (series.image, series.labels) if series.labels else (series.image,)


def _content(path: Path) -> Any:
    """Hash of a file, or of all files of a folder; what is missing is said by who reads it."""
    if path.is_dir():
        return tree_sha256(path)
    return file_sha256(path) if path.exists() else "missing"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"

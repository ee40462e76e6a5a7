"""Everything made from a network against the network itself: engines, typed graphs, the service.

network, files of a version, repository ─▶ candidates, service ─▶ Comparison ─▶ report on disk
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.building.making import GRAPH_FILE, typed_file
from export.engines.running import Engine, OnnxRuntimeEngine, OpenVinoEngine, cpu_precisions
from export.engines.tensorrt_plan import TensorRtEngine, this_machine
from export.errors import GateError, MissingPart, RecipeError
from export.graph.eager import EagerNetwork
from export.graph.inspecting import inspect_graph
from export.parity.comparison import Candidate, Comparison, Served, measure, measure_patches
from export.parity.facts import machine_facts, version_facts
from export.parity.material import Series, read_series, synthetic_series
from export.parity.results import Precision
from export.parity.synthetic import draw_body
from export.recipe import CpuPrecision, GpuPrecision, Recipe
from export.repository.describing import describe
from export.repository.layout import PLAN, ModelFolders
from export.repository.serving import served
from export.sources.network import SourceNetwork
from export.sources.opening import open_source
from preprocess.spec import ModelSpec, load_model_spec

__all__ = (
    "candidates",
    "compare",
    "compare_published",
    "compare_volume",
    "verification_series",
)

_BODY = 1000
"""Values of the made-up body, which is drawn in integers; a network sees −1 to 1."""

_PRECISION = {
    CpuPrecision.F32: Precision.F32,
    CpuPrecision.BF16: Precision.HALF,
    CpuPrecision.INT8: Precision.INT8,
}
_GPU_PRECISION = {
    GpuPrecision.FP32: Precision.F32,
    GpuPrecision.FP16: Precision.HALF,
    GpuPrecision.BF16: Precision.HALF,
    GpuPrecision.INT8: Precision.INT8,
}
_TYPED: dict[GpuPrecision, Callable[[Path], Engine]] = {
    GpuPrecision.FP16: OnnxRuntimeEngine,
    GpuPrecision.BF16: partial(OpenVinoEngine, precision=CpuPrecision.F32),
    GpuPrecision.INT8: OnnxRuntimeEngine,
}
"""What computes the typed graphs on a CPU; ONNX Runtime has no bfloat16 convolution there."""


def candidates(recipe: Recipe, files: Mapping[str, Path]) -> tuple[list[Candidate], list[str]]:
    """What there is to compare among the files of a version.

    Args:
        recipe: Names the engines.
        files: ``model.onnx``, ``model.xml``, typed graphs, by their names.

    Returns:
        The candidates, and a sentence for each engine of the recipe that cannot be compared here.
    """
    found = [Candidate(OnnxRuntimeEngine(files[GRAPH_FILE]), Precision.F32)]
    left_out = []
    able = cpu_precisions()
    for precision in recipe.export.engines.openvino:
        name = "model.xml" if precision is CpuPrecision.INT8 else GRAPH_FILE
        if precision not in able:
            left_out.append(f"openvino-{precision}: this CPU does not compute in {precision}")
        elif name in files:
            engine = OpenVinoEngine(files[name], precision)
            found.append(Candidate(engine, _PRECISION[precision]))
    for typed, runtime in _TYPED.items():
        if typed_file(typed) in files:
            graph = runtime(files[typed_file(typed)])
            found.append(Candidate(graph, _GPU_PRECISION[typed], f"tensorrt-{typed} graph"))
    if PLAN in files:
        try:
            plan = TensorRtEngine(files[PLAN], this_machine())
        except MissingPart as error:
            left_out.append(f"{PLAN}: {error}")
        else:
            found.append(Candidate(plan, _GPU_PRECISION[recipe.export.engines.gpu]))
    return found, left_out


def verification_series(recipe: Recipe, spec: ModelSpec) -> list[Series]:
    """The series of the recipe; without any a synthetic one, which the report says."""
    files = recipe.export.verification
    return [read_series(recipe, file, spec) for file in files] or [synthetic_series(spec)]


def compare(
    recipe: Recipe,
    network: SourceNetwork,
    spec: ModelSpec,
    files: Mapping[str, Path],
    repository: Path,
    *,
    url: str | None = None,
    serve: bool = True,
    advance: Callable[[int], None] = lambda slices: None,
) -> Comparison:
    """Compares a version of a model with the network it was made from.

    Args:
        recipe: The recipe.
        network: The network, as its source gives it.
        spec: The model's description.
        files: What was made of it, see ``candidates``.
        repository: Holds the model as it is served, staged or published.
        url: A server that serves it, taken for the gpu profile; None starts the cpu profile.
        serve: Whether the service is compared too.
        advance: Called with the number of slices that are done since the last call.

    Raises:
        GateError: An engine answers in another shape.
        EngineError: An engine or the service does not run.
        RecipeError: A series cannot be read.
    """
    reference = EagerNetwork(network, spec, recipe.export.graph)
    engines, left_out = candidates(recipe, files)
    series = verification_series(recipe, spec)
    facts = _facts(recipe, left_out)
    with ExitStack() as stack:
        services = []
        if serve:
            model = stack.enter_context(served(repository, spec.name, url))
            services.append(
                Served(f"triton-{_profile(url)}", _served_as(recipe, url), model.segment)
            )
            facts["server"] = model.server
        return measure(
            reference, engines, series, spec, served=services, facts=facts, advance=advance
        )


def compare_volume(recipe: Recipe, network: SourceNetwork, files: Mapping[str, Path]) -> Comparison:
    """Compares the graph of a network of volumes, which is not served, on noise and on a body.

    Raises:
        RecipeError: The recipe names series, which are not cut into patches.
        GateError: An engine answers in another shape.
        EngineError: An engine does not run.
    """
    if recipe.export.verification:
        raise RecipeError(
            f"{recipe.path}: export.verification: a network of volumes is compared on made-up "
            "patches; expected no series, leave them out"
        )
    reference = EagerNetwork(network, None, recipe.export.graph)
    engines, left_out = candidates(recipe, files)
    info = inspect_graph(files[GRAPH_FILE])
    channels, *sides = (int(side) for side in info.inputs["image"].dims[1:])
    labels = network.labels[1:] or [str(value) for value in range(1, network.classes)]
    return measure_patches(
        reference,
        engines,
        _patches(channels, sides),
        model=recipe.name,
        labels=labels,
        name="made-up patches",
        facts=_facts(recipe, left_out),
    )


def _patches(channels: int, sides: Sequence[int]) -> NDArray[np.float32]:
    """Noise and a body, [2, channels, *sides]."""
    slices, rows, columns = sides
    noise = np.random.default_rng(0).standard_normal((channels, *sides))
    body = draw_body((slices, rows, columns), (-_BODY, _BODY)) / _BODY
    return np.stack([noise, np.broadcast_to(body, noise.shape)]).astype(np.float32)


def _facts(recipe: Recipe, left_out: list[str]) -> dict[str, str]:
    facts = {"recipe": recipe.path.name, **machine_facts(), **version_facts()}
    if left_out:
        facts["not compared here"] = "; ".join(left_out)
    return facts


def _profile(url: str | None) -> str:
    return "cpu" if url is None else "gpu"


def _served_as(recipe: Recipe, url: str | None) -> Precision:
    engines = recipe.export.engines
    return _PRECISION[engines.cpu] if url is None else _GPU_PRECISION[engines.gpu]


def compare_published(
    recipe: Recipe,
    repository: Path,
    *,
    url: str | None = None,
    advance: Callable[[int], None] = lambda slices: None,
) -> Comparison:
    """Compares the newest version in a repository with the source, files as they are now.

    Raises:
        GateError: The repository holds no version, or another description than the recipe's.
        SourceError: The source cannot be used.
        EngineError: An engine or the service does not run.
    """
    network = open_source(recipe)
    spec = describe(recipe, network)
    model = ModelFolders(repository, spec.name)
    if not model.versions:
        raise GateError(f"{model.net}: expected a published version, found none; build it first")
    published = load_model_spec(repository / spec.name / "model.yaml")
    if published.sha256 != spec.sha256:
        raise GateError(
            f"{repository / spec.name / 'model.yaml'} does not say what {recipe.path} says; build "
            "the model again"
        )
    files = model.version_files(model.versions[-1])
    plan = model.net / str(model.versions[-1]) / PLAN
    if plan.exists():
        files[PLAN] = plan
    return compare(recipe, network, spec, files, repository, url=url, advance=advance)

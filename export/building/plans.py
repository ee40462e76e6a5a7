"""The TensorRT plans of a repository, on the machine that serves them: build what is missing.

repository ─▶ newest version of each model ─▶ typed ONNX ─▶ model.plan, model.plan.json beside it
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.building.making import typed_file
from export.engines.plan_key import (
    Machine,
    PlanKey,
    PlanOptions,
    read_plan_record,
    require_plan_fits,
)
from export.engines.tensorrt_plan import build_plan
from export.errors import EngineError, ExportError, RecipeError
from export.recipe import GpuPrecision
from export.repository.layout import PLAN, PROVENANCE, ModelFolders
from export.repository.options import Profile
from export.stages import file_sha256
from export.tuned import GpuSettings
from preprocess.errors import SpecError
from preprocess.parsing import build
from preprocess.serving.configured import TUNED
from preprocess.spec import find_model_specs

__all__ = ("PlanOutcome", "build_plans")


@dataclass(frozen=True)
class PlanOutcome:
    """What happened to the plan of one model.

    Attributes:
        plan: The plan.
        built: Whether it was put there now.
        seconds: How long TensorRT took; 0 where it was there, or in the cache.
    """

    plan: Path
    built: bool
    seconds: float


def build_plans(
    repository: Path,
    options: PlanOptions,
    cache: Path,
    machine: Machine,
    *,
    api: ModuleType | None = None,
) -> Iterator[PlanOutcome]:
    """Makes sure that the newest version of every model has a plan for this machine.

    A plan that fits and was made from the same graph with the same options stays. Any other is
    replaced: versions of the network are published, plans are each machine's own.

    Args:
        repository: The model repository.
        options: What is asked of the builder; batches are the model's own, and so is what a search
            chose.
        cache: See ``build_plan``.
        machine: This machine, see ``this_machine``.
        api: The module ``tensorrt``; None imports it.

    Raises:
        EngineError: A model cannot be compiled, or was not published by ``build``.
        ExportError: A description cannot be read.
    """
    try:
        specs = find_model_specs(repository)
    except SpecError as error:
        raise ExportError(f"{repository}: {error}") from error
    if not specs:
        raise EngineError(f"{repository}: expected models with a model.yaml, found none")
    for spec in specs:
        model = ModelFolders(repository, spec.name)
        if not model.versions:
            raise EngineError(f"{model.net}: expected a published version, found none")
        folder = model.net / str(model.versions[-1])
        serving = _serving(folder)
        (low, best, high), tuned = serving["batch_gpu"], _tuned(model)
        level = tuned.optimisation_level
        own = PlanOptions(
            batch=(low, tuned.best_batch or best, high),
            canvas=spec.geometry.size,
            version_compatible=options.version_compatible,
            hardware=options.hardware,
            optimisation_level=options.optimisation_level if level is None else level,
            workspace_bytes=options.workspace_bytes,
        )
        typed = folder / typed_file(GpuPrecision(serving["gpu"]))
        plan = folder / PLAN
        if plan.exists() and _is_current(plan, PlanKey(file_sha256(typed), machine, own)):
            yield PlanOutcome(plan, built=False, seconds=0.0)
        else:
            made = build_plan(typed, plan, own, cache, machine, api=api)
            yield PlanOutcome(plan, built=True, seconds=made.seconds)


def _tuned(model: ModelFolders) -> GpuSettings:
    """What a search chose: it stands in the configuration, which changes without a new version."""
    path = model.net / Profile.GPU.file
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
        chosen = {
            key.removeprefix(TUNED): int(item.string_value)
            for key, item in config.parameters.items()
            if key.startswith(TUNED)
        }
        return build(GpuSettings, chosen, "parameters")
    except (OSError, ValueError, text_format.ParseError, SpecError, RecipeError) as error:
        raise EngineError(f"{path}: {error}; build the model again") from error


def _is_current(plan: Path, key: PlanKey) -> bool:
    try:
        require_plan_fits(plan, key.machine)
        return read_plan_record(plan).key == key
    except EngineError:
        return False


def _serving(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    try:
        serving: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["serving"]
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"{path}: expected what `build` says about a version: {error}; build the model again"
        ) from error
    return serving

"""Each machine builds its own plans beside what was published, and refuses those of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.building.plans import build_plans
from export.engines.plan_key import Machine, PlanOptions, check_plans, read_plan_record
from export.engines.typed import to_half
from export.errors import EngineError, ExportError
from export.graph.exporting import export_graph
from export.recipe import GpuPrecision, GraphOptions
from export.repository.layout import ModelFolders
from export.repository.options import Serving
from export.repository.publishing import Published, publish
from export.repository.staging import stage
from export.tuned import GpuSettings
from tests.export_networks import tiny_network, tiny_spec

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning"),
    # The bindings without a GPU stand in for TensorRT's; their timing cache does nothing.
    pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2. Timing"),
]

HERE = Machine("NVIDIA H200", "9.0", "10.5.0")
Build = Callable[..., list[tuple[str, bool]]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one small published model, as ``build`` leaves it without a GPU."""
    spec, serving = tiny_spec(), Serving()
    graph, typed = tmp_path / "model.onnx", tmp_path / "model.fp16.onnx"
    export_graph(tiny_network(), spec, GraphOptions(), graph, {})
    to_half(graph, typed, GpuPrecision.FP16)
    told = {"serving": {"gpu": serving.gpu, "batch_gpu": serving.batch_gpu}}
    files = {graph.name: graph, typed.name: typed}
    stage(tmp_path / "staged", spec, serving, files, facts=told)
    (tmp_path / "repository").mkdir()
    publish(tmp_path / "staged", tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def build(repository: Path, tmp_path: Path) -> Build:
    api: Any = pytest.importorskip("tensorrt_rtx_bindings")

    def run(machine: Machine = HERE, **options: Any) -> list[tuple[str, bool]]:
        done = build_plans(repository, PlanOptions(**options), tmp_path / "cache", machine, api=api)
        return [(str(one.plan.relative_to(repository)), one.built) for one in done]

    return run


def test_a_plan_is_built_once_beside_the_published_version(repository: Path, build: Build) -> None:
    published = ModelFolders(repository, "tiny").version_files(1)
    assert build() == [("tiny_net/1/model.plan", True)]
    assert build() == [("tiny_net/1/model.plan", False)]
    assert check_plans(repository, HERE) == (repository / "tiny_net/1/model.plan",)
    assert ModelFolders(repository, "tiny").version_files(1) == published


def test_a_plan_is_no_change_for_the_next_publication(
    repository: Path, tmp_path: Path, build: Build
) -> None:
    build()
    assert not publish(tmp_path / "staged", repository).changed
    assert (repository / "tiny_net" / "1" / "model.plan").exists()


def test_another_machine_refuses_it_and_builds_its_own(repository: Path, build: Build) -> None:
    build()
    other = replace(HERE, gpu="NVIDIA L4", compute_capability="8.9")
    with pytest.raises(EngineError, match="NVIDIA L4"):
        check_plans(repository, other)
    assert build(other) == [("tiny_net/1/model.plan", True)]
    assert check_plans(repository, other)


def test_other_options_build_another_plan(build: Build) -> None:
    build()
    assert build(optimisation_level=1) == [("tiny_net/1/model.plan", True)]


def test_what_a_search_chose_is_built_without_a_new_version(
    repository: Path, tmp_path: Path, build: Build
) -> None:
    build()
    spec, version = tiny_spec(), ModelFolders(repository, "tiny").version_files(1)
    chosen = Serving(tuned_gpu=GpuSettings(best_batch=16, optimisation_level=1))
    files = {name: path for name, path in version.items() if path.suffix == ".onnx"}
    stage(tmp_path / "tuned", spec, chosen, files)
    assert publish(tmp_path / "tuned", repository) == Published("tiny", 1, changed=True)
    assert build() == [("tiny_net/1/model.plan", True)]
    options = read_plan_record(repository / "tiny_net/1/model.plan").key.options
    assert (options.batch, options.optimisation_level) == ((1, 16, 32), 1)
    assert build() == [("tiny_net/1/model.plan", False)]
    config = repository / "tiny_net" / "config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "16"', 'string_value: "many"'))
    with pytest.raises(EngineError, match=r"config\.pbtxt: .*many.*build the model again"):
        build()


def test_what_build_did_not_publish_is_refused(repository: Path, build: Build) -> None:
    path = repository / "tiny_net" / "1" / "provenance.json"
    path.write_text(json.dumps({"model": "tiny"}))
    with pytest.raises(EngineError, match=r"provenance\.json.*build the model again"):
        build()


def test_a_repository_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"expected models with a model\.yaml"):
        list(build_plans(tmp_path, PlanOptions(), tmp_path, HERE))

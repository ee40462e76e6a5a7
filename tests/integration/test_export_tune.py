"""The search through a real Triton server, with a small network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from export.cli import main
from export.errors import EngineError
from export.recipe import CpuPrecision, load_recipe
from export.repository.layout import ModelFolders
from export.repository.options import Serving
from export.repository.publishing import publish
from export.repository.staging import stage
from export.tuned import CPU_DEFAULTS, Trial, read_tuning, tuning_path, write_tuning
from export.tuning.searching import Axis
from export.tuning.triton import TurnLength
from export.tuning.tuning import TuneOptions, tune
from preprocess.spec import ModelSpec
from tests.networks import write_network

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
QUICK = TurnLength(0.05, 0.1)


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    """The demo model's recipe without its series: a synthetic one is asked, in float32."""
    content = yaml.safe_load((ROOT / "models" / "brain_mr.yaml").read_text())
    content["export"] = {
        "source": content["export"]["source"],
        "engines": {"openvino": ["f32"], "tensorrt": ["fp16"]},
    }
    path = tmp_path / "brain_mr.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def repository(brain_mr: ModelSpec, tmp_path: Path) -> Path:
    """A repository with a small network, published as ``build`` does."""
    network = tmp_path / "network.onnx"
    write_network(network)
    facts = {"serving": {"embedding": 0, "scores": 12}}
    stage(tmp_path / "staged", brain_mr, Serving(), {"model.onnx": network}, facts=facts)
    folder = tmp_path / "models"
    folder.mkdir()
    publish(tmp_path / "staged", folder)
    return folder


def stage_spoilt(folder: Path, spec: ModelSpec, serving: Serving, *files: Any) -> ModelFolders:
    """As ``stage``, but one setting has a name that the server does not know."""
    model = stage(folder, spec, serving, *files)
    path = model.net / "configs" / "cpu.pbtxt"
    path.write_text(path.read_text().replace("tuned_single_threads", "tuned_colour"))
    return model


def test_two_candidates_are_measured_on_the_server(
    recipe_path: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that runs and is compared, one that this server refuses; nothing is left behind."""
    before = sorted(repository.rglob("*"))
    said: list[tuple[str, Trial]] = []
    work = tmp_path / "work"
    axes = (Axis("requests", (1,)), Axis("single_threads", (1,)))
    monkeypatch.setattr("export.tuning.triton.stage", stage_spoilt)
    options = TuneOptions(repository, work, 5.0, length=QUICK, axes=axes)
    tuned = tune(load_recipe(recipe_path), options, lambda what, one: said.append((what, one)))
    [f32] = tuned.tuning.cpu
    assert f32.precision is CpuPrecision.F32
    assert said[:2] == [("cpu f32", one) for one in f32.trials[:2]]
    requests, refused = f32.trials[:2]
    assert requests.change == "requests auto ▶ 1"
    assert requests.pairs >= 2
    assert min(requests.slices_per_s, requests.cpu_ms, requests.p99_ms) > 0
    assert refused.verdict.startswith("does not run: ")
    assert str(tmp_path) not in refused.verdict
    assert [one.partition(":")[0] for one in tuned.left_out] == ["gpu fp16"]
    assert tuned.tuning.gpu == ()
    assert sorted(repository.rglob("*")) == before
    assert [*(work / "tune").iterdir()] == []
    write_tuning(tuned.tuning, tuning_path(recipe_path))
    assert read_tuning(tuning_path(recipe_path), "brain_mr") == tuned.tuning


def test_the_command_keeps_the_defaults_where_there_is_no_time(
    recipe_path: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says so, and what `build` makes stays as it is."""
    arguments = ["tune", str(recipe_path), "--repository", str(repository)]
    arguments += ["--work", str(tmp_path / "work"), "--minutes", "0.01"]
    monkeypatch.setattr("sys.argv", ["export", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cpu f32: not everything was tried in 0.01 minutes" in said
    assert "gpu fp16: not measured, settings stay" in said
    assert "cpu f32: the defaults stay" in said
    recipe = load_recipe(recipe_path)
    assert recipe.tuning is not None
    assert recipe.tuning.settings_cpu(CpuPrecision.F32) == CPU_DEFAULTS
    assert Serving.of(recipe).tuned_cpu == CPU_DEFAULTS


def test_a_model_that_is_not_published_is_refused(
    recipe_path: Path, repository: Path, tmp_path: Path
) -> None:
    shutil.rmtree(repository / "brain_mr_net")
    with pytest.raises(EngineError, match="expected a published version, found none; run build"):
        tune(load_recipe(recipe_path), TuneOptions(repository, tmp_path / "work"))

"""MODEL.yaml is read strictly, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from export.errors import RecipeError
from export.recipe import (
    CpuPrecision,
    EngineOptions,
    FactorySource,
    GpuPrecision,
    Limits,
    SeriesFile,
    load_recipe,
)

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
FACTORY = {"kind": "factory", "factory": "a.b:C", "weights": "w.safetensors"}


def written(tmp_path: Path, export: object, **description: object) -> Path:
    path = tmp_path / "MODEL.yaml"
    path.write_text(yaml.safe_dump({"name": "seg", **description, "export": export}))
    return path


def test_defaults_are_sane(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, {"source": FACTORY}, title="T"))
    assert recipe.description == {"name": "seg", "title": "T"}
    assert recipe.name == "seg"
    assert recipe.export.source == FactorySource("factory", "a.b:C", "w.safetensors")
    assert recipe.export.engines == EngineOptions()
    assert recipe.export.engines.cpu is CpuPrecision.F32
    assert recipe.export.engines.gpu is GpuPrecision.FP16
    assert recipe.export.limits == Limits()
    assert recipe.export.limits.half_mask_dice == 0.999
    assert recipe.export.limits.int8_mask_dice == 0.99
    assert recipe.export.limits.label_dice_drop == 0.005


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, {"source": FACTORY}))
    assert recipe.resolve("w.safetensors") == (tmp_path / "w.safetensors").resolve()


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_in_the_repository_is_read(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert all(isinstance(series, SeriesFile) for series in recipe.export.verification)


@pytest.mark.parametrize(
    ("export", "message"),
    [
        (None, r"export: expected a mapping"),
        ({}, r"key 'source' is missing"),
        ({"source": {"kind": "pickle"}}, r"export.source.kind: expected one of \['factory'"),
        ({"source": FACTORY | {"arguments": [1]}}, r"source.arguments: expected a mapping"),
        ({"source": FACTORY, "graph": {"orientation": "LR"}}, r"graph.orientation 'LR'"),
        ({"source": FACTORY, "graph": {"orientation": "PLX"}}, r"graph.orientation 'PLX'"),
        ({"source": FACTORY, "engines": {"cpu": "fp64"}}, r"expected one of \['f32', 'bf16'"),
        ({"source": FACTORY, "engines": {"openvino": ["bf16"]}}, r"engines.cpu f32: not among"),
        ({"source": FACTORY, "engines": {"batch_gpu": [4, 2, 8]}}, r"batch_gpu \(4, 2, 8\)"),
        ({"source": FACTORY, "engines": {"openvino": ["f32", "int8"]}}, r"export.calibration"),
        ({"source": FACTORY, "limits": {"half_mask_dice": 2.0}}, r"half_mask_dice 2.0: 0 to 1"),
        ({"source": FACTORY, "verification": [{"image": "a", "step": 0}]}, r"step >= 1"),
        ({"source": FACTORY, "else": 1}, r"unknown key 'else'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, export: object, message: str) -> None:
    path = written(tmp_path, export)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"- 1", b""])
def test_what_is_no_recipe_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "MODEL.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"MODEL\.yaml"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "absent.yaml")

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from preprocess.parsing import build
from preprocess.spec import (
    Head,
    HuWindow,
    IntensityKind,
    IntensitySpec,
    ModelSpec,
    Padding,
    PercentileRange,
    PercentileZScore,
    Plane,
    SpecError,
    TensorSpec,
    ZScore,
    ZScoreRegion,
    find_model_specs,
    load_model_spec,
)

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2] / "model_repository"
BRAIN_MR = REPOSITORY / "brain_mr" / "model.yaml"


@pytest.fixture
def content() -> dict[str, Any]:
    return dict(yaml.safe_load(BRAIN_MR.read_text()))


def test_every_description_in_the_repository_loads() -> None:
    specs = {spec.name: spec for spec in find_model_specs(REPOSITORY)}
    brain = specs["brain_mr"]
    assert brain.route.planes == tuple(Plane)
    assert isinstance(brain.intensity, PercentileZScore)
    assert [segment.value for segment in brain.segments] == list(range(1, 12))
    assert len({segment.color for segment in brain.segments}) == 11
    assert len({segment.type for segment in brain.segments}) == 11


def test_the_union_is_told_apart_by_kind(content: dict[str, Any]) -> None:
    content["intensity"] = {"kind": "hu_window", "hu_low": -160, "hu_high": 240}
    spec = build(ModelSpec, content, "model")
    assert spec.intensity == HuWindow(IntensityKind.HU_WINDOW, hu_low=-160.0, hu_high=240.0)


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        (
            {"kind": "hu_window", "hu_low": -160, "hu_high": 240, "low_value": -1, "high_value": 2},
            HuWindow(IntensityKind.HU_WINDOW, -160.0, 240.0, -1.0, 2.0, Padding.LOW),
        ),
        (
            {"kind": "percentile_range", "low_percentile": 1, "high_percentile": 99}
            | {"low_value": -1, "high_value": 1, "padding": "zero"},
            PercentileRange(IntensityKind.PERCENTILE_RANGE, 1.0, 99.0, -1.0, 1.0, Padding.ZERO),
        ),
        ({"kind": "zscore"}, ZScore(IntensityKind.ZSCORE, ZScoreRegion.ALL, Padding.LOW)),
        (
            {"kind": "zscore", "region": "nonzero_box", "padding": "zero"},
            ZScore(IntensityKind.ZSCORE, ZScoreRegion.NONZERO_BOX, Padding.ZERO),
        ),
    ],
)
def test_every_normalisation_is_read(
    content: dict[str, Any], intensity: dict[str, Any], expected: IntensitySpec
) -> None:
    content["intensity"] = intensity
    assert build(ModelSpec, content, "model").intensity == expected


def test_heads_and_tensor_names_have_defaults(content: dict[str, Any]) -> None:
    for key in ("heads", "tensors"):
        content.pop(key, None)
    plain = build(ModelSpec, content, "model")
    assert (plain.heads, plain.tensors) == ((), TensorSpec())
    content |= {"heads": ["uncertainty", "embedding"], "tensors": {"image": "pixels"}}
    spec = build(ModelSpec, content, "model")
    assert spec.heads == (Head.UNCERTAINTY, Head.EMBEDDING)
    assert spec.tensors == TensorSpec(image="pixels")
    assert spec.sha256 != plain.sha256


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *path, last = key.split(".")
        place: Any = data
        for part in path:
            place = place[int(part) if part.isdigit() else part]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("extra", 1), "unknown key 'extra'"),
        (lambda data: data.pop("title"), "key 'title' is missing"),
        (_set("version", "1"), "model.version: expected int, got str '1'"),
        (_set("version", True), "model.version: expected int, got bool"),
        (_set("name", "Brain MR"), "name 'Brain MR'"),
        (_set("geometry.size", [256]), "model.geometry.size: expected 2 items, got 1"),
        (_set("geometry.size", 256), "model.geometry.size: expected a list"),
        (_set("geometry.spacing_mm", 1.0), "model.geometry.spacing_mm: expected a list"),
        (_set("geometry.spacing_mm", [1.0, 0]), r"geometry.spacing_mm \(1.0, 0.0\)"),
        (_set("geometry", None), "model.geometry: expected a mapping"),
        (_set("route.planes", ["oblique"]), r"model.route.planes\[0\]: expected one of"),
        (_set("route.description_patterns", ["("]), "route pattern"),
        (_set("route.modalities", []), "route.modalities"),
        (_set("intensity.kind", "window"), "model.intensity.kind: expected one of"),
        (_set("intensity.high_percentile", 0.1), "percentiles"),
        (_set("intensity.padding", "edge"), "model.intensity.padding: expected one of"),
        (
            _set("intensity", {"kind": "hu_window", "hu_low": 5, "hu_high": 5}),
            "expected hu_low below hu_high, got 5.0 and 5.0",
        ),
        (
            _set("intensity", {"kind": "hu_window", "hu_low": 0, "hu_high": float("inf")}),
            "expected hu_low below hu_high, got 0.0 and inf",
        ),
        (
            _set("intensity", {"kind": "zscore", "region": "head"}),
            "model.intensity.region: expected one of",
        ),
        (_set("heads", ["mask"]), r"model.heads\[0\]: expected one of \['uncertainty'"),
        (_set("heads", ["logits", "logits"]), "heads: expected each one once"),
        (_set("tensors", {"mask": "image"}), "tensors: expected 6 different names"),
        (_set("tensors", {"mask": "logits"}), "tensors.mask: 'logits' is a head's name"),
        (_set("segments.0.color", [0, 0, 256]), "colour"),
        (_set("segments.0.value", 2), "segment values"),
        (_set("segments.0.type.value", ""), "code value"),
    ],
)
def test_a_wrong_description_is_refused_by_name(
    content: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    change(content)
    with pytest.raises(SpecError, match=message):
        build(ModelSpec, content, "model")


def test_the_hash_follows_the_meaning_not_the_spelling(
    content: dict[str, Any], tmp_path: Path
) -> None:
    first = load_model_spec(BRAIN_MR)
    reordered = tmp_path / "model.yaml"
    reordered.write_text(yaml.safe_dump(content, sort_keys=True))
    assert load_model_spec(reordered).sha256 == first.sha256
    changed = copy.deepcopy(content)
    changed["geometry"]["spacing_mm"] = [1.0, 1.5]
    assert build(ModelSpec, changed, "model").sha256 != first.sha256


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "\x00"])
def test_a_file_that_is_no_description_is_a_spec_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(SpecError):
        load_model_spec(path)
    with pytest.raises(SpecError):
        load_model_spec(tmp_path / "absent.yaml")


def test_a_description_must_bear_its_folders_name(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model.yaml").write_text(BRAIN_MR.read_text())
    with pytest.raises(SpecError, match="name is 'brain_mr'"):
        find_model_specs(tmp_path)

"""The gate fails for what moved, names where, and never passes without having compared anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from export.building.verifying import compare_volume
from export.engines.running import OnnxRuntimeEngine, OpenVinoEngine
from export.errors import GateError, RecipeError
from export.graph.eager import EagerNetwork
from export.graph.exporting import export_graph
from export.parity.comparison import Candidate, Comparison, Served, measure, measure_patches
from export.parity.gate import TIES, Violation, judge, require
from export.parity.material import Series, network_images, synthetic_series
from export.parity.results import Place, Precision, read_parity, write_parity
from export.recipe import CpuPrecision, GraphOptions, Limits
from preprocess.geometry import SliceGeometry
from preprocess.plan import SeriesPlan
from preprocess.reference import network_image
from tests.export_networks import (
    CLASSES,
    SIDE,
    smooth_images,
    tiny_network,
    tiny_spec,
    write_recipe,
)

pytestmark = pytest.mark.unit

SPEC = tiny_spec()
LIMITS = Limits()
HEADS = tiny_spec(heads=("uncertainty",))
Answers = dict[str, NDArray[Any]]


class Fake:
    """Answers what a function says."""

    def __init__(self, name: str, answer: Callable[[NDArray[np.float32]], Answers]) -> None:
        self.name, self._answer = name, answer

    def run(self, images: NDArray[np.float32]) -> Answers:
        return self._answer(images)


def by_threshold(images: NDArray[np.float32]) -> Answers:
    """Three classes by brightness, and the scores that give them."""
    scores = np.stack([-((images[:, 0] - at) ** 2) for at in (0.0, 0.4, 0.9)], axis=1)
    return {"mask": scores.argmax(axis=1).astype(np.uint8), "logits": scores}


REFERENCE = Fake("torch-f32", by_threshold)
SERIES = synthetic_series(SPEC)
IMAGES = network_images(SERIES, SPEC)


def changed(
    change: Callable[[Answers], None], name: str = "engine", precision: Precision = Precision.INT8
) -> Candidate:
    """An engine whose answers are those of the reference, changed."""

    def answer(images: NDArray[np.float32]) -> Answers:
        answers = by_threshold(images)
        change(answers)
        return answers

    return Candidate(Fake(name, answer), precision)


def at_slice(number: int, change: Callable[[NDArray[np.uint8]], None]) -> Candidate:
    """An engine that is wrong in one slice of the synthetic series only."""
    image = IMAGES[number]

    def answer(images: NDArray[np.float32]) -> Answers:
        answers = by_threshold(images)
        for found, mask in zip(images, answers["mask"], strict=True):
            if np.array_equal(found, image):
                change(mask)
        return answers

    return Candidate(Fake("engine", answer), Precision.F32)


def compare(*candidates: Candidate, **keys: Any) -> Comparison:
    return measure(REFERENCE, candidates, [SERIES], SPEC, **keys)


def verdict(*candidates: Candidate, limits: Limits = LIMITS) -> tuple[Violation, ...]:
    return judge(compare(*candidates).report, limits)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_graph(tiny_network(), HEADS, GraphOptions(), path, {})
    return path


def weights(path: Path) -> list[str]:
    tensors = onnx.load(path).graph.initializer
    return [tensor.name for tensor in tensors if tensor.dims and "module." in tensor.name]


def test_a_faithful_export_passes(graph: Path, tmp_path: Path) -> None:
    reference = EagerNetwork(tiny_network(), HEADS, GraphOptions())
    engines = [
        Candidate(OnnxRuntimeEngine(graph), Precision.F32),
        Candidate(OpenVinoEngine(graph, CpuPrecision.F32), Precision.F32),
    ]
    report = measure(reference, engines, [synthetic_series(HEADS)], HEADS).report
    require(report, LIMITS)
    assert [one.engine for one in report.engines] == ["onnxruntime", "openvino-f32"]
    for result in report.engines:
        assert {head.head for head in result.heads} == {"logits", "uncertainty"}
        assert result.mask_values == report.reference.mask_values == (0, 2)
        assert len(result.slices) == 12
    write_parity(report, tmp_path / "parity.json")
    assert read_parity(tmp_path / "parity.json") == report


def test_five_percent_on_any_one_weight_tensor_fails(graph: Path, tmp_path: Path) -> None:
    reference = EagerNetwork(tiny_network(), HEADS, GraphOptions())
    series = [replace(synthetic_series(HEADS), chosen=range(5, 7))]
    names = weights(graph)
    assert len(names) == 8
    for name in names:
        model = onnx.load(graph)
        (tensor,) = (one for one in model.graph.initializer if one.name == name)
        moved = numpy_helper.to_array(tensor) * np.float32(1.05)
        tensor.CopyFrom(numpy_helper.from_array(moved, name))
        path = tmp_path / "moved.onnx"
        onnx.save(model, path)
        engine = Candidate(OnnxRuntimeEngine(path), Precision.F32)
        report = measure(reference, [engine], series, HEADS).report
        with pytest.raises(GateError, match=r"onnxruntime: .* expected at "):
            require(report, LIMITS)


def test_the_worst_class_and_slice_are_named_and_shown() -> None:
    def erase(mask: NDArray[np.uint8]) -> None:
        mask[mask == 2] = 0

    comparison = compare(at_slice(7, erase))
    worst = judge(comparison.report, LIMITS)[0]
    assert worst.place == Place("synthetic", 7)
    assert "lowest is part 2 (2) with" in worst.message
    assert "in slice 7 of synthetic" in worst.message
    exhibit = comparison.exhibit("engine", worst.place)
    assert exhibit is not None
    assert exhibit.place == worst.place
    assert np.array_equal(exhibit.image, IMAGES[7, 0])
    assert (exhibit.mask == 2).sum() == 0 < (exhibit.expected == 2).sum()
    result = comparison.report.engines[0]
    assert result.worst_slice.slice == 7
    assert [one.slice for one in result.slices if one.differing_pixels] == [7]
    assert result.differing_fraction == pytest.approx(
        (exhibit.mask != exhibit.expected).sum() / (12 * SIDE * SIDE)
    )


@pytest.mark.parametrize(("pixels", "passes"), [(TIES, True), (TIES + 1, False)])
def test_a_tie_in_a_small_class_is_no_failure(pixels: int, passes: bool) -> None:
    """Class 2 has ten pixels in the reference; an engine gives some of them to class 1."""

    def small(images: NDArray[np.float32], lost: int = 0) -> Answers:
        mask = by_threshold(images)["mask"]
        mask[mask == 2] = 1
        mask[(images == IMAGES[0]).all(axis=(1, 2, 3)), 0, lost:10] = 2
        mask[(images == IMAGES[0]).all(axis=(1, 2, 3)), 0, :lost] = 1
        return {"mask": mask}

    engine = Candidate(Fake("engine", lambda images: small(images, pixels)), Precision.F32)
    report = measure(Fake("torch-f32", small), [engine], [SERIES], SPEC).report
    agreement = report.engines[0].classes[1]
    assert (agreement.pixels, agreement.differing) == (10, pixels)
    assert (not judge(report, Limits(f32_mask_dice=0, f32_class_dice=0.9999))) == passes


def test_the_limit_follows_from_how_an_engine_computes() -> None:
    """One pixel in 200 of a class moves: little enough for INT8, too much for the others."""

    def erode(answers: Answers) -> None:
        for mask in answers["mask"]:
            places = np.argwhere(mask == 2)[::200]
            mask[tuple(places.T)] = 1

    engines = [changed(erode, str(precision), precision) for precision in Precision]
    assert {one.engine for one in verdict(*engines)} == {"f32", "half"}
    strict = verdict(*engines, limits=Limits(int8_mask_dice=0.999, int8_class_dice=0.999))
    assert {one.engine for one in strict} == {"f32", "half", "int8"}


def test_scores_of_a_float32_engine_are_held_to_their_own_limit() -> None:
    def scale(answers: Answers) -> None:
        answers["logits"] = answers["logits"] * np.float32(1.001)

    assert not verdict(changed(scale, precision=Precision.HALF))
    (found,) = verdict(changed(scale, precision=Precision.F32))
    assert "relative L2 distance of logits is 0.001, expected at most 0.0005" in found.message


def test_scores_that_are_not_finite_fail_whatever_the_precision() -> None:
    def spoil(answers: Answers) -> None:
        answers["logits"][0, 0, 3, 3] = np.nan

    for precision in Precision:
        found = verdict(changed(spoil, precision=precision))
        assert "values of logits are NaN or infinite, in slice 0 of synthetic" in found[0].message
    report = compare(changed(spoil)).report
    assert report.engines[0].heads[0].relative_l2 is None


def test_a_constant_mask_fails() -> None:
    found = verdict(changed(lambda answers: answers["mask"].fill(0)))
    assert "engine answers class (0,) for every pixel" in found[0].message


def test_a_reference_that_shows_nothing_fails() -> None:
    def nothing(images: NDArray[np.float32]) -> Answers:
        return {"mask": np.zeros((len(images), SIDE, SIDE), np.uint8)}

    reference = Fake("torch-f32", nothing)
    engine = Candidate(Fake("engine", nothing), Precision.INT8)
    report = measure(reference, [engine], [SERIES], SPEC).report
    with pytest.raises(GateError, match="no mask can be told from another"):
        require(report, LIMITS)


def test_nothing_compared_is_a_failure() -> None:
    with pytest.raises(GateError, match="expected an engine to compare, got none"):
        require(compare().report, LIMITS)
    faithful = changed(lambda answers: None)
    with pytest.raises(GateError, match="expected slices to compare, got none"):
        require(measure(REFERENCE, [faithful], [], SPEC).report, LIMITS)
    with pytest.raises(GateError, match="expected slices to compare, got none"):
        measure_patches(
            REFERENCE, [faithful], np.zeros((0, 1, 8, 8), np.float32), model="m", labels=["a"]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answers: answers.pop("mask"), "lacks \\['mask'\\]"),
        (
            lambda answers: answers.update(mask=answers["mask"][:, 1:]),
            "expected mask of shape .*, got",
        ),
        (
            lambda answers: answers.update(mask=answers["mask"] + 77),
            "expected mask values 0 to 2, got 79",
        ),
    ],
)
def test_answers_of_another_form_are_refused(
    change: Callable[[Answers], None], message: str
) -> None:
    with pytest.raises(GateError, match=f"engine: .*{message}"):
        compare(changed(change))


def test_a_head_of_the_description_must_be_answered() -> None:
    engine = changed(lambda answers: None)
    with pytest.raises(GateError, match="lacks \\['uncertainty'\\]"):
        measure(REFERENCE, [engine], [synthetic_series(HEADS)], HEADS)


def labelled(spec_planes: tuple[str, ...] = ("axial",)) -> Series:
    """A turned, anisotropic series whose labels are what the threshold sees."""
    stored = np.ascontiguousarray(SERIES.stored.transpose(0, 2, 1)[:, ::-1])
    geometry = SliceGeometry(
        rows=stored.shape[1],
        columns=stored.shape[2],
        row_spacing_mm=SERIES.geometry.column_spacing_mm,
        column_spacing_mm=SERIES.geometry.row_spacing_mm,
        orientation=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0),
    )
    u = np.clip((stored.astype(np.float32) + 100) / 300, 0, 1).astype(np.float32)
    labels = by_threshold(u[:, None])["mask"]
    return replace(
        SERIES, name="turned", stored=stored, geometry=geometry, labels=labels,
        label_classes=(1, 2), spacing_mm=(2.0, 0.8, 0.8),
    )  # fmt: skip


def test_labels_are_judged_on_the_native_grid() -> None:
    report = measure(REFERENCE, [changed(lambda _: None)], [labelled()], SPEC).report
    scores = report.reference.labels
    assert [(one.series, one.value) for one in scores] == [("turned", 1), ("turned", 2)]
    assert min(one.dice for one in scores) > 0.8  # edges move by a pixel when resized
    assert all(one.hd95_mm is not None and one.hd95_mm < 4 for one in scores)
    assert report.engines[0].labels == scores
    require(report, LIMITS)


def test_a_fall_against_the_labels_is_named() -> None:
    def erode(answers: Answers) -> None:
        for mask in answers["mask"]:
            mask[::4][mask[::4] == 2] = 0

    engine = changed(erode)
    limits = Limits(int8_mask_dice=0, int8_class_dice=0)
    report = measure(REFERENCE, [engine], [labelled()], SPEC).report
    (found,) = judge(report, limits)
    assert "mean Dice against the labels falls from" in found.message
    assert "most for part 2 (2) of turned" in found.message
    assert not judge(report, replace(limits, label_dice_drop=0.5))


def test_a_service_is_compared_with_its_own_preprocessing() -> None:
    def segment(plan: SeriesPlan, stored: NDArray[np.int16]) -> NDArray[np.uint8]:
        images = np.stack([network_image(SPEC, plan.tensors(one)) for one in stored])
        return by_threshold(images)["mask"]

    def mirrored(plan: SeriesPlan, stored: NDArray[np.int16]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(segment(plan, stored)[..., ::-1])

    chosen = replace(SERIES, chosen=range(1, 12, 3))
    services = [
        Served("ensemble", Precision.F32, segment),
        Served("left for right", Precision.F32, mirrored),
    ]
    report = measure(REFERENCE, [], [chosen], SPEC, served=services).report
    good, bad = report.engines
    assert good.served
    assert good.differing_fraction == 0
    assert [one.slice for one in good.slices] == [1, 4, 7, 10]
    assert {one.engine for one in judge(report, LIMITS)} == {bad.engine}
    assert "expected at least 0.999" in judge(report, LIMITS)[0].message


def test_three_dimensional_patches_are_compared_too() -> None:
    patches = smooth_images(2, 8, 16, 16)

    def answer(images: NDArray[np.float32]) -> Answers:
        scores = np.concatenate([-images, images], axis=1)
        return {"mask": scores.argmax(axis=1).astype(np.uint8), "logits": scores}

    def half(images: NDArray[np.float32]) -> Answers:
        return answer(images + np.float32(0.2))

    comparison = measure_patches(
        Fake("torch-f32", answer),
        [
            Candidate(Fake("same", answer), Precision.F32),
            Candidate(Fake("moved", half), Precision.F32),
        ],
        patches,
        model="volume",
        labels=["part"],
    )
    assert {one.engine for one in judge(comparison.report, LIMITS)} == {"moved"}
    exhibit = comparison.exhibit("moved")
    assert exhibit is not None
    assert exhibit.image.shape == (8, 16, 16)


def test_a_report_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_text('{"schema": "other"}')
    with pytest.raises(GateError, match=r"expected a parity report of schema hounsfield\.parity/1"):
        read_parity(tmp_path / "parity.json")


def test_engines_are_told_apart_by_name() -> None:
    same = changed(lambda _: None)
    with pytest.raises(GateError, match="expected engines of different names"):
        compare(same, same)
    report = compare(same, replace(same, label="the other")).report
    assert [one.engine for one in report.engines] == ["engine", "the other"]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    compare(changed(lambda _: None), advance=told.append)
    assert sum(told) == len(IMAGES)
    assert len(SPEC.segments) + 1 == CLASSES


def test_series_for_a_network_of_volumes_are_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, export={"verification": [{"image": "head.nii.gz"}]})
    with pytest.raises(RecipeError, match="made-up patches; expected no series"):
        compare_volume(recipe, tiny_network(), {})

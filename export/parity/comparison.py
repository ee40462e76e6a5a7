"""The same inputs through the float32 network and everything made from it ─▶ Comparison.

series ─▶ network images ─▶ reference │ engines ─┐
       └▶ stored values  ─▶ service ─────────────┴▶ tallies ─▶ ParityReport, worst slices
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.engines.running import Engine
from export.errors import GateError
from export.parity.material import Series, network_images, plan_of, stored_slices
from export.parity.measures import class_counts, dice, hausdorff95_mm
from export.parity.results import (
    SCHEMA,
    LabelScore,
    ParityReport,
    Place,
    Precision,
    SeriesFacts,
)
from export.parity.tally import MASK, Exhibit, Tally
from preprocess.cleanup import native_mask
from preprocess.plan import SeriesPlan
from preprocess.spec import ModelSpec

__all__ = (
    "Candidate",
    "Comparison",
    "Segment",
    "Served",
    "measure",
    "measure_patches",
    "score_labels",
)

Segment = Callable[[SeriesPlan, NDArray[np.int16]], NDArray[np.uint8]]
"""Plan and stored slices [slices, rows, columns] ▶ masks on the canvas."""
BATCH = 8


@dataclass(frozen=True)
class Candidate:
    """An engine that is to answer as the reference does.

    Attributes:
        engine: The engine.
        precision: How it computes.
        label: What the report calls it; "" means the engine's own name. Labels must differ.
    """

    engine: Engine
    precision: Precision
    label: str = ""

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.label or self.engine.name


@dataclass(frozen=True)
class Served:
    """A running service of the model, its own preprocessing included.

    Attributes:
        name: For people.
        precision: How its engine computes.
        segment: Asks it.
    """

    name: str
    precision: Precision
    segment: Segment


@dataclass(frozen=True)
class Comparison:
    """The report, and the slices on which engines differ most, over all and in each class."""

    report: ParityReport
    exhibits: tuple[Exhibit, ...]

    def exhibit(self, engine: str, place: Place | None = None) -> Exhibit | None:
        """The slice at a place that the report names, or the engine's worst one."""
        own = [one for one in self.exhibits if one.engine == engine]
        there = [one for one in own if one.place == place]
        return next(iter(there or own), None)


def measure(
    reference: Engine,
    candidates: Sequence[Candidate],
    series: Sequence[Series],
    spec: ModelSpec,
    *,
    served: Sequence[Served] = (),
    facts: Mapping[str, str] | None = None,
    advance: Callable[[int], None] = lambda slices: None,
) -> Comparison:
    """Compares engines and services with the float32 network, slice by slice.

    Masks are compared on the canvas. Labels are compared on the native grid, after what the worker
    does to a mask; where slices were left out, the volume of those that were taken is judged.

    Args:
        reference: The float32 network.
        candidates: Engines.
        series: What to compare on.
        spec: The model.
        served: Services.
        facts: What else belongs into the report.
        advance: Called with the number of slices that are done since the last call.

    Raises:
        GateError: An engine lacks a head, or answers in another shape or with unknown classes.
        RecipeError: A series cannot be planned.
    """
    names = [reference.name, *(one.name for one in candidates), *(one.name for one in served)]
    _require_names(names)
    labels = [segment.label for segment in spec.segments]
    heads = (MASK, *map(str, spec.heads))
    own = Tally(reference.name, Precision.F32, labels, heads=heads)
    tallies = [Tally(one.name, one.precision, labels, heads=heads) for one in candidates]
    services = [Tally(one.name, one.precision, labels, served=True) for one in served]
    for one in series:
        plan, images = plan_of(one, spec), network_images(one, spec)
        places = [Place(one.name, number) for number in one.chosen]
        masks = _run(
            reference, candidates, images, places, tallies=(own, *tallies), advance=advance
        )
        for service, tally in zip(served, services, strict=True):
            answer = service.segment(plan, stored_slices(one))
            tally.add(places, images, {MASK: answer}, {MASK: masks[0]})
            masks.append(answer)
        for tally, mask in zip((own, *tallies, *services), masks, strict=True):
            tally.scores += score_labels(one, plan, mask, spec)
    report = ParityReport(
        schema=SCHEMA,
        model=spec.name,
        spec_sha256=spec.sha256,
        series=tuple(map(_describe, series)),
        reference=own.result(),
        engines=tuple(tally.result() for tally in (*tallies, *services)),
        facts=dict(facts or {}),
    )
    return _comparison(report, (*tallies, *services))


def measure_patches(
    reference: Engine,
    candidates: Sequence[Candidate],
    patches: NDArray[np.float32],
    *,
    model: str,
    labels: Sequence[str],
    name: str = "patches",
    synthetic: bool = True,
    facts: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares engines on network input as it is, for networks that are not served: 3D ones.

    Args:
        reference: The float32 network.
        candidates: Engines.
        patches: [N, channels, *spatial].
        model: Name of the model.
        labels: Names of the classes 1, 2, ...
        name: What the patches are.
        synthetic: Whether they were made up.
        facts: What else belongs into the report.

    Raises:
        GateError: See ``measure``.
    """
    _require_names([reference.name, *(one.name for one in candidates)])
    own = Tally(reference.name, Precision.F32, labels)
    tallies = [Tally(one.name, one.precision, labels) for one in candidates]
    places = [Place(name, number) for number in range(len(patches))]
    _run(reference, candidates, patches, places, tallies=(own, *tallies))
    described = SeriesFacts(
        name=name,
        slices=len(patches),
        of=len(patches),
        rows=patches.shape[-2],
        columns=patches.shape[-1],
        plane="none",
        labelled=False,
        synthetic=synthetic,
    )
    engines = tuple(tally.result() for tally in tallies)
    report = ParityReport(SCHEMA, model, "", (described,), own.result(), engines, dict(facts or {}))
    return _comparison(report, tallies)


def _require_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise GateError(f"expected engines of different names, got {[*names]}")


def _run(
    reference: Engine,
    candidates: Sequence[Candidate],
    images: NDArray[np.float32],
    places: Sequence[Place],
    *,
    tallies: Sequence[Tally],
    advance: Callable[[int], None] = lambda slices: None,
) -> list[NDArray[np.uint8]]:
    """Masks of the reference and of every candidate; a batch at a time bounds the memory."""
    if not len(images):
        raise GateError("expected slices to compare, got none")
    masks: list[list[NDArray[np.uint8]]] = [[] for _ in tallies]
    for start in range(0, len(images), BATCH):
        part, where = images[start : start + BATCH], places[start : start + BATCH]
        wanted = reference.run(part)
        for index, tally in enumerate(tallies):
            answers = candidates[index - 1].engine.run(part) if index else wanted
            tally.add(where, part, answers, wanted)
            masks[index].append(answers[MASK])
        advance(len(part))
    return [np.concatenate(parts) for parts in masks]


def score_labels(
    series: Series, plan: SeriesPlan, canvas: NDArray[np.uint8], spec: ModelSpec
) -> list[LabelScore]:
    """Every labelled class of a series, on its own grid; nothing where there are no labels.

    Args:
        series: The series.
        plan: Its plan.
        canvas: Masks of its chosen slices on the canvas.
        spec: The model.
    """
    if series.labels is None:
        return []
    taken = series.chosen
    labels = series.labels[taken.start : taken.stop : taken.step]
    mask = native_mask(plan, canvas, series.chosen_spacing_mm, spec)
    agreement = dice(class_counts(mask, labels, len(spec.segments) + 1))
    present = set(np.unique(labels).tolist())
    return [
        LabelScore(
            series=series.name,
            value=segment.value,
            label=segment.label,
            dice=float(agreement[segment.value]),
            hd95_mm=hausdorff95_mm(
                mask == segment.value, labels == segment.value, series.chosen_spacing_mm
            ),
        )
        for segment in spec.segments
        if segment.value in series.label_classes and segment.value in present
    ]


def _describe(series: Series) -> SeriesFacts:
    return SeriesFacts(
        name=series.name,
        slices=len(series.chosen),
        of=len(series.stored),
        rows=series.geometry.rows,
        columns=series.geometry.columns,
        plane=str(series.geometry.plane),
        labelled=series.labels is not None,
        synthetic=series.synthetic,
    )


def _comparison(report: ParityReport, tallies: Sequence[Tally]) -> Comparison:
    return Comparison(report, tuple(exhibit for one in tallies for exhibit in one.exhibits))

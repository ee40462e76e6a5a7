"""Whether answers moved: a report and its limits ─▶ violations ─▶ GateError naming the worst case.

A comparison in which nothing could be told apart is a failure too, never a silent pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from export.errors import GateError
from export.parity.results import ClassAgreement, EngineResult, ParityReport, Place, Precision
from export.recipe import Limits

__all__ = (
    "TIES",
    "Violation",
    "class_dice_limit",
    "judge",
    "mask_dice_limit",
    "misses",
    "require",
)

TIES = 2
"""Pixels of a class that may differ whatever its Dice: where two scores are as good as equal, the
order of summation decides, and in a small class one such pixel would break any limit."""


@dataclass(frozen=True)
class Violation:
    """One limit that one engine broke.

    Attributes:
        engine: The engine.
        message: What was measured, what was expected, and where.
        severity: How far beyond the limit: 1 is at the limit, 2 is twice as far from perfect.
        place: The slice where it shows most; None where it is about everything.
    """

    engine: str
    message: str
    severity: float
    place: Place | None = None


def class_dice_limit(result: EngineResult, limits: Limits) -> float:
    """The Dice that every class must reach against the float32 network's mask.

    A service preprocesses in float32 in another order, which moves as little as half precision.
    """
    own = {
        Precision.F32: limits.f32_class_dice,
        Precision.HALF: limits.half_class_dice,
        Precision.INT8: limits.int8_class_dice,
    }[result.precision]
    return min(own, limits.half_class_dice) if result.served else own


def mask_dice_limit(result: EngineResult, limits: Limits) -> float:
    """The Dice that the mask of all classes must reach against the float32 network's."""
    own = {
        Precision.F32: limits.f32_mask_dice,
        Precision.HALF: limits.half_mask_dice,
        Precision.INT8: limits.int8_mask_dice,
    }[result.precision]
    return min(own, limits.served_mask_dice) if result.served else own


def misses(agreement: ClassAgreement, limit: float) -> bool:
    """Whether a class agrees less than it must; one that is nowhere cannot."""
    dice = agreement.dice
    return dice is not None and dice < limit and agreement.differing > TIES


def judge(report: ParityReport, limits: Limits) -> tuple[Violation, ...]:
    """Every limit that was broken, the worst first."""
    found = [*_judge_reference(report)]
    if not found:
        for result in report.engines:
            found += _judge_engine(result, report.reference, limits)
    return tuple(sorted(found, key=lambda one: -one.severity))


def require(report: ParityReport, limits: Limits) -> None:
    """Passes or fails the comparison.

    Raises:
        GateError: A limit is broken, or nothing was compared.
    """
    violations = judge(report, limits)
    if violations:
        others = len(violations) - 1
        more = f"; and {others} more" if others else ""
        raise GateError(f"{report.model}: {violations[0].message}{more}")


def _judge_reference(report: ParityReport) -> Iterator[Violation]:
    reference = report.reference
    if not report.engines:
        yield Violation(reference.engine, "expected an engine to compare, got none", math.inf)
    if not reference.slices:
        yield Violation(reference.engine, "expected slices to compare, got none", math.inf)
    elif len(reference.mask_values) < 2:
        advice = (
            "name series in export.verification that show what the model segments"
            if report.spec_sha256
            else "a network of volumes is compared on nothing else, so this one cannot be judged"
        )
        yield Violation(
            reference.engine,
            f"{reference.engine} answers class {reference.mask_values} for every pixel of "
            f"{', '.join(one.name for one in report.series)}, so that no mask can be told from "
            f"another; {advice}",
            math.inf,
        )


def _judge_engine(
    result: EngineResult, reference: EngineResult, limits: Limits
) -> Iterator[Violation]:
    yield from _judge_sanity(result, reference)
    limit = mask_dice_limit(result, limits)
    differing = sum(one.differing for one in result.classes)
    if result.mask_dice is not None and result.mask_dice < limit and differing > 2 * TIES:
        yield _mask_violation(result, limit)
    limit = class_dice_limit(result, limits)
    for agreement in result.classes:
        if misses(agreement, limit):
            yield _class_violation(result, agreement, limit)
    if result.precision is Precision.F32 and not result.served:
        yield from _judge_scores(result, limits.f32_logits_l2)
    yield from _judge_labels(result, reference, limits.label_dice_drop)


def _judge_sanity(result: EngineResult, reference: EngineResult) -> Iterator[Violation]:
    name = result.engine
    for head in result.heads:
        if head.nonfinite:
            yield Violation(
                name,
                f"{name}: {head.nonfinite} values of {head.head} are NaN or infinite, "
                f"{_at(head.worst)}",
                math.inf,
                head.worst,
            )
    if len(result.mask_values) < 2:
        yield Violation(
            name,
            f"{name} answers class {result.mask_values} for every pixel, the float32 network "
            f"{len(reference.mask_values)} classes",
            math.inf,
            Place(result.worst_slice.series, result.worst_slice.slice),
        )


def _mask_violation(result: EngineResult, limit: float) -> Violation:
    dice, worst = result.mask_dice or 0.0, result.worst_slice
    place = Place(worst.series, worst.slice)
    lowest = min(result.classes, key=lambda one: 1.0 if one.dice is None else one.dice)
    return Violation(
        result.engine,
        f"{result.engine}: Dice of the mask against the float32 mask is {dice:.5f}, expected at "
        f"least {limit:g}; lowest is {lowest.label} ({lowest.value}) with {lowest.dice:.5f}; "
        f"{result.differing_fraction:.3%} of the pixels differ, most of them {_at(place)}",
        (1 - dice) / max(1 - limit, 1e-6),
        place,
    )


def _class_violation(result: EngineResult, found: ClassAgreement, limit: float) -> Violation:
    dice = found.dice or 0.0
    return Violation(
        result.engine,
        f"{result.engine}: Dice of {found.label} ({found.value}) against the float32 mask is "
        f"{dice:.5f}, expected at least {limit:g}; {found.differing} pixels differ, most of them "
        f"{_at(found.worst)}",
        (1 - dice) / max(1 - limit, 1e-6),
        found.worst,
    )


def _judge_scores(result: EngineResult, limit: float) -> Iterator[Violation]:
    """Scores and embedding; uncertainty is rounded to 8 bits, which a distance cannot judge."""
    for head in result.heads:
        if head.head not in ("logits", "embedding") or head.nonfinite:
            continue
        if head.relative_l2 is None or head.relative_l2 > limit:
            measured = math.inf if head.relative_l2 is None else head.relative_l2
            yield Violation(
                result.engine,
                f"{result.engine}: relative L2 distance of {head.head} is {measured:.3g}, "
                f"expected at most {limit:g}; the largest difference is {head.max_abs:.3g} "
                f"{_at(head.worst)}",
                measured / max(limit, 1e-12),
                head.worst,
            )


def _judge_labels(
    result: EngineResult, reference: EngineResult, limit: float
) -> Iterator[Violation]:
    own, wanted = result.label_dice, reference.label_dice
    if own is None or wanted is None or wanted - own <= limit:
        return
    pairs = zip(result.labels, reference.labels, strict=True)
    worst, before = min(pairs, key=lambda pair: pair[0].dice - pair[1].dice)
    yield Violation(
        result.engine,
        f"{result.engine}: mean Dice against the labels falls from {wanted:.4f} to {own:.4f}, "
        f"expected a fall of at most {limit:g}; most for {worst.label} ({worst.value}) of "
        f"{worst.series}: from {before.dice:.4f} to {worst.dice:.4f}",
        (wanted - own) / max(limit, 1e-6),
    )


def _at(place: Place | None) -> str:
    return "nowhere" if place is None else f"in slice {place.slice} of {place.series}"

"""What one engine's answers add up to, batch by batch: answers, wanted ─▶ Tally ─▶ EngineResult."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import GateError
from export.parity.measures import Difference, class_counts, dice, difference
from export.parity.results import (
    ClassAgreement,
    EngineResult,
    HeadError,
    LabelScore,
    Place,
    Precision,
    SliceResult,
)

__all__ = ("MASK", "SCORES", "Exhibit", "Tally")

MASK, SCORES = "mask", "logits"
Heads = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Exhibit:
    """A slice on which an engine's mask differs.

    Attributes:
        engine: The engine.
        place: The slice.
        image: What the network saw, first channel [*canvas].
        expected: The float32 network's mask [*canvas].
        mask: The engine's.
    """

    engine: str
    place: Place
    image: NDArray[np.float32]
    expected: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class Tally:
    """Collects one engine's answers.

    Args:
        engine: Its name.
        precision: How it computes.
        labels: Names of the classes 1, 2, ...
        served: Whether it answers as a service.
        heads: Heads that it must answer.
    """

    def __init__(
        self,
        engine: str,
        precision: Precision,
        labels: Sequence[str],
        *,
        served: bool = False,
        heads: Sequence[str] = (MASK,),
    ) -> None:
        self.engine = engine
        self.scores: list[LabelScore] = []
        self._precision, self._labels, self._served, self._needed = precision, labels, served, heads
        self._places: list[Place] = []
        self._counts: list[NDArray[np.int64]] = []
        self._pixels = 0
        self._differences: dict[str, list[Difference]] = {}
        self._worst: dict[int, tuple[tuple[int, float], Exhibit]] = {}

    def add(
        self, places: Sequence[Place], images: NDArray[np.float32], answers: Heads, wanted: Heads
    ) -> None:
        """Adds the answers for some slices.

        Args:
            places: Where the slices are.
            images: What the network saw [N, channels, *canvas].
            answers: The engine's heads by name.
            wanted: The reference's.

        Raises:
            GateError: A head is missing, of another shape, or a mask has unknown classes.
        """
        self._check(answers, wanted)
        self._places += places
        mask, expected = answers[MASK], wanted[MASK]
        counts = class_counts(mask, expected, len(self._labels) + 1)
        self._counts.append(counts)
        self._pixels += mask.size
        found = {
            head: difference(answers[head], wanted[head])
            for head in wanted
            if head != MASK and head in answers
        }
        for head, one in found.items():
            self._differences.setdefault(head, []).append(one)
        distances = _slice_distances(found.get(SCORES), len(mask))
        for index, place in enumerate(places):
            exhibit = Exhibit(self.engine, place, images[index, 0], expected[index], mask[index])
            self._keep_worst(exhibit, counts[index], distances[index] or 0.0)

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        """The slice that differs most, and then the one that does so in each class."""
        kept = [self._worst[key][1] for key in sorted(self._worst)]
        return tuple({exhibit.place: exhibit for exhibit in kept}.values())

    def result(self) -> EngineResult:
        """Everything so far."""
        classes = len(self._labels) + 1
        counts = np.concatenate([np.zeros((0, 3, classes), dtype=np.int64), *self._counts])
        equal = int(counts[:, 0].sum())
        return EngineResult(
            engine=self.engine,
            precision=self._precision,
            served=self._served,
            heads=tuple(self._head(name, parts) for name, parts in self._differences.items()),
            classes=self._classes(counts),
            mask_dice=_finite(float(dice(counts[:, :, 1:].sum(axis=2, keepdims=True))[0])),
            mask_values=tuple(np.flatnonzero(counts[:, 1].sum(axis=0)).tolist()),
            differing_fraction=1 - equal / self._pixels if self._pixels else 0.0,
            labels=tuple(self.scores),
            slices=self._slices(counts),
        )

    def _keep_worst(self, exhibit: Exhibit, counts: NDArray[np.int64], distance: float) -> None:
        both, given, wanted = counts
        differing = given + wanted - 2 * both
        ranks = {int(key): (int(differing[key]), 0.0) for key in np.flatnonzero(differing)}
        ranks[0] = (int(wanted.sum() - both.sum()), distance)  # under 0 all classes together
        for key, rank in ranks.items():
            if key not in self._worst or rank > self._worst[key][0]:
                self._worst[key] = (rank, exhibit)

    def _check(self, answers: Heads, wanted: Heads) -> None:
        missing = [head for head in self._needed if head not in answers]
        if missing:
            raise GateError(f"{self.engine}: expected heads {[*self._needed]}, lacks {missing}")
        for head in set(answers) & set(wanted):
            if answers[head].shape != wanted[head].shape:
                raise GateError(
                    f"{self.engine}: expected {head} of shape {wanted[head].shape}, got "
                    f"{answers[head].shape}"
                )
        highest = int(answers[MASK].max())
        if highest > len(self._labels):
            raise GateError(
                f"{self.engine}: expected mask values 0 to {len(self._labels)}, got {highest}"
            )

    def _head(self, name: str, parts: list[Difference]) -> HeadError:
        whole = Difference.join(parts)
        broken = int(whole.nonfinite.sum())
        worst = int(np.argmax(np.where(whole.nonfinite > 0, np.inf, whole.max_abs)))
        return HeadError(
            head=name,
            max_abs=None if broken else float(whole.max_abs.max()),
            relative_l2=None if broken else _finite(whole.relative_l2),
            nonfinite=broken,
            worst=self._places[worst],
        )

    def _classes(self, counts: NDArray[np.int64]) -> tuple[ClassAgreement, ...]:
        pooled = dice(counts)
        differing = counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]
        return tuple(
            ClassAgreement(
                value=value,
                label=label,
                dice=_finite(float(pooled[value])),
                pixels=int(counts[:, 2, value].sum()),
                differing=int(differing[:, value].sum()),
                worst=self._places[int(differing[:, value].argmax())]
                if differing[:, value].any()
                else None,
            )
            for value, label in enumerate(self._labels, start=1)
        )

    def _slices(self, counts: NDArray[np.int64]) -> tuple[SliceResult, ...]:
        parts = self._differences.get(SCORES)
        whole = Difference.join(parts) if parts else None
        distances = _slice_distances(whole, len(self._places))
        differing = counts[:, 1].sum(axis=1) - counts[:, 0].sum(axis=1)
        return tuple(
            SliceResult(place.series, place.slice, int(pixels), distance)
            for place, pixels, distance in zip(self._places, differing, distances, strict=True)
        )


def _slice_distances(found: Difference | None, slices: int) -> list[float | None]:
    if found is None:
        return [None] * slices
    return [_finite(found.slice_relative_l2(index)) for index in range(slices)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

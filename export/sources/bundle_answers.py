"""How a MONAI bundle's postprocessing turns score channels into a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import SourceError
from export.sources.network import Decision, DecisionKind
from export.sources.transform_values import Arguments, Inexpressible
from export.sources.transforms import flat, transform_name

__all__ = ("Answers", "read_answers")

# These bring an answer to a file or to its own grid, which is done elsewhere here.
_ELSEWHERE = (
    "Activations",
    "AsDiscrete",
    "CopyItems",
    "DeleteItems",
    "EnsureType",
    "Invert",
    "SaveImage",
    "SelectItems",
    "ToDevice",
    "ToTensor",
)


@dataclass(frozen=True)
class Answers:
    """What a network's scores mean.

    Attributes:
        decision: How scores become the mask.
        labels: Name of each mask value, background first; empty where the bundle does not say.
        classes: Number of mask values.
        unread: Transforms of the finished mask, which the served model does not do.
    """

    decision: Decision
    labels: tuple[str, ...]
    classes: int
    unread: tuple[str, ...]


def read_answers(item: Any, scores: int, names: Sequence[str], path: Path) -> Answers:
    """Reads ``postprocessing``.

    Args:
        item: See ``BundleConfig.item``; None means that the bundle has none, and that several
            score channels are classes.
        scores: Score channels.
        names: Their names.
        path: The configuration, for messages.

    Raises:
        SourceError: No rule of ours makes the same mask.
    """
    sigmoid = threshold = argmax = False
    unread = []
    for transform in flat(item or []):
        name = transform_name(transform)
        if name not in _ELSEWHERE:
            unread.append(name)
            continue
        arguments = Arguments(transform)
        try:
            sigmoid |= name == "Activations" and arguments.flag("sigmoid")
            if name == "AsDiscrete":
                argmax |= arguments.flag("argmax")
                threshold |= _is_half(arguments)
        except Inexpressible as error:
            raise SourceError(f"{path}: postprocessing: {name}: {error}") from error
    if scores == 1:
        return _one_region(names, sigmoid, path, tuple(unread))
    if (sigmoid or threshold) and not argmax:
        raise SourceError(
            f"{path}: postprocessing gives each of {scores} channels a threshold of its own, so "
            "that they may overlap, and does not say which covers which; expected an argmax, or "
            "one channel"
        )
    labels = tuple(names)
    if labels and len(labels) != scores:
        raise SourceError(f"{path}: {scores} score channels, but channel_def names {labels}")
    return Answers(Decision(), labels, scores, tuple(unread))


def _one_region(
    names: Sequence[str], sigmoid: bool, path: Path, unread: tuple[str, ...]
) -> Answers:
    """One channel is one region: it is there where its probability is above a half."""
    if not sigmoid:
        raise SourceError(
            f"{path}: one score channel, but no Activationsd with sigmoid in postprocessing: "
            "whether the network answers scores or probabilities is not known"
        )
    labels = ("background", *names) if len(names) == 1 else tuple(names)
    if len(labels) not in (0, 2):
        raise SourceError(f"{path}: one score channel, but channel_def names {labels}")
    return Answers(Decision(DecisionKind.REGIONS, (1,)), labels, 2, unread)


def _is_half(arguments: Arguments) -> bool:
    if arguments.get("threshold") is None:
        return False
    threshold = arguments.number("threshold")
    if threshold != 0.5:
        raise Inexpressible(f"threshold is {threshold:g}; expected 0.5")
    return True

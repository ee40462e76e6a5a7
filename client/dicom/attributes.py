"""Reads single DICOM attributes of untrusted datasets as checked numbers and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from pydicom import Dataset
from pydicom.datadict import dictionary_description, tag_for_keyword

from client.errors import RefusalCode, Rejected

__all__ = (
    "Attributes",
    "integer",
    "invalid",
    "items",
    "name_of",
    "number",
    "numbers",
    "text",
    "value",
)


class Attributes(Protocol):
    """What attributes are read from: a parsed dataset, or a plain file's elements."""

    def get(self, keyword: str, /) -> Any:
        """Return the attribute's value, None where it is absent."""


@cache
def name_of(keyword: str) -> str:
    """The attribute as people look it up: ``Pixel Spacing (0028,0030)``."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword  # noqa: S101
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def invalid(keyword: str, expected: str) -> Rejected:
    """The refusal for an attribute that breaks an expectation; never quotes the value."""
    return Rejected(
        RefusalCode.INVALID_ATTRIBUTE,
        f"{name_of(keyword)}: expected {expected}, but it is missing, malformed or out of range; "
        "correct the attribute or send the original instances.",
    )


def value(dataset: Attributes, keyword: str) -> Any:
    """The attribute's value, None where it is absent or empty.

    Raises:
        Rejected: ``INVALID_ATTRIBUTE``: the bytes are not of the attribute's type.
    """
    try:
        found = dataset.get(keyword)
    except Exception as error:  # pydicom converts lazily and names no error classes
        raise invalid(keyword, "a value of its own type") from error
    empty = found is None or (isinstance(found, Sequence) and len(found) == 0)
    return None if empty else found


def text(dataset: Attributes, keyword: str) -> str:
    """The attribute as stripped text, several values joined by backslashes, "" where absent."""
    found = value(dataset, keyword)
    if found is None:
        return ""
    parts = [found] if isinstance(found, str) or not isinstance(found, Sequence) else found
    return "\\".join(str(part).strip() for part in parts)


def numbers(dataset: Attributes, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite numbers, None where the attribute is absent or empty.

    Raises:
        Rejected: ``INVALID_ATTRIBUTE``: another count, not a number, NaN or infinite.
    """
    found = value(dataset, keyword)
    if found is None:
        return None
    parts = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    expected = f"{count} finite numbers" if count > 1 else "a finite number"
    try:
        result = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(keyword, expected) from error
    if len(result) != count or not all(map(math.isfinite, result)):
        raise invalid(keyword, expected)
    return result


def number(dataset: Attributes, keyword: str) -> float | None:
    """One finite number, None where the attribute is absent or empty."""
    found = numbers(dataset, keyword, 1)
    return None if found is None else found[0]


def integer(dataset: Attributes, keyword: str, low: int, high: int) -> int:
    """A whole number within limits; absent counts as malformed.

    Raises:
        Rejected: ``INVALID_ATTRIBUTE``.
    """
    found = number(dataset, keyword)
    if found is None or found != int(found) or not low <= found <= high:
        raise invalid(keyword, f"a whole number from {low} to {high}")
    return int(found)


def items(dataset: Attributes, keyword: str) -> Sequence[Dataset]:
    """Items of a sequence, empty where it is absent.

    Raises:
        Rejected: ``INVALID_ATTRIBUTE``: the attribute is not a sequence.
    """
    found = value(dataset, keyword)
    if found is None:
        return ()
    if not isinstance(found, Sequence) or not all(isinstance(item, Dataset) for item in found):
        raise invalid(keyword, "a sequence of items")
    return found

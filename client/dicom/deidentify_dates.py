"""Moves dates by days so that the distances between them stay: PS3.15, E.3.6, Modified Dates."""

from __future__ import annotations

import re
from datetime import date, timedelta

__all__ = ("shifted",)

_DATE = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})", re.ASCII)
_TIME = re.compile(r"\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)?", re.ASCII)
_DATE_TIME = re.compile(r"(\d{8})((?:\d{2}){0,3}(?:\.\d{1,6})?(?:[+-]\d{4})?)", re.ASCII)


def shifted(value: str, vr: str, days: int) -> str | None:
    """Return a DA, DT or TM value moved into the past, None if it is not one whole date or time.

    Times of day stay: days are whole. Dates without a day, ranges and everything that is not what
    its VR says (PS3.5, 6.2) give None.
    """
    value = value.strip(" \0")
    if vr == "TM":
        return value if _TIME.fullmatch(value) else None
    if vr == "DA":
        found = _DATE.fullmatch(value)
        return None if found is None else _moved("".join(found.group(1, 3, 4)), days)
    found = _DATE_TIME.fullmatch(value) if vr == "DT" else None
    if found is None:
        return None
    moved = _moved(found[1], days)
    return None if moved is None else moved + found[2]


def _moved(text: str, days: int) -> str | None:
    try:
        moved = date(int(text[:4]), int(text[4:6]), int(text[6:])) - timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04d}{moved:%m%d}"

"""DICOM's table of what de-identification does to each attribute: PS3.15 table E.1-1, 2026c.

    confidentiality.csv ──▶ Row per tag ──plus SOP class and nesting level──▶ one action

The files are generated: scripts/confidentiality_table.py says from what.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

__all__ = ("EDITION", "Action", "Row", "basic_action", "required_types", "table")

EDITION = "2026c"
"""Edition of DICOM whose table is applied."""


class Action(StrEnum):
    """What is done to an attribute; the letters of PS3.15 table E.1-1a."""

    DUMMY = "D"
    """Replaced by a value that is valid and says nothing."""
    EMPTY = "Z"
    """Replaced by a value of length zero, or by a pseudonym."""
    REMOVE = "X"
    """Gone."""
    KEEP = "K"
    """Unchanged; inside a sequence, every item is treated like the data set."""
    CLEAN = "C"
    """Replaced by a value of similar meaning: dates are shifted."""
    UIDS = "U"
    """Every UID is replaced by the one that stands for it everywhere; sequences are kept."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        tag: Group and element.
        name: The attribute's name.
        vr: Value representation (PS3.6), "" where no dictionary at hand knows the attribute.
        basic: Code of the Basic Profile: D, Z, X, U, or several joined by "/".
        device: Code of the Retain Device Identity Option: "K", "C" or "".
        characteristics: The same of the Retain Patient Characteristics Option.
        dates: The same of the option Retain Longitudinal Temporal Information, Modified Dates.
    """

    tag: int
    name: str
    vr: str
    basic: str
    device: str
    characteristics: str
    dates: str


@cache
def table() -> Mapping[int, Row]:
    """Return every row that names one attribute, by tag."""
    return {
        int(row["tag"], 16): Row(int(row["tag"], 16), *list(row.values())[1:])
        for row in _read("confidentiality.csv")
    }


@cache
def required_types() -> Mapping[str, tuple[frozenset[int], frozenset[int]]]:
    """Return, by SOP Class UID, which attributes with a joined code have type 1 and type 2.

    Conditional types count as their unconditional ones: an attribute that is present is taken to
    be required. Only the data set's own level is listed.
    """
    return {
        row["sop_class_uid"]: (_tags(row["type_1"]), _tags(row["type_2"]))
        for row in _read("confidentiality_types.csv")
    }


def basic_action(row: Row, sop_class_uid: str, *, nested: bool) -> Action:
    """Return the Basic Profile's action, joined codes resolved by the attribute's type.

    "X/Z/D" is X for type 3, Z for type 2 and D for type 1 (PS3.15 table E.1-1a). Where the type is
    not known, inside a sequence or for a SOP class that PS3.3 does not define, the last code is
    taken: it is valid for every type, and the original value is gone all the same.
    """
    codes = [Action(code.removesuffix("*")) for code in row.basic.split("/")]
    known = None if nested else required_types().get(sop_class_uid)
    if known is None or row.tag in known[0]:
        return codes[-1]
    if row.tag in known[1]:
        return Action.EMPTY if Action.EMPTY in codes else codes[-1]
    return codes[0]


def _read(name: str) -> Iterator[dict[str, str]]:
    text = (files("client.dicom") / name).read_text(encoding="utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))


def _tags(cell: str) -> frozenset[int]:
    return frozenset(int(tag, 16) for tag in cell.split())

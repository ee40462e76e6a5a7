"""The DICOM files of the wheels pydicom and pydicom-data, and the table of what they end as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import data_store  # type: ignore[import-untyped]
import pydicom
from pydicom import dcmread
from pydicom.uid import UID

from client.dicom.quiet import quiet
from client.dicom.reader import read_study
from client.dicom.routing import route
from client.errors import Rejected
from client.limits import ReadLimits
from preprocess.spec import ModelSpec

__all__ = ("Outcome", "Sample", "corpus", "outcome_table", "read_and_route")

FOLDERS = {
    "pydicom": Path(pydicom.__file__).parent / "data",
    "pydicom-data": Path(data_store.__file__).parent / "data",
}
SERIES_FOLDER = "dicomdirtests"
"""Its innermost folders hold whole series; each of them is a sample of its own too."""


@dataclass(frozen=True)
class Sample:
    """Files that are sent together.

    Attributes:
        name: Wheel and path inside it, the same on every machine.
        paths: One file, or all files of a series' folder.
    """

    name: str
    paths: tuple[Path, ...]

    def files(self) -> list[tuple[str, bytes]]:
        """Names and contents as the reader takes them."""
        return [(path.name, path.read_bytes()) for path in self.paths]


@dataclass(frozen=True)
class Outcome:
    """What became of a sample: "RESULT" or a refusal's code, and its reason or model."""

    sample: str
    code: str
    reason: str


def corpus() -> list[Sample]:
    """Every DICOM file, then every folder that holds a series, in a stable order."""
    singles = []
    folders: dict[str, list[Path]] = {}
    for wheel, root in FOLDERS.items():
        for path in sorted(root.rglob("*")):
            if not path.is_file() or not _is_dicom(path):
                continue
            place = path.relative_to(root)
            singles.append(Sample(f"{wheel}/{place.as_posix()}", (path,)))
            if SERIES_FOLDER in place.parts and len(place.parts) > 4:
                folders.setdefault(f"{wheel}/{place.parent.as_posix()}/*", []).append(path)
    groups = [Sample(name, tuple(paths)) for name, paths in folders.items() if len(paths) > 1]
    return singles + groups


def read_and_route(sample: Sample, specs: Sequence[ModelSpec]) -> list[Outcome]:
    """Reads a sample as the worker does, and routes what could be read."""
    modalities = {modality for spec in specs for modality in spec.route.modalities}
    content = read_study(sample.files(), ReadLimits(), modalities)
    outcomes = [Outcome(sample.name, str(r.code), r.reason) for r in content.refusals]
    for series in content.series:
        try:
            outcomes.append(Outcome(sample.name, "RESULT", route(series, specs).name))
        except Rejected as refusal:
            outcomes.append(Outcome(sample.name, str(refusal.code), refusal.reason))
    return outcomes


def outcome_table(samples: Sequence[Sample], outcomes: Iterable[Outcome]) -> str:
    """The page ``docs/corpus-outcomes.md``."""
    kinds = {sample.name: _kind(sample.paths[0]) for sample in samples}
    rows = sorted(outcomes, key=lambda outcome: (outcome.sample, outcome.code, outcome.reason))
    totals = Counter(outcome.code for outcome in rows)
    lines = [
        "# What the corpus ends as",
        "",
        f"{len(samples)} samples (single files, and the series folders of dicomdirtests) of the",
        f"wheels pydicom {pydicom.__version__} and pydicom-data 1.0.0, with the models in service.",
        "Written by `python -m scripts.corpus_table`; do not edit.",
        "",
        "| outcome | samples |",
        "|---|---|",
        *(f"| {code} | {count} |" for code, count in sorted(totals.items())),
        "",
        "| sample | transfer syntax | modality | outcome | reason |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        syntax, modality = kinds[row.sample]
        lines.append(f"| {row.sample} | {syntax} | {modality} | {row.code} | {row.reason} |")
    return "\n".join(lines) + "\n"


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".dcm" or file.read(132)[128:] == b"DICM"


def _kind(path: Path) -> tuple[str, str]:
    """Transfer syntax and modality, as far as the file tells them."""
    with quiet():
        dataset = dcmread(path, force=True, specific_tags=["Modality"])
        syntax = dataset.file_meta.get("TransferSyntaxUID") if "file_meta" in dir(dataset) else None
        return UID(syntax).name if syntax else "-", str(dataset.get("Modality") or "-")

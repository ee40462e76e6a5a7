"""What a comparison found, as frozen records: ParityReport ─▶ JSON ─▶ ParityReport."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Final, Literal

from export.errors import GateError
from preprocess.errors import SpecError
from preprocess.parsing import build

__all__ = (
    "SCHEMA",
    "ClassAgreement",
    "EngineResult",
    "HeadError",
    "LabelScore",
    "ParityReport",
    "Place",
    "Precision",
    "SeriesFacts",
    "SliceResult",
    "read_parity",
    "write_parity",
)

SCHEMA: Final = "hounsfield.parity/1"


class Precision(StrEnum):
    """How an engine computes, which decides what its answers may differ by."""

    F32 = "f32"
    HALF = "half"
    INT8 = "int8"


@dataclass(frozen=True)
class Place:
    """One slice of one series, counted from 0 in the series."""

    series: str
    slice: int


@dataclass(frozen=True)
class HeadError:
    """How far one head's values lie from the reference's.

    Attributes:
        head: Name of the output.
        max_abs: Largest absolute difference; None where a value is not finite.
        relative_l2: Relative L2 distance over everything that was compared; None likewise, or
            where the reference is zero and the answer is not.
        nonfinite: Values that are NaN or infinite.
        worst: Where the largest difference is.
    """

    head: str
    max_abs: float | None
    relative_l2: float | None
    nonfinite: int
    worst: Place


@dataclass(frozen=True)
class ClassAgreement:
    """One class of the mask against the reference's mask.

    Attributes:
        value: The class.
        label: Its name.
        dice: Pooled over all slices; None where neither mask has the class.
        pixels: Pixels of the class in the reference.
        differing: Pixels that only one of the two has in the class.
        worst: Slice with most of those; None where there are none.
    """

    value: int
    label: str
    dice: float | None
    pixels: int
    differing: int
    worst: Place | None


@dataclass(frozen=True)
class LabelScore:
    """One class of a labelled series, on its own grid, islands removed as in service.

    Attributes:
        series: The series.
        value: The class, which the labels of the series have.
        label: Its name.
        dice: Against the labels.
        hd95_mm: 95th percentile Hausdorff distance; None where the mask lacks the class.
    """

    series: str
    value: int
    label: str
    dice: float
    hd95_mm: float | None


@dataclass(frozen=True)
class SliceResult:
    """One slice: mask pixels that differ, relative L2 of the class scores where compared."""

    series: str
    slice: int
    differing_pixels: int
    scores_l2: float | None


@dataclass(frozen=True)
class EngineResult:
    """One engine.

    Attributes:
        engine: Its name.
        precision: How it computes.
        served: Whether it answered as a service, own preprocessing included.
        heads: Every head that both it and the reference have, masks excepted.
        classes: Every class but the background.
        mask_dice: Dice of all classes taken together; None where neither mask has any.
        mask_values: Classes that its masks hold at all.
        differing_fraction: Part of all mask pixels that differ from the reference's.
        labels: Every class of every labelled series.
        slices: Every slice.
    """

    engine: str
    precision: Precision
    served: bool
    heads: tuple[HeadError, ...]
    classes: tuple[ClassAgreement, ...]
    mask_dice: float | None
    mask_values: tuple[int, ...]
    differing_fraction: float
    labels: tuple[LabelScore, ...]
    slices: tuple[SliceResult, ...]

    @property
    def label_dice(self) -> float | None:
        """Mean Dice over classes and labelled series; None without labels."""
        return fmean(score.dice for score in self.labels) if self.labels else None

    @property
    def worst_slice(self) -> SliceResult:
        """Most differing pixels; among equals the largest distance of the class scores."""
        return max(self.slices, key=lambda one: (one.differing_pixels, one.scores_l2 or 0.0))


@dataclass(frozen=True)
class SeriesFacts:
    """What was compared on.

    Attributes:
        name: Where it came from.
        slices: Slices that were compared.
        of: Slices of the whole series.
        rows: Rows of its grid.
        columns: Columns of its grid.
        plane: Plane of its slices.
        labelled: Whether there are labels.
        synthetic: Whether it was made up.
    """

    name: str
    slices: int
    of: int
    rows: int
    columns: int
    plane: str
    labelled: bool
    synthetic: bool


@dataclass(frozen=True)
class ParityReport:
    """One comparison, complete.

    Attributes:
        schema: Version of this record.
        model: Name of the model.
        spec_sha256: Hash of its description.
        series: What was compared on.
        reference: The float32 network itself: its masks and its scores against labels.
        engines: What was compared with it.
        facts: Hashes, versions and the machine, as text for people.
    """

    schema: Literal["hounsfield.parity/1"]
    model: str
    spec_sha256: str
    series: tuple[SeriesFacts, ...]
    reference: EngineResult
    engines: tuple[EngineResult, ...]
    facts: dict[str, str]


def write_parity(report: ParityReport, path: Path) -> None:
    """Writes the report as JSON; the folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(asdict(report), indent=1, allow_nan=False)
    path.write_text(content + "\n", encoding="utf-8")


def read_parity(path: Path) -> ParityReport:
    """Reads a report strictly.

    Raises:
        GateError: Not a report of this schema.
    """
    try:
        return build(ParityReport, json.loads(path.read_text(encoding="utf-8")), "report")
    except (OSError, ValueError, SpecError) as error:
        raise GateError(
            f"{path}: expected a parity report of schema {SCHEMA}: {error}; "
            "`python -m export verify` writes one"
        ) from error

"""What one run measured, as JSON and back: the one record that every table is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from client.errors import ConfigurationError
from preprocess.parsing import build

__all__ = (
    "SCHEMA",
    "Agreement",
    "Machine",
    "Measurement",
    "Report",
    "Round",
    "Span",
    "Workload",
    "read_report",
    "spans",
    "write_report",
)

SCHEMA: Final = "hounsfield.bench/1"


@dataclass(frozen=True)
class Span:
    """Seconds that something took: CPU seconds of a process, wall seconds of a stage."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """One load in one round.

    Attributes:
        way: ``raw engine``, ``ensemble`` or ``whole way``.
        in_flight: Slices under way at a time, or studies on the whole way.
        slices: Slices done.
        wall_s: From the first one sent to the last one received.
        latency_p50_s: Median time of one slice, or of one study on the whole way.
        cpu_s: CPU seconds of every process that took part, its children included.
        others_cpu_s: CPU seconds that the machine spent on anything else meanwhile.
        stages_s: Whole way: wall seconds of each stage, the mean over its studies.
    """

    way: str
    in_flight: int
    slices: int
    wall_s: float
    latency_p50_s: float
    cpu_s: tuple[Span, ...]
    others_cpu_s: float
    stages_s: tuple[Span, ...] = ()

    @property
    def slices_per_s(self) -> float:
        """Throughput."""
        return self.slices / self.wall_s

    @property
    def cpu_s_per_slice(self) -> float:
        """CPU seconds of all processes together, for one slice."""
        return sum(span.seconds for span in self.cpu_s) / self.slices


@dataclass(frozen=True)
class Round:
    """Every load once, one after the other.

    Attributes:
        load_average: Of the machine just before, over 1, 5 and 15 minutes.
        measurements: In the order they ran.
    """

    load_average: tuple[float, float, float]
    measurements: tuple[Measurement, ...]

    def of(self, way: str, in_flight: int) -> Measurement:
        """The measurement of one load."""
        return next(
            one for one in self.measurements if (one.way, one.in_flight) == (way, in_flight)
        )


@dataclass(frozen=True)
class Machine:
    """Where it ran. Versions are ``name version``."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    gpu: str
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Workload:
    """What ran.

    Attributes:
        model: Name of the model.
        network_sha256: Hash of its ONNX file.
        precision: What the engine computes in.
        sample: Where the images came from.
        slices: Slices of the series.
        rows: Rows of a slice.
        columns: Columns of a slice.
        study_bytes: Length of the study's files.
    """

    model: str
    network_sha256: str
    precision: str
    sample: str
    slices: int
    rows: int
    columns: int
    study_bytes: int


@dataclass(frozen=True)
class Agreement:
    """Whether the ways gave the same answer.

    Attributes:
        pixels: Pixels compared on the network's canvas.
        ensemble_equal: Part of them with the same class in the ensemble (DALI preprocessing) and
            the raw engine (NumPy reference preprocessing).
        ensemble_equal_in_structures: The same over pixels that either puts into a structure.
        voxels: Voxels compared on the native grid.
        whole_way_equal: Part of them with the same class in the DICOM SEG that came back and in
            the ensemble's masks.
    """

    pixels: int
    ensemble_equal: float
    ensemble_equal_in_structures: float
    voxels: int
    whole_way_equal: float


@dataclass(frozen=True)
class Report:
    """One run, complete."""

    schema: Literal["hounsfield.bench/1"]
    created_at: str
    command: str
    duration_s: float
    machine: Machine
    workload: Workload
    agreement: Agreement
    rounds: tuple[Round, ...]


def spans(seconds: Mapping[str, float]) -> tuple[Span, ...]:
    """Named seconds as they are recorded, to the tenth of a millisecond."""
    return tuple(Span(name, round(value, 4)) for name, value in seconds.items())


def write_report(report: Report, summary: list[dict[str, Any]], path: Path) -> None:
    """Writes the report as JSON.

    Args:
        report: What was measured.
        summary: What follows from it, for readers that only want that.
        path: The file; its folder is made when missing.
    """
    content = asdict(report) | {"summary": summary}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_report(path: Path) -> tuple[Report, list[dict[str, Any]]]:
    """Reads a report strictly.

    Returns:
        The report, and the summary as it stands in the file.

    Raises:
        ConfigurationError: Not a report of this schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        summary = content.pop("summary")
        return build(Report, content, "report"), summary
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{path.name}: expected a report of schema {SCHEMA}: {error}. Make one with "
            "`python -m loadtest.bench --quick --out FILE`."
        ) from error

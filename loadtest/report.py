"""What one run measured, as JSON and back: the one record that every table is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from client.errors import ConfigurationError
from loadtest.loads import Load
from preprocess.parsing import build

__all__ = (
    "SCHEMA",
    "Agreement",
    "Engine",
    "Large",
    "Machine",
    "Measurement",
    "Memory",
    "Report",
    "Round",
    "Span",
    "Tier",
    "Urgent",
    "Workload",
    "read_report",
    "spans",
    "write_report",
)

SCHEMA: Final = "hounsfield.bench/2"


@dataclass(frozen=True)
class Span:
    """Seconds that something took: CPU seconds of a process, wall seconds of a stage."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Memory:
    """Highest proportional set size of a process and its descendants, as sampled meanwhile.

    Attributes:
        name: As in ``Measurement.cpu_s``; ``all`` is the peak of their sum.
        mib: MiB.
    """

    name: str
    mib: float


@dataclass(frozen=True)
class Measurement:
    """One load in one turn.

    Attributes:
        way: As in ``Load``.
        precision: As in ``Load``.
        in_flight: Slices under way at a time, or studies where a way takes whole studies.
        slices: Slices done.
        wall_s: From the first one sent to the last one received.
        latency_p50_s: Median time of one unit.
        latency_p99_s: 99th percentile of it.
        units: How many latencies those two come from.
        cpu_s: CPU seconds of every process that took part, its children included.
        others_cpu_s: CPU seconds that the machine spent on anything else meanwhile.
        memory: Peaks of the same processes.
        stages_s: Whole way: wall seconds of each stage, the mean over its studies.
    """

    way: str
    precision: str
    in_flight: int
    slices: int
    wall_s: float
    latency_p50_s: float
    latency_p99_s: float
    units: int
    cpu_s: tuple[Span, ...]
    others_cpu_s: float
    memory: tuple[Memory, ...] = ()
    stages_s: tuple[Span, ...] = ()

    @property
    def slices_per_s(self) -> float:
        """Throughput."""
        return self.slices / self.wall_s

    @property
    def cpu_s_per_slice(self) -> float:
        """CPU seconds of all processes together, for one slice."""
        return sum(span.seconds for span in self.cpu_s) / self.slices

    @property
    def peak_mib(self) -> float:
        """Peak of all processes together; 0 where nothing was sampled."""
        return next((one.mib for one in self.memory if one.name == "all"), 0.0)

    def is_of(self, load: Load) -> bool:
        """Whether it measured this load."""
        return (self.way, self.precision, self.in_flight) == (
            load.way,
            load.precision,
            load.in_flight,
        )


@dataclass(frozen=True)
class Tier:
    """CPU time of the client tier's steps in one process, on the enlarged series.

    Attributes:
        slices: Slices of the series.
        steps: CPU seconds of each step for all slices.
    """

    slices: int
    steps: tuple[Span, ...]


@dataclass(frozen=True)
class Large:
    """One large study by itself on the whole way, and the raw engine on the same slices.

    Attributes:
        slices: Slices of the study.
        study_bytes: Length of its files.
        precision: As in ``Load``.
        raw_s: Wall seconds of the raw engine with 16 in flight.
        whole_s: Wall seconds of the whole way.
        cpu_s: CPU seconds of every process on the whole way.
        stages_s: Wall seconds of its stages.
        worker_idle_mib: The worker and its children before: proportional set size.
        worker_peak_mib: Their highest meanwhile.
    """

    slices: int
    study_bytes: int
    precision: str
    raw_s: float
    whole_s: float
    cpu_s: tuple[Span, ...]
    stages_s: tuple[Span, ...]
    worker_idle_mib: float
    worker_peak_mib: float


@dataclass(frozen=True)
class Urgent:
    """STAT studies one after another, with and without a full routine queue.

    Attributes:
        slices: Slices of a STAT study.
        precision: As in ``Load``.
        idle_s: Time of each, from the first byte read to the result decrypted.
        busy_s: The same while routine studies wait.
        routine_waiting: Fewest unfinished routine studies seen at the start of a STAT study.
    """

    slices: int
    precision: str
    idle_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    routine_waiting: int


@dataclass(frozen=True)
class Round:
    """Every load, one after the other; what a quick run leaves out is None.

    Attributes:
        load_average: Of the machine just before, over 1, 5 and 15 minutes.
        measurements: In the order they ran.
        tier: The client tier's steps.
        large: A large study by itself.
        urgent: STAT studies.
    """

    load_average: tuple[float, float, float]
    measurements: tuple[Measurement, ...]
    tier: Tier | None = None
    large: Large | None = None
    urgent: Urgent | None = None

    def pairs(self, load: Load) -> list[tuple[Measurement, Measurement]]:
        """Each measurement of a load with the raw engine's nearest in time; none without one."""
        raws = [place for place, one in enumerate(self.measurements) if one.is_of(load.raw)]
        if not raws:
            return []
        return [
            (one, self.measurements[min(raws, key=lambda raw: abs(raw - place))])
            for place, one in enumerate(self.measurements)
            if one.is_of(load)
        ]


@dataclass(frozen=True)
class Machine:
    """Where it ran. Versions are ``name version``."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """One precision that was served.

    Attributes:
        precision: As in ``Load``.
        engine: What the server says it computes with.
        network_sha256: Hash of the ONNX file.
        admitted: What the export's comparison said: whether this precision may go into service.
    """

    precision: str
    engine: str
    network_sha256: str
    admitted: bool


@dataclass(frozen=True)
class Workload:
    """What ran.

    Attributes:
        model: Name of the model.
        engines: The precisions.
        sample: Where the images came from.
        slices: Slices of the series.
        rows: Rows of a slice.
        columns: Columns of a slice.
        study_bytes: Length of the study's files.
    """

    model: str
    engines: tuple[Engine, ...]
    sample: str
    slices: int
    rows: int
    columns: int
    study_bytes: int

    def engine(self, precision: str) -> Engine:
        """The engine of a precision."""
        return next(one for one in self.engines if one.precision == precision)


@dataclass(frozen=True)
class Agreement:
    """Whether two ways gave the same answer.

    Attributes:
        way: As in ``Load``.
        precision: As in ``Load``.
        reference: What it is compared with.
        pixels: Pixels, or voxels of the native grid, compared.
        equal: Part of them with the same class.
        equal_in_structures: The same over pixels that either puts into a structure.
    """

    way: str
    precision: str
    reference: str
    pixels: int
    equal: float
    equal_in_structures: float


@dataclass(frozen=True)
class Report:
    """One run, as far as it went.

    Attributes:
        schema: Version of this record.
        created_at: When it began, UTC, ISO 8601.
        command: How it was asked for.
        duration_s: How long it took so far.
        rounds_wanted: So many rounds make it complete.
        machine: Where.
        workload: What.
        loads: What is measured, in the order of a round.
        peers_missing: Alternatives that were asked for and are not installed.
        gpu: What was found and done on a GPU.
        agreement: Whether the answers are the same.
        rounds: Those that are complete.
    """

    schema: Literal["hounsfield.bench/2"]
    created_at: str
    command: str
    duration_s: float
    rounds_wanted: int
    machine: Machine
    workload: Workload
    loads: tuple[Load, ...]
    peers_missing: tuple[str, ...]
    gpu: str
    agreement: tuple[Agreement, ...]
    rounds: tuple[Round, ...]

    @property
    def distinct_loads(self) -> tuple[Load, ...]:
        """Each load once."""
        return tuple(dict.fromkeys(self.loads))


def spans(seconds: Mapping[str, float]) -> tuple[Span, ...]:
    """Named seconds as they are recorded, to the tenth of a millisecond."""
    return tuple(Span(name, round(value, 4)) for name, value in seconds.items())


def write_report(report: Report, summary: Mapping[str, Any], path: Path) -> None:
    """Writes the report as JSON, whole or not at all.

    Args:
        report: What was measured.
        summary: What follows from it, for readers that only want that.
        path: The file; its folder is made when missing.
    """
    content = asdict(report) | {"summary": summary}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def read_report(path: Path) -> tuple[Report, dict[str, Any]]:
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
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"{path.name}: expected a report of schema {SCHEMA}: {error}. Make one with "
            "`python -m loadtest.bench --out FILE`."
        ) from error

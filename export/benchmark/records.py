"""What one benchmark of engines measured, as frozen records: BenchReport ─▶ JSON ─▶ BenchReport."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from export.errors import ExportError
from preprocess.errors import SpecError
from preprocess.parsing import build

__all__ = ("SCHEMA", "BatchBench", "BenchReport", "EngineBench", "Skipped", "read_bench",
           "write_bench")  # fmt: skip

SCHEMA: Final = "hounsfield.engines/1"


@dataclass(frozen=True)
class BatchBench:
    """One engine at one batch size.

    Attributes:
        batch: Images in one call.
        images_per_s: Median over the rounds.
        best_images_per_s: Fastest single call: the minimum that the machine allows.
        cpu_s_per_image: CPU seconds of the process for an image, median over the rounds.
        calls: Calls that were timed.
        peak_bytes: Largest resident set of the process up to here, libraries included; batches
            grow, so that it is this one's.
    """

    batch: int
    images_per_s: float
    best_images_per_s: float
    cpu_s_per_image: float
    calls: int
    peak_bytes: int


@dataclass(frozen=True)
class EngineBench:
    """One engine.

    Attributes:
        name: For people.
        threads: CPU threads it was allowed; 0 left the choice to it.
        process_threads: Threads that its process had at the end.
        load_s: From the file to the first answer, compilation included.
        imports_bytes: Resident set before it was loaded: Python and libraries.
        latency_p50_s: Median time of a call with one image.
        latency_p99_s: 99th percentile of it.
        batches: Every batch size.
    """

    name: str
    threads: int
    process_threads: int
    load_s: float
    imports_bytes: int
    latency_p50_s: float
    latency_p99_s: float
    batches: tuple[BatchBench, ...]

    @property
    def best(self) -> BatchBench:
        """The batch size with the highest throughput."""
        return max(self.batches, key=lambda one: one.images_per_s)


@dataclass(frozen=True)
class Skipped:
    """An engine that could not run here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class BenchReport:
    """One run, complete.

    Attributes:
        schema: Version of this record.
        model: Name of the model.
        shape: Channels and canvas of an image.
        rounds: How often every engine had its turn at every batch size.
        duration_s: Seconds that the whole took.
        others_share: Part of the machine's cores that other processes used meanwhile.
        engines: What was measured.
        skipped: What was not.
        facts: Machine, versions, hashes, as text for people.
    """

    schema: Literal["hounsfield.engines/1"]
    model: str
    shape: tuple[int, ...]
    rounds: int
    duration_s: float
    others_share: float
    engines: tuple[EngineBench, ...]
    skipped: tuple[Skipped, ...]
    facts: dict[str, str]


def write_bench(report: BenchReport, path: Path) -> None:
    """Writes the report as JSON; the folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(asdict(report), indent=1, allow_nan=False)
    path.write_text(content + "\n", encoding="utf-8")


def read_bench(path: Path) -> BenchReport:
    """Reads a report strictly.

    Raises:
        ExportError: Not a report of this schema.
    """
    try:
        return build(BenchReport, json.loads(path.read_text(encoding="utf-8")), "report")
    except (OSError, ValueError, SpecError) as error:
        raise ExportError(
            f"{path}: expected a report of schema {SCHEMA}: {error}; "
            "`python -m export bench` writes one"
        ) from error

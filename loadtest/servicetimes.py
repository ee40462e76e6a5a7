"""How long studies of several sizes take on the real local stack; what the simulation builds on.

    python -m loadtest.servicetimes --out docs/performance/service.json

one study at a time ─▶ seconds alone, by stage, CPU ─▶ every place taken ─▶ studies per second
STAT beside three routine studies ─▶ its share of a pod      studies nobody serves ─▶ refused
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from pydicom import dcmread
from rich.console import Console

from client.cli.console import report_error
from client.cli.sending import connect
from client.errors import ClientError, Transient
from client.ingest.sender import IngestClient
from client.jobs import JobState, Priority
from client.settings import Settings
from client.stack.scratch import scratch_stack
from loadtest.accounting import read_cpu, spent
from loadtest.enlarged import enlarge
from loadtest.machine import describe_machine
from loadtest.options import FULL
from loadtest.processes import stack_processes
from loadtest.simulation.service import SCHEMA

__all__ = ("main", "measure_service")

DOCS = Path(__file__).parents[1] / "docs"
SIZES = "8,32,96,181"
REFUSED_SHAPES = ((4, 64, 64), (64, 512, 512))
"""Slices, rows and columns of studies that no model serves: small and large."""
ALONE_S = 6.0
"""A size is measured alone so long, at least three times."""


@dataclass(frozen=True)
class _Sample:
    """A study to send."""

    kind: str
    files: tuple[Path, ...]
    refused: bool = False

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True, eq=False)
class _Sender:
    """Sends studies and times them.

    Attributes:
        client: Connected.
        places: Studies that the worker has in flight.
        processes: Of the stack, by name; empty until it has processed a study.
    """

    client: IngestClient
    places: int
    processes: Mapping[str, int]

    async def one(self, sample: _Sample, priority: Priority = Priority.ROUTINE) -> float:
        """Seconds from acknowledged to ended.

        Raises:
            Transient: It ended otherwise than expected.
        """
        job = await self.client.submit(sample.files, priority=priority, process_again=True)
        acknowledged = time.perf_counter()
        job = await self.client.wait(job.id)
        ended = time.perf_counter()
        if job.state is not (JobState.REJECTED if sample.refused else JobState.DONE):
            raise Transient(f"{sample.kind} ended as {job.state}: {job.reason}")
        return ended - acknowledged

    async def stages_s(self, sample: _Sample) -> dict[str, float]:
        """Wall seconds by stage of the worker, from the result; refused studies have none."""
        if sample.refused:
            return {}
        job = await self.client.submit(sample.files, process_again=True)
        files = await self.client.fetch(await self.client.wait(job.id))
        stages: dict[str, float] = json.loads(files["measurements.json"])["stages_s"]
        return stages

    async def rate(self, sample: _Sample, alone_s: float) -> float:
        """Studies per second while every place of the worker is taken.

        Twice as many senders as places: a study waits while another is being sent, so that the
        sender's own time does not slow the worker down.
        """
        each = max(2, round(ALONE_S / alone_s / self.places))

        async def send_some() -> None:
            for _ in range(each):
                await self.one(sample)

        began = time.perf_counter()
        await asyncio.gather(*(send_some() for _ in range(2 * self.places)))
        return 2 * self.places * each / (time.perf_counter() - began)

    async def measure(self, sample: _Sample) -> dict[str, Any]:
        """Everything about one kind."""
        await self.one(sample)
        before, began = read_cpu(self.processes.values()), time.perf_counter()
        alone: list[float] = []
        while len(alone) < 3 or time.perf_counter() - began < ALONE_S:
            alone.append(await self.one(sample))
        cpu = spent(before, read_cpu(self.processes.values()), self.processes)
        rates = {1: 1 / median(alone)}
        if not sample.refused:
            rates[self.places] = await self.rate(sample, median(alone))
        return {
            "kind": sample.kind,
            "slices": len(sample.files),
            "bytes": sample.bytes,
            "refused": sample.refused,
            "alone_s": round(median(alone), 4),
            "alone_each_s": [round(seconds, 4) for seconds in alone],
            "per_s": {str(many): round(rate, 4) for many, rate in rates.items()},
            "stages_s": await self.stages_s(sample),
            "cpu_s": {name: round(cpu[name] / len(alone), 4) for name in cpu},
        }

    async def stat_weight(self, stat: _Sample, routine: _Sample) -> dict[str, float]:
        """Share of a STAT study over that of a routine study in the same pod.

        A STAT study that takes f times as long beside n others has 1/f of the pod: w / (w + n).
        """
        alone = median([await self.one(stat, Priority.STAT) for _ in range(5)])
        stop = asyncio.Event()

        async def keep_sending() -> None:
            while not stop.is_set():
                await self.one(routine)

        crowd = [asyncio.create_task(keep_sending()) for _ in range(2 * self.places)]
        await asyncio.sleep(3)
        beside = median([await self.one(stat, Priority.STAT) for _ in range(8)])
        stop.set()
        await asyncio.gather(*crowd)
        part = min(alone / beside, 0.95)
        return {
            "alone_s": round(alone, 4),
            "beside_s": round(beside, 4),
            "beside": self.places,
            "weight": round(max(1.0, part * self.places / (1 - part)), 2),
        }


async def measure_service(command: str, sizes: str, console: Console) -> dict[str, Any]:
    """Starts a stack and measures every kind.

    Raises:
        ConfigurationError: A part is missing or did not start.
        Transient: A study ended otherwise than expected.
    """
    async with AsyncExitStack() as owned:
        home = Path(owned.enter_context(TemporaryDirectory(prefix="hounsfield-service-")))
        samples = _samples(home, [int(part) for part in sizes.split(",")])
        settings: Settings = owned.enter_context(
            scratch_stack(home / "stack", model_repository=str(FULL.repository))
        )
        client = await owned.enter_async_context(connect(settings))
        await _Sender(client, settings.studies_in_flight, {}).one(samples[0])
        sender = _Sender(client, settings.studies_in_flight, _stack_only(settings))
        kinds = []
        for sample in samples:
            console.print(f"{sample.kind}: {len(sample.files)} slices, {sample.bytes:,} bytes")
            kinds.append(await sender.measure(sample))
        console.print("STAT beside routine studies")
        served = [one for one in samples if not one.refused]
        stat = await sender.stat_weight(served[0], served[1])
    return {
        "schema": SCHEMA,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "source": f"measured by `{command}`",
        "assumed": False,
        "machine": asdict(describe_machine(f"model {FULL.model}")),
        "places": settings.studies_in_flight,
        "stat_weight": stat.pop("weight"),
        "stat": stat,
        "kinds": kinds,
    }


def _samples(home: Path, sizes: Sequence[int]) -> Sequence[_Sample]:
    found = sorted(FULL.sample.glob("*.dcm"))
    served = []
    for slices in sizes:
        start = (len(found) - slices) // 2
        served.append(_Sample(f"mr_head_{slices}", tuple(found[start : start + slices])))
    refused = [
        _Sample(f"refused_{shape[0]}", _unserved(home / f"ct{shape[0]}", shape), refused=True)
        for shape in REFUSED_SHAPES
    ]
    return (*served, *refused)


def _unserved(folder: Path, shape: tuple[int, int, int]) -> tuple[Path, ...]:
    """A series of another body part, which no model serves."""
    files = enlarge(FULL.sample, folder, shape)
    for file in files:
        dataset = dcmread(file)
        dataset.Modality, dataset.BodyPartExamined = "CT", "CHEST"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.save_as(file)
    return files


def _stack_only(settings: Settings) -> dict[str, int]:
    return {name: pid for name, pid in stack_processes(settings).items() if name != "client"}


def _measure(
    *,
    out: Annotated[Path, typer.Option(help="The report.")] = DOCS / "performance" / "service.json",
    sizes: Annotated[
        str, typer.Option(help="Slices of the studies: STAT has the first, its crowd the second.")
    ] = SIZES,
) -> None:
    """Measure service times on a stack of its own, in about four minutes."""
    console = Console(highlight=False)
    command = shlex.join(["python", "-m", "loadtest.servicetimes", *sys.argv[1:]])
    try:
        report = asyncio.run(measure_service(command, sizes, console))
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {out}.")


def main() -> None:
    """Run the command line."""
    typer.run(_measure)


if __name__ == "__main__":
    main()

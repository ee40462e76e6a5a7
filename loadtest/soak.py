"""Keeps the whole stack at a part of its throughput for long, and watches what grows.

    python -m loadtest.soak --minutes 30 --load 0.7

closed loop: how many studies per minute? ─▶ open loop at 70 % of it ‖ a sample every few seconds
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import Progress

from client.cli.console import report_error
from client.errors import ClientError
from client.jobqueue.embedded import embedded_queue_url
from client.jobqueue.streams import StreamsQueue
from client.stack.scratch import scratch_stack
from loadtest.journey import WholeWay
from loadtest.machine import describe_machine
from loadtest.material import load_material
from loadtest.memory import pss_mib
from loadtest.options import FULL
from loadtest.plots import plot_soak
from loadtest.report import Memory
from loadtest.soakreport import SCHEMA, Sample, SoakReport, soak_verdicts, write_soak
from loadtest.tables import rich_table, verdict_table
from preprocess.spec import load_model_spec

__all__ = ("SoakOptions", "main", "run_soak")

Announce = Callable[[str], None]
DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class SoakOptions:
    """How long, and how hard.

    Attributes:
        minutes: Of load.
        load: Part of the measured throughput.
        slices: Slices of each study.
        calibrate_s: Seconds of measuring the throughput first.
        together: Studies in flight meanwhile.
        interval_s: Seconds between two samples.
        warm_up: Part of the time whose samples are not judged.
        command: How this run was asked for.
    """

    minutes: float = 30.0
    load: float = 0.7
    slices: int = 24
    calibrate_s: float = 30.0
    together: int = 4
    interval_s: float = 5.0
    warm_up: float = 0.2
    command: str = ""


@dataclass
class _Traffic:
    """What was sent and came back."""

    in_flight: int = 0
    finished: int = 0
    latency_s: float = 0.0

    async def one(self, way: WholeWay) -> None:
        """One study, from handing in to the decrypted result."""
        self.in_flight += 1
        began = time.monotonic()
        try:
            await way.run(1)
        finally:
            self.in_flight -= 1
        self.finished += 1
        self.latency_s = round(time.monotonic() - began, 3)


async def run_soak(options: SoakOptions, announce: Announce) -> SoakReport:
    """Starts a stack, measures its throughput, loads it and watches.

    Raises:
        ConfigurationError: A part is missing or did not start.
        Transient: A study did not end well.
    """
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    spec = load_model_spec(FULL.repository / FULL.model / "model.yaml")
    material = load_material(FULL.sample, spec, options.slices)
    async with AsyncExitStack() as owned:
        home = Path(owned.enter_context(TemporaryDirectory(prefix="hounsfield-soak-")))
        settings = owned.enter_context(
            scratch_stack(home / "stack", model_repository=str(FULL.repository))
        )
        way = await owned.enter_async_context(WholeWay(settings, material))
        announce("measuring the throughput")
        await way.run(options.together)
        per_s = await _throughput(way, options)
        processes = _stack_only(way.processes())
        queue = await owned.enter_async_context(
            StreamsQueue(embedded_queue_url(Path(settings.home) / "queue"), "soak")
        )
        watch = _Watch(way, queue, processes)
        samples, studies = await watch.run(per_s * options.load, options, announce)
    return SoakReport(
        schema=SCHEMA,
        created_at=created_at,
        command=options.command,
        minutes=options.minutes,
        warm_up_s=round(60 * options.minutes * options.warm_up, 1),
        load=options.load,
        studies_per_min=round(60 * per_s * options.load, 3),
        studies=studies,
        slices=options.slices,
        machine=describe_machine(f"model {spec.name}"),
        samples=samples,
    )


async def _throughput(way: WholeWay, options: SoakOptions) -> float:
    """Studies per second with some always in flight."""
    began, done = time.monotonic(), 0

    async def keep_sending() -> None:
        nonlocal done
        while time.monotonic() - began < options.calibrate_s:
            await way.run(1)
            done += 1

    await asyncio.gather(*(keep_sending() for _ in range(options.together)))
    return done / (time.monotonic() - began)


@dataclass(frozen=True, eq=False)
class _Watch:
    """A load on a stack, and the looks at it.

    Attributes:
        way: Sends studies.
        queue: The stack's queue.
        processes: Of the stack, by name.
    """

    way: WholeWay
    queue: StreamsQueue
    processes: Mapping[str, int]

    async def run(
        self, per_s: float, options: SoakOptions, announce: Announce
    ) -> tuple[tuple[Sample, ...], int]:
        """Offers studies evenly, whether or not earlier ones are finished.

        Returns:
            What was seen, and how many studies were finished.

        Raises:
            Transient: A study did not end well.
        """
        traffic, samples = _Traffic(), list[Sample]()
        began = time.monotonic()
        end = began + 60 * options.minutes

        async def look() -> None:
            while (now := time.monotonic()) < end:
                samples.append(await self._sample(now - began, traffic))
                announce(
                    f"{(now - began) / 60:.1f} of {options.minutes:g} minutes, "
                    f"{traffic.finished} studies, {samples[-1].mib:.0f} MiB"
                )
                await asyncio.sleep(options.interval_s)

        async with asyncio.TaskGroup() as group:
            group.create_task(look())
            due = began
            while due < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(traffic.one(self.way))
                due += 1 / per_s
        return tuple(samples), traffic.finished

    async def _sample(self, at_s: float, traffic: _Traffic) -> Sample:
        memory = await asyncio.to_thread(pss_mib, self.processes)
        descriptors = await asyncio.to_thread(_descriptors, self.processes)
        queued = await self.queue.size()
        return Sample(
            at_s=round(at_s, 1),
            memory=tuple(Memory(name, round(mib, 1)) for name, mib in memory.items()),
            descriptors=descriptors,
            queued=sum(queued.values()),
            in_flight=traffic.in_flight,
            latency_s=traffic.latency_s,
        )


def _stack_only(processes: Mapping[str, int]) -> dict[str, int]:
    """Without this process, which only sends."""
    return {name: pid for name, pid in processes.items() if name != "client"}


def _descriptors(processes: Mapping[str, int]) -> int:
    """Open files of all processes that stay; those of one study come and go."""
    return sum(psutil.Process(pid).num_fds() for pid in processes.values())


def _soak(
    *,
    minutes: Annotated[float, typer.Option(min=1, help="How long.")] = SoakOptions.minutes,
    load: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="Part of the measured throughput.")
    ] = SoakOptions.load,
    out: Annotated[Path, typer.Option(help="The report.")] = DOCS / "performance" / "soak.json",
    plot: Annotated[Path, typer.Option(help="Its picture.")] = DOCS / "img" / "soak.png",
) -> None:
    """Keep the whole stack under load and say whether anything grows; status 1 if so."""
    console = Console(highlight=False)
    command = shlex.join(["python", "-m", "loadtest.soak", *sys.argv[1:]])
    options = SoakOptions(minutes=minutes, load=load, command=command)
    try:
        with Progress(console=console, transient=True, auto_refresh=False) as progress:
            task = progress.add_task("starting", total=None)
            report = asyncio.run(
                run_soak(
                    options, lambda what: progress.update(task, description=what, refresh=True)
                )
            )
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error
    verdicts = soak_verdicts(report)
    write_soak(report, out)
    plot_soak(report, plot)
    console.print(rich_table(verdict_table(verdicts), f"{report.studies} studies"))
    console.print(f"Written to {out} and {plot}.")
    if not all(one.reached for one in verdicts):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    typer.run(_soak)


if __name__ == "__main__":
    main()

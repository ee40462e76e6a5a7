"""First numbers: raw engine, ensemble and whole way, interleaved in one run.

    python -m loadtest.bench --quick

round 1: raw ▶ ensemble ▶ whole way, at two loads ─▶ round 2 … ─▶ medians and ratios
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from client.cli.console import report_error
from client.errors import ClientError
from client.stack.scratch import scratch_stack
from client.triton.embedded import EmbeddedTriton
from client.triton.inference import ModelIdentity, TritonModel, TritonModelSettings
from client.triton.server import TritonSettings
from loadtest.accounting import read_cpu, spent
from loadtest.agreement import compare
from loadtest.engine import RawEngine
from loadtest.ensemble import Ensemble
from loadtest.journey import WholeWay
from loadtest.machine import describe_machine
from loadtest.material import Material, load_material
from loadtest.report import SCHEMA, Measurement, Report, Round, Workload, spans, write_report
from loadtest.summary import LOADS, Load, summarise
from loadtest.tables import rich_table, stage_table, summary_table
from loadtest.ways import Way
from preprocess.spec import load_model_spec

__all__ = ("Options", "main", "run_bench")

ROOT = Path(__file__).parents[1]
MODEL = "brain_mr"


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        rounds: How often everything is measured.
        slices: Slices of the study, from its middle; None means all.
        slices_alone: Slices of a run with one slice in flight, at most.
        sample: Folder of a DICOM series.
        repository: The model repository.
        command: How this run was asked for.
    """

    rounds: int = 9
    slices: int | None = None
    slices_alone: int = 48
    sample: Path = ROOT / "samples" / "colin27_mr"
    repository: Path = ROOT / "model_repository"
    command: str = ""


QUICK = Options(rounds=3, slices=96)


async def run_bench(options: Options, progress: Progress) -> Report:
    """Starts everything, measures it in rounds, and stops it again.

    Raises:
        ConfigurationError: A part is missing or did not start, or the sample is not there.
        Transient: A part died during the run.
    """
    began = time.monotonic()
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    spec = load_model_spec(options.repository / MODEL / "model.yaml")
    material = load_material(options.sample, spec, options.slices)
    alone = min(options.slices_alone, material.slices)
    async with contextlib.AsyncExitStack() as owned:
        home = Path(owned.enter_context(TemporaryDirectory(prefix="hounsfield-bench-")))
        settings = owned.enter_context(
            scratch_stack(home / "stack", model_repository=str(options.repository))
        )
        server = await owned.enter_async_context(
            EmbeddedTriton(TritonSettings(options.repository, (MODEL,)), home / "triton.log")
        )
        model = await owned.enter_async_context(
            TritonModel(spec, TritonModelSettings(server.url), options.repository)
        )
        identity = await model.identity()
        network = options.repository / f"{MODEL}_net" / identity.version / "model.onnx"
        raw = RawEngine(network, material.images, alone)
        ensemble = Ensemble(model, server.pid, material, alone)
        whole = await owned.enter_async_context(WholeWay(settings, material))
        rounds = await _measure_all((raw, ensemble, whole), options.rounds, progress)
        agreement = compare(material, spec, raw.masks, ensemble.masks, whole.segmentation)
    return Report(
        schema=SCHEMA,
        created_at=created_at,
        command=options.command,
        duration_s=round(time.monotonic() - began, 1),
        machine=describe_machine(identity.server),
        workload=_workload(material, identity, options.sample),
        agreement=agreement,
        rounds=rounds,
    )


async def _measure_all(ways: Sequence[Way], rounds: int, progress: Progress) -> tuple[Round, ...]:
    """Runs every load once unmeasured, then in rounds."""
    by_name = {way.name: way for way in ways}
    task = progress.add_task("warming up", total=len(LOADS) * (rounds + 1))
    for load in LOADS:
        await by_name[load.way].run(load.in_flight)
        progress.advance(task)
    processes = {way.name: way.processes() for way in ways}
    done = []
    for number in range(1, rounds + 1):
        before = os.getloadavg()
        measured = []
        for load in LOADS:
            title = f"round {number} of {rounds}: {load.way}, {load.title}"
            progress.update(task, description=title)
            measured.append(await _measure(by_name[load.way], load, processes))
            progress.advance(task)
        done.append(Round(before, tuple(measured)))
    return tuple(done)


async def _measure(way: Way, load: Load, processes: Mapping[str, Mapping[str, int]]) -> Measurement:
    everyone = {pid for named in processes.values() for pid in named.values()}
    before = read_cpu(everyone)
    began = time.perf_counter()
    work = await way.run(load.in_flight)
    wall_s = time.perf_counter() - began
    after = read_cpu(everyone)
    cpu_s = spent(before, after, processes[way.name])
    machine_s = after.machine_s - before.machine_s
    return Measurement(
        way=load.way,
        in_flight=load.in_flight,
        slices=work.slices,
        wall_s=round(wall_s, 4),
        latency_p50_s=round(median(work.latencies_s), 5),
        cpu_s=spans(cpu_s),
        others_cpu_s=round(max(0.0, machine_s - sum(cpu_s.values())), 3),
        stages_s=spans(work.stages_s),
    )


def _workload(material: Material, identity: ModelIdentity, sample: Path) -> Workload:
    grid = material.series.geometry
    return Workload(
        model=identity.name,
        network_sha256=identity.network_sha256,
        precision=identity.engine,
        sample=sample.name,
        slices=material.slices,
        rows=grid.rows,
        columns=grid.columns,
        study_bytes=material.study_bytes,
    )


def _bench(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="3 rounds of 96 slices, two to three minutes on two cores."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report to this JSON file.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds to measure.")] = None,
    slices: Annotated[
        int | None, typer.Option(min=1, help="Slices from the middle of the sample.")
    ] = None,
    sample: Annotated[Path, typer.Option(help="Folder of one DICOM series.")] = Options.sample,
) -> None:
    """Measure raw engine, ensemble and whole way in one interleaved run, as ratios.

    Without --quick: 9 rounds of all slices.
    """
    console = Console(highlight=False)
    options = Options(
        rounds=rounds or (QUICK if quick else Options()).rounds,
        slices=slices or (QUICK if quick else Options()).slices,
        sample=sample,
        command=shlex.join(["python", "-m", "loadtest.bench", *sys.argv[1:]]),
    )
    try:
        with Progress(console=console, transient=True) as progress:
            report = asyncio.run(run_bench(options, progress))
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error
    rows = summarise(report)
    console.print(rich_table(summary_table(rows), "Medians over rounds, ratios to the raw engine"))
    console.print(rich_table(stage_table(report), "The whole way, by stage"))
    if out is not None:
        write_report(report, [asdict(row) for row in rows], out)
        console.print(f"Written to {out}.")


def main() -> None:
    """Run the command line."""
    typer.run(_bench)


if __name__ == "__main__":
    main()

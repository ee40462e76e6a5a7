"""One run that measures everything: raw engine, ensemble, whole way, alternatives, in turns.

    python -m loadtest.bench --quick                          first numbers, two to three minutes
    python -m loadtest.bench --out docs/performance/full.json everything, about 25 minutes

round 1: every load once ─▶ report ─▶ round 2: every load once ─▶ report …
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from client.cli.console import report_error
from client.errors import ClientError, ConfigurationError
from loadtest.agreement import compare_all
from loadtest.alternatives import Alternatives, choose
from loadtest.cast import Cast, open_cast
from loadtest.gpu import find_gpus, gpu_note
from loadtest.loads import PRECISIONS, Load, gpu_loads, order, quick_loads
from loadtest.machine import describe_machine
from loadtest.measuring import measure_rounds, warm_up
from loadtest.options import FULL, QUICK, Options
from loadtest.report import SCHEMA, Report, Workload, write_report
from loadtest.results import results_of
from loadtest.summary import summarise
from loadtest.tables import rich_table, stage_table, summary_table, verdict_table
from loadtest.verdicts import verdicts_of

__all__ = ("main", "run_bench")


async def run_bench(options: Options, announce: Callable[[str], None]) -> AsyncIterator[Report]:
    """Starts everything, measures it in rounds, and stops it again.

    Args:
        options: What to measure.
        announce: Told what is done now.

    Yields:
        The report so far, after each round.

    Raises:
        ConfigurationError: A part is missing or did not start, or the sample is not there.
        Transient: A part died during the run.
    """
    began = time.monotonic()
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    alternatives = choose(options.peers)
    loads = _loads(options, alternatives)
    async with open_cast(options, alternatives, announce) as cast:
        processes = await warm_up(cast, loads, announce)
        report = Report(
            schema=SCHEMA,
            created_at=created_at,
            command=options.command,
            duration_s=0.0,
            rounds_wanted=options.rounds,
            machine=describe_machine(cast.server),
            workload=_workload(cast, options),
            loads=loads,
            peers_missing=alternatives.missing,
            gpu=gpu_note(find_gpus(), options.gpu_triton),
            agreement=(),
            rounds=(),
        )
        async for one in measure_rounds(cast, loads, options.rounds, processes, announce):
            report = replace(
                report,
                duration_s=round(time.monotonic() - began, 1),
                agreement=compare_all(cast.ways, cast.material, cast.spec),
                rounds=(*report.rounds, one),
            )
            yield report


def _loads(options: Options, alternatives: Alternatives) -> tuple[Load, ...]:
    ours = (
        quick_loads()
        if options.few_loads
        else order(options.precisions, alternatives.servers, script=alternatives.script)
    )
    return (*ours, *gpu_loads()) if options.gpu_triton else ours


def _workload(cast: Cast, options: Options) -> Workload:
    grid = cast.material.series.geometry
    return Workload(
        model=cast.spec.name,
        engines=cast.engines,
        sample=options.sample.name,
        slices=cast.material.slices,
        rows=grid.rows,
        columns=grid.columns,
        study_bytes=cast.material.study_bytes,
    )


async def _follow(options: Options, progress: Progress, out: Path | None) -> Report:
    """Runs, and writes the report after every round."""
    task = progress.add_task("starting", total=options.rounds)

    def announce(what: str) -> None:
        progress.update(task, description=what, refresh=True)

    report = None
    async for report in run_bench(options, announce):
        progress.update(task, completed=len(report.rounds), refresh=True)
        if out is not None:
            write_report(report, results_of(report), out)
    if report is None:
        raise ConfigurationError("Expected at least one round.")
    return report


def _bench(
    *,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Three rounds of ours in f32, two to three minutes."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the report to this JSON file, after every round.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds to measure.")] = None,
    slices: Annotated[
        int | None, typer.Option(min=3, help="Slices from the middle of the sample.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Some of f32,bf16,int8; others than f32 are built first.")
    ] = None,
    peers: Annotated[str | None, typer.Option(help="all, none, or names with commas.")] = None,
    studies: Annotated[
        bool | None, typer.Option(help="Measure a large study, STAT studies, the client tier.")
    ] = None,
    urgent: Annotated[int, typer.Option(min=2, help="STAT studies per round.")] = FULL.urgent,
    gpu_triton: Annotated[
        str, typer.Option(help="host:port of a Triton server with the gpu profile.")
    ] = "",
    sample: Annotated[Path, typer.Option(help="Folder of one DICOM series.")] = FULL.sample,
) -> None:
    """Measure ours, the raw engine and the alternatives in one interleaved run, as ratios."""
    console = Console(highlight=False)
    base = QUICK if quick else FULL
    precisions = base.precisions if precision is None else tuple(precision.split(","))
    options = replace(
        base,
        rounds=rounds or base.rounds,
        slices=slices or base.slices,
        precisions=precisions,
        peers=base.peers if peers is None else peers,
        studies=base.studies if studies is None else studies,
        urgent=urgent,
        gpu_triton=gpu_triton,
        sample=sample,
        command=shlex.join(["python", "-m", "loadtest.bench", *sys.argv[1:]]),
    )
    try:
        if unknown := sorted({*precisions} - {*PRECISIONS}):
            raise ConfigurationError(f"Expected some of {PRECISIONS}, got {unknown}.")
        # Drawn when something changes: a picture ten times a second would be on our own bill.
        with Progress(console=console, transient=True, auto_refresh=False) as progress:
            report = asyncio.run(_follow(options, progress, out))
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error
    console.print(rich_table(summary_table(summarise(report)), "Medians over rounds"))
    console.print(rich_table(verdict_table(verdicts_of(report)), "Aims"))
    console.print(rich_table(stage_table(report), "The whole way, by stage"))
    for name in report.peers_missing:
        console.print(f"{name}: not installed (python -m loadtest.peers install)")
    console.print(f"GPU: {report.gpu}")
    if out is not None:
        console.print(f"Written to {out}.")


def main() -> None:
    """Run the command line."""
    typer.run(_bench)


if __name__ == "__main__":
    main()

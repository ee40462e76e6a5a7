"""Sends studies by a schedule through the whole system and says whether it kept its promises.

python -m loadtest.traffic --shape hospital-day --speed 10 --from 07:00 --to 12:00 \
    --stack local --seed 1 --verdict loadtest/slo.yaml --out build/load
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from client.cli.console import report_error
from client.errors import ClientError, ConfigurationError
from client.settings import Settings
from loadtest.traffic.calibration import STEPS, best_rate_per_h
from loadtest.traffic.faults import parse_fault
from loadtest.traffic.outcome import (
    Step,
    held_per_h,
    outcome_of,
    steps_of,
    steps_record,
    write_json,
)
from loadtest.traffic.page import write_page
from loadtest.traffic.plan import TARGETS
from loadtest.traffic.run import Announce, Options, Run, open_system, run_load
from loadtest.traffic.shapes import SHAPES, STEP_SLICES, Load
from loadtest.traffic.slo import Check, Slo, judge, load_slo

__all__ = ("main",)

LIMIT_S = 60.0
"""Of the 95th percentile, for the steps of a load without limits of its own."""
CALIBRATE_S = 45.0
_NOT_HELD = 1


def _traffic(
    *,
    shape: Annotated[str, typer.Option(help=f"{', '.join(SHAPES)}.")] = "hospital-day",
    out: Annotated[Path, typer.Option(help="Folder of the report, the outcome and the logs.")],
    seed: Annotated[int, typer.Option(help="The same one sends the same studies.")] = Load.seed,
    speed: Annotated[float, typer.Option(min=0.1, help="Of the hospital's clock.")] = Load.speed,
    from_: Annotated[str, typer.Option("--from", help="Hour the day begins, HH:MM.")] = "07:00",
    to: Annotated[str, typer.Option(help="Hour it ends, HH:MM.")] = "12:00",
    hospitals: Annotated[float, typer.Option(min=0.01, help="How many.")] = Load.hospitals,
    rate: Annotated[float, typer.Option(min=0, help="Studies per hour.")] = Load.rate_per_h,
    seconds: Annotated[float, typer.Option(min=1, help="Length, or of a step.")] = Load.seconds,
    rates: Annotated[str, typer.Option(help="Of the steps: 600,900,1200, per hour.")] = "",
    find_capacity: Annotated[
        bool, typer.Option(help="Steps around the best rate, which is measured first.")
    ] = False,
    stat_rate: Annotated[
        float, typer.Option(min=0, help="STAT studies per hour (stat-under-flood).")
    ] = Load.stat_per_h,
    slices: Annotated[int, typer.Option(min=0, max=181, help="Of each head MR; 0: mixed.")] = 0,
    stack: Annotated[str, typer.Option(help="local: start one; or none with --host.")] = "local",
    host: Annotated[str, typer.Option(help="host:port of a running gateway.")] = "",
    keys: Annotated[str, typer.Option(help="Key folder of its sender.")] = "",
    tenant: Annotated[str, typer.Option(help="Name of its sender.")] = "",
    target: Annotated[str, typer.Option(help=f"{' or '.join(TARGETS)}.")] = TARGETS[0],
    triton_url: Annotated[str, typer.Option(help="host:port of Triton's gRPC service.")] = "",
    workers: Annotated[int, typer.Option(min=1, max=32, help="Generator processes.")] = 1,
    fault: Annotated[
        list[str] | None, typer.Option(help="worker-kill@60s; may be given again.")
    ] = None,
    verdict: Annotated[Path | None, typer.Option(help="Limits that must hold.")] = None,
    settle: Annotated[float, typer.Option(min=1, help="Longest wait at the end, s.")] = 600.0,
    models: Annotated[str, typer.Option(help="Model repository of the local stack.")] = "",
    ui: Annotated[str, typer.Option(help="Port of locust's page, instead of headless.")] = "",
) -> None:
    """Run a load test; status 1 when a limit was not held, 3 when it could not run."""
    console = Console(highlight=False)
    load = Load(
        shape="step" if find_capacity else shape,
        seed=seed,
        speed=speed,
        from_h=_hour(from_),
        to_h=_hour(to),
        hospitals=hospitals,
        rate_per_h=rate,
        seconds=seconds,
        rates_per_h=_rates(rates) if rates else Load.rates_per_h,
        slices=slices,
        stat_per_h=stat_rate,
    )
    try:
        if stack != "local" or target not in TARGETS:
            raise ConfigurationError(
                f"Expected --stack local and a target of {', '.join(TARGETS)}; a running gateway "
                "is named by --host."
            )
        options = Options(
            load=load,
            out=out.absolute(),
            host=host,
            keys=keys,
            tenant=tenant,
            generators=workers,
            target=target,
            triton_url=triton_url,
            faults=tuple(parse_fault(one) for one in fault or ()),
            settle_s=settle,
            model_repository=models,
            locust_options=_page_options(ui) if ui else (),
        )
        held = _run(options, load_slo(verdict) if verdict else None, console, find_capacity)
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error
    if not held:
        raise typer.Exit(_NOT_HELD)


def _run(options: Options, slo: Slo | None, console: Console, find_capacity: bool) -> bool:
    """Run, write everything, print; return whether every limit was held."""
    if options.faults and not options.is_local:
        raise ConfigurationError("Expected no --fault: only a local stack is broken on purpose.")
    options.out.mkdir(parents=True, exist_ok=True)
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("starting", total=None)

        def announce(what: str) -> None:
            progress.update(task, description=what, refresh=True)

        with open_system(options) as settings:
            run = asyncio.run(_measured(options, settings, announce, find_capacity))
    checks = _checks(run, slo)
    steps: tuple[Step, ...] = ()
    if run.options.load.shape == "step":
        limit_s = min((one.seconds for one in slo.turnaround), default=LIMIT_S) if slo else LIMIT_S
        steps = steps_of(run.options.load, run.accounts.studies, limit_s)
    _write(run, slo, checks, steps)
    _tell(run, checks, steps, console)
    return all(check.held for check in checks)


async def _measured(
    options: Options, settings: Settings, announce: Announce, find_capacity: bool
) -> Run:
    if find_capacity:
        announce("measuring the best rate")
        slices = options.load.slices or STEP_SLICES
        best = await best_rate_per_h(settings, slices, CALIBRATE_S)
        rates = tuple(round(part * best) for part in STEPS)
        options = replace(options, load=replace(options.load, rates_per_h=rates, slices=slices))
    return await run_load(options, settings, announce)


def _checks(run: Run, slo: Slo | None) -> tuple[Check, ...]:
    """The verdict; a fault that was not done makes it void."""
    if slo is None:
        return ()
    asked, done = len(run.options.faults), len(run.seen.struck)
    faults = (Check("faults", f"{asked} done", f"{done}", done == asked),) if asked else ()
    return (*judge(slo, run.accounts), *faults)


def _write(run: Run, slo: Slo | None, checks: Sequence[Check], steps: Sequence[Step]) -> None:
    out = run.options.out
    write_json(outcome_of(run, checks), out / "outcome.json")
    if steps:
        write_json(steps_record(run, steps), out / "steps.json")
    write_page(run, slo, checks, steps, out / "report.html")


def _tell(run: Run, checks: Sequence[Check], steps: Sequence[Step], console: Console) -> None:
    if steps:
        table = Table("due per hour", "ended per hour", "p95, s", "held", title="Steps")
        for step in steps:
            cells = (step.offered_per_h, step.finished_per_h, step.p95_s)
            table.add_row(*(f"{one:g}" for one in cells), "yes" if step.held else "no")
        console.print(table)
        console.print(f"Held: {held_per_h(steps):g} studies per hour.")
    if checks:
        table = Table("promise", "aim", "seen", "held", title="Verdict")
        for check in checks:
            table.add_row(check.name, check.aim, check.value, "yes" if check.held else "NO")
        console.print(table)
    console.print(f"{len(run.accounts.studies)} studies; see {run.options.out / 'report.html'}.")


def _page_options(port: str) -> tuple[str, ...]:
    """Show locust's page to this machine only; start and end as without it."""
    return ("--web-host", "127.0.0.1", "--web-port", port, "--autostart", "--autoquit", "1")


def _hour(text: str) -> float:
    hours, _, minutes = text.partition(":")
    try:
        hour = int(hours) + int(minutes or 0) / 60
    except ValueError:
        raise typer.BadParameter(f"expected HH:MM, got {text!r}") from None
    if not 0 <= hour <= 48:
        raise typer.BadParameter(f"expected an hour up to 48:00, got {text!r}")
    return hour


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers joined by commas, got {text!r}") from None


def main() -> None:
    """Run the command line."""
    typer.run(_traffic)


if __name__ == "__main__":
    main()

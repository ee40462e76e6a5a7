"""How many GPUs do we need? A discrete-event model of hospitals, queue, pods and autoscalers.

    python -m loadtest.simulate --hospitals 30 --peak 1.5 --price 2.50 --slo 'p95<60,stat:p99<30'
    python -m loadtest.simulate --validate RUN.json      # the model against a real run

hospital × service times × policies ─▶ turnaround by class, pod hours, cost, energy ─▶ JSON, HTML
"""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.cli.console import report_error
from client.errors import ClientError
from loadtest.hpa import PodMetricAutoscaler, read_pod_metric_autoscaler
from loadtest.keda import ScaledObject, read_scaled_object
from loadtest.simulation.aims import parse_aims, smallest
from loadtest.simulation.answers import PolicyResult, Prices, Question, run_policy
from loadtest.simulation.cluster import PodSettings
from loadtest.simulation.day import simulate_day
from loadtest.simulation.hospital import DEFAULT_HOSPITAL, read_hospital
from loadtest.simulation.pictures import plot_day, plot_hospitals, plot_policies, plot_validation
from loadtest.simulation.policies import Fixed, Policy, policies_side_by_side
from loadtest.simulation.report import (
    Row,
    policy_rows,
    validation_rows,
    write_html,
    write_json,
)
from loadtest.simulation.service import ServiceTimes, read_service
from loadtest.simulation.validation import read_run, validate_run

__all__ = ("main",)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMPONENTS = ROOT / "k8s" / "components"
KEDA = COMPONENTS / "autoscaling" / "scaledobject.yaml"
LATENCY = COMPONENTS / "autoscaling-latency" / "horizontalpodautoscaler.yaml"
SERVICE = DOCS / "performance" / "service.json"
_HEADROOM = 1.6
"""Pods of the fixed fleet over those the busiest hour needs, where no aim says how many."""
_LIMIT = 3
"""Pods that autoscalers may ask for over those of the fixed fleet."""


def _simulate(
    *,
    hospitals: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 10,
    peak: Annotated[float, typer.Option(min=0.01, help="Over an average day.")] = 1.5,
    service: Annotated[Path, typer.Option(help="Service times.")] = SERVICE,
    hospital: Annotated[Path | None, typer.Option(help="A hospital of your own, JSON.")] = None,
    keda: Annotated[Path, typer.Option(help="Manifest with a ScaledObject.")] = KEDA,
    latency: Annotated[Path, typer.Option(help="Manifest with an HPA.")] = LATENCY,
    replications: Annotated[int, typer.Option(min=1, help="Days drawn.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 1,
    cell: Annotated[int, typer.Option(min=1, help="Hospitals that share a queue.")] = 100,
    start_s: Annotated[float, typer.Option(min=0, help="Until a new pod works.")] = 180.0,
    places: Annotated[int | None, typer.Option(min=1, help="Studies in flight.")] = None,
    fixed: Annotated[int | None, typer.Option(min=1, help="Pods of the fixed fleet.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Pods of a cell at most.")] = None,
    slo: Annotated[str, typer.Option(help="'p95<60,stat:p99<30': the smallest fleet.")] = "",
    sweep: Annotated[str, typer.Option(help="'1,10,100': --slo for each of them.")] = "",
    price: Annotated[float | None, typer.Option(min=0, help="Of a pod hour.")] = None,
    watts: Annotated[str, typer.Option(help="'BUSY,IDLE' of a pod.")] = "",
    validate: Annotated[Path | None, typer.Option(help="A load run to compare with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Report, JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Report, one HTML file.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for PNGs.")] = None,
) -> None:
    """Answer what a fleet needs, or compare the model with a real run (status 1 if it is off)."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    command = shlex.join(["python", "-m", "loadtest.simulate", *sys.argv[1:]])
    try:
        times = read_service(service)
        settings = PodSettings(places or times.places, start_s)
        if validate is not None:
            _validate(console, validate, times, settings, pictures)
            return
        question = Question(
            read_hospital(hospital) if hospital else DEFAULT_HOSPITAL,
            hospitals, peak, times, settings, replications, seed, cell,
        )  # fmt: skip
        specs = (read_scaled_object(keda), read_pod_metric_autoscaler(latency))
        answer = _Answer(console, command, question, specs, _prices(price, watts))
        answer.run(slo, sweep, fixed, most)
        answer.write(out, html, pictures)
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error


class _Answer:
    """One question from the command line: asks, prints, writes."""

    def __init__(
        self,
        console: Console,
        command: str,
        question: Question,
        specs: tuple[ScaledObject, PodMetricAutoscaler],
        prices: Prices,
    ) -> None:
        self._console = console
        self._command = command
        self._question = question
        self._specs = specs
        self._prices = prices
        self._smallest: dict[str, PolicyResult | None] = {}
        self._fleets: dict[str, list[tuple[int, int]]] = {}
        self._results: list[PolicyResult] = []
        self._policies: tuple[Policy, ...] = ()

    def run(self, slo: str, sweep: str, fixed: int | None, most: int | None) -> None:
        """The smallest fleet first, then the policies side by side around it."""
        self._say_what_is_assumed()
        if slo:
            self._find_smallest(slo, sweep)
        found = self._smallest.get("fixed")
        base = fixed or (
            found.cell_most_pods if found else math.ceil(_HEADROOM * self._question.busiest_pods)
        )
        self._policies = policies_side_by_side(*self._specs, base, most or _LIMIT * base)
        self._results = [
            run_policy(self._question, policy, self._prices) for policy in self._policies
        ]
        _print(self._console, "policies side by side", policy_rows(self._results))

    def write(self, out: Path | None, html: Path | None, pictures: Path | None) -> None:
        """What was asked for."""
        folder = pictures or (html.parent if html else None)
        drawn = self._draw(folder) if folder else []
        if out:
            write_json(
                out,
                self._command,
                self._question,
                policies=[asdict(one) for one in self._results],
                smallest={name: one and asdict(one) for name, one in self._smallest.items()},
                sweep=self._fleets,
            )
        if html:
            tables = {"Policies side by side": policy_rows(self._results)}
            fewest = [one for one in self._smallest.values() if one]
            tables["The fewest pods that hold the aim"] = policy_rows(fewest)
            write_html(html, self._command, self._question, tables, drawn)

    def _find_smallest(self, slo: str, sweep: str) -> None:
        aims = parse_aims(slo)
        ways = {
            "fixed": Fixed,
            "keda + floor": lambda most: policies_side_by_side(*self._specs, 1, most)[2],
        }
        for name, way in ways.items():
            self._smallest[name] = smallest(self._question, way, aims, self._prices)
            self._console.print(f"{slo}, {name}: {_fleet(self._smallest[name])}")
        pods: dict[tuple[str, int], int | None] = {}
        for number in [int(part) for part in sweep.split(",") if part]:
            asked = replace(self._question, hospitals=number)
            for name, way in ways.items():
                key = name, asked.in_cell
                if key not in pods:
                    result = smallest(asked, way, aims, self._prices)
                    pods[key] = result.cell_most_pods if result else None
                in_cell = pods[key]
                fleet = "no number of" if in_cell is None else f"{asked.cells} x {in_cell}"
                self._console.print(f"{number:,} hospitals, {name}: {fleet} pods")
                if in_cell is not None:
                    self._fleets.setdefault(name, []).append((number, asked.cells * in_cell))

    def _draw(self, folder: Path) -> list[Path]:
        asked = self._question
        title = f"hospitals: {asked.hospitals:,}, {asked.peak:g} x an average day"
        if asked.times.assumed:
            title += " – ASSUMED service times"
        drawn = [folder / "capacity-policies.png", folder / "capacity-day.png"]
        plot_policies(self._results, title, drawn[0])
        days = {
            policy.name: simulate_day(asked.days[0], asked.times, asked.settings, policy)
            for policy in self._policies
        }
        plot_day(days, f"{title}: one day of one cell", drawn[1])
        if self._fleets:
            drawn.append(folder / "capacity-hospitals.png")
            plot_hospitals(self._fleets, title.partition(", ")[2], drawn[-1])
        return drawn

    def _say_what_is_assumed(self) -> None:
        if self._question.times.assumed:
            self._console.print("[bold]ASSUMED service times:[/bold]", self._question.times.source)
        if self._question.cells > 1:
            asked = self._question
            self._console.print(
                f"{asked.hospitals:,} hospitals are {asked.cells} cells of at most "
                f"{asked.in_cell}: each has a queue and pods of its own. One cell is simulated, "
                f"{asked.replications} days of it; the fleet is {asked.cells} times that."
            )


def _validate(
    console: Console, path: Path, times: ServiceTimes, settings: PodSettings, folder: Path | None
) -> None:
    """Raises: typer.Exit, status 1, when a p95 is too far off."""
    validation = validate_run(read_run(path), times, settings)
    _print(console, f"model against {path}", validation_rows(validation))
    if validation.left_out:
        console.print(f"{validation.left_out} studies did not end as done or rejected: left out.")
    if folder:
        plot_validation(validation, path.name, folder / "capacity-validation.png")
    if not validation.held:
        raise typer.Exit(1)


def _prices(price: float | None, watts: str) -> Prices:
    busy, _, idle = watts.partition(",")
    return Prices(price, float(busy) if busy else None, float(idle or 0))


def _fleet(result: PolicyResult | None) -> str:
    if result is None:
        return "no number of pods holds it"
    p95 = result.turnaround_s["all"]["p95"].mean
    return (
        f"{result.fleet_pods:,} pods ({result.cell_most_pods} in a cell), p95 {p95:.1f} s, "
        f"{result.pod_hours.mean:,.0f} pod hours a day"
    )


def _print(console: Console, title: str, rows: list[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right" if name not in ("policy", "class") else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def main() -> None:
    """Run the command line."""
    typer.run(_simulate)


if __name__ == "__main__":
    main()

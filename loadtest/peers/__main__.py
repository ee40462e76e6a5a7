"""Installs the peers and measures them by themselves.

    python -m loadtest.peers install
    python -m loadtest.peers run fastapi mosec --in-flight 1,16 --precision bf16

round 1: peer A ▶ peer B ▶ …, at each load ─▶ round 2 … ─▶ medians
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from client.cli.console import report_error
from client.dicom.readback import read_mask
from client.errors import ClientError, ConfigurationError
from loadtest.accounting import read_cpu, spent
from loadtest.material import Material, load_material
from loadtest.peers.environments import NAMES, Environment
from loadtest.peers.peer import Peer
from loadtest.peers.traditional import TraditionalScript
from loadtest.peers.work import HINTS, infer
from loadtest.tables import rich_table
from loadtest.ways import Way
from preprocess.spec import load_model_spec

__all__ = ("Result", "main", "measure")

ROOT = Path(__file__).parents[2]
MODEL = "brain_mr"
DESCRIPTION = ROOT / "model_repository" / MODEL / "model.yaml"
SCRIPT = "monai_script"
SLICES_ALONE = 48
HEAD = ("peer", "in flight", "slices/s", "p50 ms", "p99 ms", "CPU ms", "agreement")


@dataclass(frozen=True)
class Result:
    """One run of one peer.

    Attributes:
        slices_per_s: Throughput.
        p50_ms: Median time of a slice; of the whole study with the traditional script.
        p99_ms: What one in a hundred takes longer than.
        cpu_ms: CPU time per slice, of the callers and of all processes of the peer.
    """

    slices_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


async def measure(way: Way, in_flight: int) -> Result:
    """Runs a way once."""
    processes = way.processes()
    before = read_cpu(processes.values())
    began = time.perf_counter()
    work = await way.run(in_flight)
    wall_s = time.perf_counter() - began
    cpu_s = sum(spent(before, read_cpu(processes.values()), processes).values())
    p50_s, p99_s = np.percentile(work.latencies_s, (50, 99))
    return Result(work.slices / wall_s, 1000 * p50_s, 1000 * p99_s, 1000 * cpu_s / work.slices)


@dataclass(frozen=True)
class _Options:
    names: tuple[str, ...]
    loads: tuple[int, ...]
    precision: str
    network: Path
    sample: Path
    slices: int | None
    rounds: int


async def _run(options: _Options, progress: Progress) -> list[Sequence[str]]:
    """One line per peer and load."""
    spec = load_model_spec(DESCRIPTION)
    material = load_material(options.sample, spec, options.slices)
    reference = infer(options.network, options.precision, material.images)
    async with contextlib.AsyncExitStack() as owned:
        home = Path(owned.enter_context(TemporaryDirectory(prefix="hounsfield-peers-")))
        ways: dict[str, Peer | TraditionalScript] = {}
        task = progress.add_task("starting", total=None)
        for name in options.names:
            progress.update(task, description=f"starting {name}")
            ways[name] = await owned.enter_async_context(_way(name, options, material, home))
        plan = [
            (name, load)
            for name in options.names
            for load in (options.loads if name != SCRIPT else (1,))
        ]
        progress.update(task, total=len(plan) * (options.rounds + 1))
        results: dict[tuple[str, int], list[Result]] = {each: [] for each in plan}
        for number in range(options.rounds + 1):
            for name, load in plan:
                progress.update(task, description=f"round {number}: {name}, {load} in flight")
                result = await measure(ways[name], load)
                # The first round warms up.
                results[name, load] += [result] if number else []
                progress.advance(task)
        equal = {name: _agreement(way, material, reference) for name, way in ways.items()}
    return [_line(name, load, runs, equal[name]) for (name, load), runs in results.items()]


def _way(name: str, options: _Options, material: Material, home: Path) -> Peer | TraditionalScript:
    if name == SCRIPT:
        folder = home / SCRIPT
        folder.mkdir()
        weights = ROOT / "training" / "weights" / f"{MODEL}.safetensors"
        return TraditionalScript(DESCRIPTION, weights, material, folder)
    return Peer(
        name,
        options.network,
        options.precision,
        material,
        min(SLICES_ALONE, material.slices),
        log_path=home / f"{name}.log",
    )


def _agreement(
    way: Peer | TraditionalScript, material: Material, reference: NDArray[np.uint8]
) -> float:
    """Part of all pixels that have the reference's class; the script's on the native grid."""
    if isinstance(way, TraditionalScript):
        native = material.plan.restore(reference)
        return float((read_mask(way.segmentation, material.series) == native).mean())
    return float((way.masks == reference).mean())


def _line(name: str, load: int, runs: Sequence[Result], agreement: float) -> Sequence[str]:
    return (
        name,
        "1 study" if name == SCRIPT else str(load),
        f"{median(run.slices_per_s for run in runs):.1f}",
        f"{median(run.p50_ms for run in runs):.1f}",
        f"{median(run.p99_ms for run in runs):.1f}",
        f"{median(run.cpu_ms for run in runs):.1f}",
        f"{agreement:.5%}",
    )


app = typer.Typer(no_args_is_help=True, help="Alternatives that serve the same work.")
Names = Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(NAMES)}; all if none.")]


@app.command()
def install(names: Names = None) -> None:
    """Make the peers' environments, where they are not there or their requirements changed."""
    console = Console(highlight=False)
    try:
        for environment in [Environment.of(name) for name in names or NAMES]:
            console.print(f"{environment.folder} …")
            done = "made" if environment.install() else "was current"
            console.print(f"  {done}: {', '.join(environment.packages)}")
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error


@app.command()
def run(
    names: Names = None,
    in_flight: Annotated[str, typer.Option(help="Loads, with commas between them.")] = "1,4,16",
    precision: Annotated[str, typer.Option(help=f"One of {', '.join(HINTS)}.")] = "f32",
    network: Annotated[
        Path | None, typer.Option(help="ONNX or OpenVINO XML; needed for int8.")
    ] = None,
    sample: Annotated[Path, typer.Option(help="Folder of one DICOM series.")] = (
        ROOT / "samples" / "colin27_mr"
    ),
    slices: Annotated[int | None, typer.Option(min=1, help="From the middle of it.")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to measure.")] = 3,
) -> None:
    """Measure the peers, interleaved; the traditional script is always float32."""
    console = Console(highlight=False)
    try:
        options = _Options(
            names=tuple(names or NAMES),
            loads=_loads(in_flight),
            precision=precision,
            network=_network(precision, network),
            sample=sample,
            slices=slices,
            rounds=rounds,
        )
        with Progress(console=console, transient=True) as progress:
            lines = asyncio.run(_run(options, progress))
    except ClientError as error:
        raise typer.Exit(report_error(error, as_json=False)) from error
    title = f"OpenVINO {precision}, medians of {rounds} rounds"
    console.print(rich_table([HEAD, *lines], title))


def _loads(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigurationError(f"Expected loads such as 1,4,16, got {text!r}.")
    return tuple(int(part) for part in parts)


def _network(precision: str, network: Path | None) -> Path:
    if precision not in HINTS:
        raise ConfigurationError(f"Expected one of {', '.join(HINTS)}, got {precision!r}.")
    if network is None and precision == "int8":
        raise ConfigurationError("Expected --network with the INT8 network's XML file, got none.")
    found = network or ROOT / "model_repository" / f"{MODEL}_net" / "1" / "model.onnx"
    if not found.is_file():
        raise ConfigurationError(f"Expected a network's file, found none at {found}.")
    return found.absolute()


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()

"""The command line of ML engineers: build, verify, bench, tune, plans."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.engines.plan_key import HardwareCompatibility
from export.errors import ExportError
from export.recipe import Recipe, load_recipe

__all__ = ("app", "main")

_HELP = """From a checkpoint to a verified model in the repository that Triton serves.

First step:  python -m export build models/brain_mr.yaml --dry-run

Exit codes: 0 well, 1 unexpected or the disk, 2 wrong usage, 3 the recipe is wrong or something is
not installed, 4 the source cannot be used, 5 the network cannot be exported, 6 an engine cannot be
made, 7 the answers moved, 8 the repository could not be changed.
"""

app = typer.Typer(
    help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
_console = Console()

RecipePath = Annotated[Path, typer.Argument(metavar="MODEL.yaml", help="What to make, and how.")]
Repository = Annotated[Path, typer.Option(help="The model repository that Triton serves.")]
Work = Annotated[Path, typer.Option(help="Folder for what the stages leave.")]
REPOSITORY, WORK = Path("model_repository"), Path("build/export")


@app.command()
def build(
    path: RecipePath,
    repository: Repository = REPOSITORY,
    work: Work = WORK,
    dry_run: Annotated[bool, typer.Option(help="Say what would run, and end.")] = False,
    publish: Annotated[bool, typer.Option(help="Put the model into the repository.")] = True,
    replace: Annotated[
        bool, typer.Option(help="Drop older versions that no longer fit the preprocessing.")
    ] = False,
) -> None:
    """Make a model, compare it with its source, and publish it as a new version."""
    from export.building import chain

    recipe = load_recipe(path)
    settings = chain.BuildSettings(repository, work / recipe.name, publish, replace)
    if dry_run:
        _show_preview(recipe, chain.preview(recipe, settings))
        return
    with _stage_progress() as progress:
        built = chain.build(recipe, settings, progress.announce)
    _console.print(f"parity report: {built.report / 'parity.html'}")
    if built.published is None:
        _console.print("not published")
    elif built.published.changed:
        _console.print(f"published: {recipe.name} version {built.published.version}")
    else:
        _console.print(f"nothing changed: {recipe.name} version {built.published.version} stands")


@app.command()
def verify(
    path: RecipePath,
    repository: Repository = REPOSITORY,
    work: Work = WORK,
    triton_url: Annotated[
        str | None, typer.Option(help="Running server that serves it, host:port of gRPC.")
    ] = None,
) -> None:
    """Compare what is published now with its source; end with status 7 where answers moved."""
    from export.building.verifying import compare_published
    from export.parity.gate import require
    from export.parity.report import write_report
    from export.repository.layout import ModelFolders

    recipe = load_recipe(path)
    with _stage_progress() as progress:
        slices = progress.count("compare", "slices")
        comparison = compare_published(recipe, repository, url=triton_url, advance=slices)
    segments = ModelFolders(repository, recipe.name).spec.segments
    files = write_report(comparison, recipe.export.limits, work / recipe.name / "verify", segments)
    _console.print(f"parity report: {files.html}")
    require(comparison.report, recipe.export.limits)
    _console.print(f"{recipe.name}: the answers are those of the float32 network")


@app.command()
def bench(
    path: RecipePath,
    repository: Repository = REPOSITORY,
    work: Work = WORK,
    seconds: Annotated[float, typer.Option(help="About how long to measure.")] = 60.0,
    threads: Annotated[int, typer.Option(help="CPU threads of an engine; 0: its choice.")] = 0,
) -> None:
    """Measure the engines of the last build by themselves."""
    from export.benchmark.measuring import BenchOptions
    from export.benchmark.page import bench_markdown, bench_table, draw_bench
    from export.benchmark.records import write_bench
    from export.building.benching import bench_built

    recipe = load_recipe(path)
    folder = work / recipe.name
    with _stage_progress() as progress:
        step = progress.count("bench", "steps")
        report = bench_built(
            recipe,
            folder,
            repository,
            BenchOptions(seconds, threads=threads),
            lambda _: step(1),
        )
    _console.print(bench_table(report))
    write_bench(report, folder / "bench" / "bench.json")
    (folder / "bench" / "bench.md").write_text(bench_markdown(report), encoding="utf-8")
    (folder / "bench" / "bench.png").write_bytes(draw_bench(report))
    _console.print(f"record, table and plot: {folder / 'bench'}")


@app.command()
def tune(
    path: RecipePath,
    repository: Repository = REPOSITORY,
    work: Work = WORK,
    minutes: Annotated[float, typer.Option(help="How long to search, at most.")] = 10.0,
    p99_ms: Annotated[
        float | None,
        typer.Option(help="Limit for a slice that comes alone; without: 1.25 times today's p99."),
    ] = None,
    write: Annotated[bool, typer.Option(help="Keep the result beside MODEL.yaml.")] = True,
) -> None:
    """Search the settings that serve a published model fastest; `build` then uses them."""
    from export.tuned import tuning_path, write_tuning
    from export.tuning.page import chosen, trial_line, tuning_tables
    from export.tuning.tuning import TuneOptions, tune

    recipe = load_recipe(path)
    options = TuneOptions(repository, work / recipe.name, minutes, p99_ms)
    with _console.status("serving the model"):
        tuned = tune(recipe, options, lambda what, one: _console.print(trial_line(what, one)))
    for table in tuning_tables(tuned.tuning):
        _console.print(table)
    for line in (*tuned.left_out, *chosen(tuned.tuning)):
        _console.print(line, highlight=False)
    if not write:
        _console.print("not written")
        return
    write_tuning(tuned.tuning, tuning_path(path))
    _console.print(f"record: {tuning_path(path)}; build {path} serves what was chosen")


@app.command()
def plans(
    repository: Repository = REPOSITORY,
    work: Work = WORK,
    check: Annotated[bool, typer.Option(help="Build nothing; 6 where one misfits.")] = False,
    version_compatible: Annotated[
        bool, typer.Option(help="Later TensorRT versions may run the plans too.")
    ] = False,
    hardware: Annotated[
        HardwareCompatibility, typer.Option(help="Which other GPUs may run the plans.")
    ] = HardwareCompatibility.NONE,
) -> None:
    """On a machine with a GPU: build the TensorRT plans of a repository, or check them."""
    from export.building.plans import build_plans
    from export.engines.plan_key import PlanOptions, check_plans
    from export.engines.tensorrt_plan import this_machine

    machine = this_machine()
    if check:
        for plan in check_plans(repository, machine):
            _console.print(f"fits: {plan}")
        return
    options = PlanOptions(version_compatible=version_compatible, hardware=hardware)
    for outcome in build_plans(repository, options, work / "plans", machine):
        done = f"built in {outcome.seconds:.1f} s" if outcome.built else "stands"
        _console.print(f"{outcome.plan}: {done}")


def _show_preview(recipe: Recipe, stages: list[tuple[str, bool]]) -> None:
    table = Table("stage", "would", title=recipe.name)
    for name, runs in stages:
        table.add_row(name, "run" if runs else "be kept")
    _console.print(table)


class _Stages:
    """A bar for each stage: it moves while the stage runs, and keeps its time when it ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def announce(self, name: str, what: str, seconds: float) -> None:
        """See ``StageRunner``."""
        if not self._progress.console.is_terminal:
            times = f" {seconds:.1f} s" if what == "done" else ""
            self._progress.console.print(f"{name}: {_WORDS[what]}{times}")
        elif what == "run":
            self._tasks[name] = self._progress.add_task(name, total=None, note="")
        elif what == "skip":
            self._progress.add_task(name, total=1, completed=1, note="nothing changed")
        else:
            self._progress.update(self._tasks[name], total=1, completed=1, note=f"{seconds:.1f} s")

    def count(self, name: str, what: str) -> Callable[[int], None]:
        """A bar that counts."""
        task = self._progress.add_task(name, total=None, note="")

        def advance(slices: int) -> None:
            self._progress.advance(task, slices)
            done = int(self._progress.tasks[task].completed)
            self._progress.update(task, note=f"{done} {what}")

        return advance


_WORDS = {"run": "starts", "skip": "nothing changed", "done": "done in"}


@contextmanager
def _stage_progress() -> Iterator[_Stages]:
    columns = (TextColumn("{task.description:16}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=_console) as progress:
        yield _Stages(progress)


def main() -> None:
    """Run the command line; our own errors become one readable line and an exit code."""
    # Libraries whose chatter is sent elsewhere share sys.stdout with us; the bars do not.
    _console.file = sys.stdout
    try:
        app()
    except ExportError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)

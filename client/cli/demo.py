"""demo: the whole real stack, one real study, every output; then everything is stopped."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from client.cli.console import Output, run_async
from client.cli.sending import connect, find_files, follow, save_result, send
from client.errors import ConfigurationError, RefusalCode, Rejected
from client.jobs import JobState
from client.settings import Settings
from client.stack.scratch import scratch_stack
from preprocess.spec import find_model_specs

__all__ = ("demo",)

_SAMPLE = Path(__file__).parents[2] / "samples" / "colin27_mr"
_SEGMENTATION = "segmentation-001.dcm"


@dataclass(frozen=True)
class _Run:
    """What the demo saw: files of the result by name, and wall seconds by step."""

    files: dict[str, bytes]
    seconds: dict[str, float]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the outputs.")] = Path("demo-output"),
    study: Annotated[
        Path | None, typer.Option(help="A DICOM series of your own instead of the sample.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Start the real stack, send a head MR study, show and write the result, stop everything.

    Keys, certificates, ledger and store live in a scratch folder that is removed at the end; only
    the decrypted outputs stay.
    """
    output = Output(as_json)
    files = find_files([study or _SAMPLE])
    if study is None:
        files = [path for path in files if path.suffix == ".dcm"]
    began = time.monotonic()
    with _stack(output.console) as (settings, start_s):
        run = run_async(_send_and_fetch(settings, files, output.console))
    run.seconds["start the stack"] = start_s
    written = _write_outputs(run, files, settings, out)
    _show(output, run, written, time.monotonic() - began)


@contextlib.contextmanager
def _stack(console: Console) -> Iterator[tuple[Settings, float]]:
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="hounsfield-demo-") as home,
        contextlib.ExitStack() as running,
    ):
        with console.status("Starting queue, Triton, gateway and worker …"):
            settings = running.enter_context(scratch_stack(Path(home)))
        start_s = time.monotonic() - began
        console.print(f"The stack is up after {start_s:.1f} s.")
        yield settings, start_s
        with console.status("Stopping everything …"):
            running.close()


async def _send_and_fetch(settings: Settings, files: list[Path], console: Console) -> _Run:
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds[step] = time.monotonic() - began

    async with connect(settings) as client:
        with timed("encrypt and send"):
            job = await send(client, files, console)
        with timed("process"):
            job = await follow(client, job, console)
        if job.state is JobState.REJECTED:
            raise Rejected(RefusalCode(job.code), job.reason)
        if job.state is not JobState.DONE:
            raise ConfigurationError(f"The job ended as {job.state}: {job.code} {job.reason}")
        with timed("fetch and decrypt"):
            result = await client.fetch(job.id)
    return _Run(result, seconds)


def _write_outputs(run: _Run, files: list[Path], settings: Settings, out: Path) -> list[Path]:
    from client.overview import overview_from_files

    written = save_result(run.files, out)
    specs = {spec.name: spec for spec in find_model_specs(Path(settings.model_repository))}
    model = json.loads(run.files["measurements.json"])["series"][0]["model"]
    picture = out / "overview.png"
    overview_from_files(files, run.files[_SEGMENTATION], specs[model], picture)
    return [*written, picture]


def _show(output: Output, run: _Run, written: list[Path], total_s: float) -> None:
    report: dict[str, Any] = json.loads(run.files["measurements.json"])
    series = report["series"][0]
    steps = {**run.seconds, "everything": total_s}
    if output.as_json:
        output.value({"report": report, "seconds": steps, "files": [str(p) for p in written]})
        return
    output.rows(
        f"Structures ({series['model']} v{series['model_version']}, {series['slices']} slices, "
        f"{series['plane']})",
        [
            {
                "structure": structure["label"],
                "ml": f"{structure['volume_ml']:.1f}",
                "voxels": structure["voxels"],
            }
            for structure in series["structures"]
        ],
    )
    stages = [
        {"step": f"  of it: {k}", "seconds": f"{v:.2f}"} for k, v in report["stages_s"].items()
    ]
    rows = [{"step": name, "seconds": f"{spent:.2f}"} for name, spent in steps.items()]
    place = next(i for i, row in enumerate(rows) if row["step"] == "process") + 1
    output.rows("Time", rows[:place] + stages + rows[place:])
    output.rows("Outputs", [{"file": str(path), "bytes": path.stat().st_size} for path in written])

"""submit, jobs, show, fetch, cancel: studies and their results from the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from client.cli.console import ExitCode, Output, bytes_progress, run_async, stage_progress
from client.crypto.keydirectory import KeyDirectory
from client.errors import ConfigurationError, NotFound
from client.ingest.sender import IngestClient, SenderSettings
from client.jobs import Job, JobState, Priority
from client.settings import Settings, load_settings

__all__ = (
    "cancel",
    "connect",
    "fetch",
    "find_files",
    "follow",
    "jobs",
    "save_result",
    "send",
    "show",
    "submit",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobArgument = Annotated[
    str, typer.Argument(help="The job's id, or its first characters as `hounsfield jobs` shows it.")
]
_FULL_ID = 36
_SHORT_ID = 8
_LOOK_BACK = 500
_EXITS = {
    JobState.REJECTED: ExitCode.REJECTED,
    JobState.FAILED: ExitCode.FAILED,
    JobState.CANCELLED: ExitCode.FAILED,
}


def submit(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders of one study.")],
    priority: Annotated[
        Priority, typer.Option(help="stat overtakes every waiting routine study.")
    ] = Priority.ROUTINE,
    model: Annotated[str, typer.Option(help="A model by name instead of routing by rules.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Encrypt one study on this machine and hand it in.

    Every file below PATH is sent; what is not a DICOM image is refused by name of a code, not by
    silence. Exit code 0: stored (with --wait: done), 4: rejected, 8: failed.
    """
    output = Output(as_json)
    files = find_files(paths)
    settings = load_settings()

    async def work() -> Job:
        async with connect(settings) as client:
            job = await send(client, files, output.console, priority=priority, model=model)
            return await follow(client, job, output.console) if wait else job

    job = run_async(work())
    output.value(_row(job))
    output.say(_sentence(job))
    if job.state in _EXITS:
        raise typer.Exit(_EXITS[job.state])


def jobs(
    limit: Annotated[int, typer.Option(help="At most so many, the newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List this tenant's jobs, the newest first."""

    async def work() -> tuple[Job, ...]:
        async with connect(load_settings()) as client:
            return await client.list_jobs(limit=limit)

    rows = [_row(job) for job in run_async(work())]
    Output(as_json).rows("Jobs", rows if as_json else [_short(row) for row in rows])


def show(job: JobArgument, as_json: JsonOption = False) -> None:
    """Show one job: where it is, how far, and why it was refused if it was."""

    async def work() -> Job:
        async with connect(load_settings()) as client:
            return await client.get(await _whole_id(client, job))

    output = Output(as_json)
    row = _row(run_async(work()))
    if as_json:
        output.value(row)
    else:
        output.rows("Job", [{"field": key, "value": str(value)} for key, value in row.items()])


def fetch(
    job: JobArgument,
    out: Annotated[Path, typer.Option(help="Folder for the decrypted files.")] = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Fetch a result, decrypt it on this machine and write its files.

    The files hold patient data: choose a folder where such data may lie.
    """

    async def work() -> dict[str, bytes]:
        async with connect(load_settings()) as client:
            return await client.fetch(await _whole_id(client, job))

    output = Output(as_json)
    written = save_result(run_async(work()), out)
    output.rows("Result", [{"file": str(path), "bytes": path.stat().st_size} for path in written])


def cancel(job: JobArgument, as_json: JsonOption = False) -> None:
    """Cancel a job that has not ended; one that has keeps its state."""

    async def work() -> Job:
        async with connect(load_settings()) as client:
            return await client.cancel(await _whole_id(client, job))

    output = Output(as_json)
    answer = run_async(work())
    output.value(_row(answer))
    output.say(_sentence(answer))


def connect(settings: Settings) -> IngestClient:
    """Return a client of the gateway that the settings name, as their tenant."""
    keys = KeyDirectory(Path(settings.keys))
    return IngestClient(
        SenderSettings(
            address=settings.gateway,
            tenant=settings.tenant,
            tls=keys.sender_tls(settings.tenant),
            result_keys=keys.result_keys(settings.tenant),
            token=settings.token,
            token_file=Path(settings.token_file) if settings.token_file else None,
            break_glass_reason=settings.break_glass_reason,
            pseudonym_key=keys.pseudonym_key(settings.tenant),
        )
    )


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return every regular file at or below the paths, sorted; hidden ones are left out.

    Raises:
        ConfigurationError: A path does not exist, or there is no file.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"Expected a file or folder, but {path} does not exist.")
        found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        files += [p for p in found if not p.name.startswith(".")]
    if not files:
        raise ConfigurationError(f"No file in {os.pathsep.join(map(str, paths))}.")
    return files


async def send(
    client: IngestClient,
    files: list[Path],
    console: Console,
    *,
    priority: Priority = Priority.ROUTINE,
    model: str = "",
) -> Job:
    """Send a study with a progress bar."""
    total = sum(path.stat().st_size for path in files)
    with bytes_progress(console) as bar:
        task = bar.add_task(f"Sending {len(files)} files", total=total)
        return await client.submit(
            files,
            priority=priority,
            model=model,
            on_progress=lambda sent, of: bar.update(task, completed=sent, total=of),
        )


async def follow(client: IngestClient, job: Job, console: Console) -> Job:
    """Watch a job to its end with a progress bar."""
    with stage_progress(console) as bar:
        task = bar.add_task(str(job.state), total=1.0)
        async for now in client.watch(job.id):
            job = now
            bar.update(
                task,
                description=f"{now.state} {now.stage}".strip(),
                completed=1.0 if now.state is JobState.DONE else now.progress,
            )
    return job


def save_result(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write the files of a result, readable by this user only; return their paths."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for name, content in sorted(files.items()):
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        written.append(path)
    return written


async def _whole_id(client: IngestClient, start: str) -> str:
    """Complete the first characters of a job's id.

    Raises:
        NotFound: No recent job, or more than one, begins so.
    """
    if len(start) >= _FULL_ID:
        return start
    fits = [job.id for job in await client.list_jobs(limit=_LOOK_BACK) if job.id.startswith(start)]
    if len(fits) != 1:
        raise NotFound(f"{len(fits) or 'No'} jobs begin with {start!r}: see `hounsfield jobs`.")
    return fits[0]


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"][:_SHORT_ID],
        "state": row["state"],
        "priority": row["priority"],
        "try": row["attempt"],
        "stage": f"{row['stage']} {row['progress']:.0%}" if row["stage"] else "",
        "code": row["code"],
        "created": row["created"],
    }


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": str(job.state),
        "priority": str(job.priority),
        "model": job.model,
        "attempt": job.attempt,
        "stage": job.stage,
        "progress": round(job.progress, 2),
        "code": job.code,
        "reason": job.reason,
        "study_bytes": job.object_bytes,
        "result_bytes": job.result_bytes,
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S}",
        "updated": f"{job.updated_at:%Y-%m-%d %H:%M:%S}",
        "upload_id": job.upload_id,
    }


def _sentence(job: Job) -> str:
    short = job.id[:_SHORT_ID]
    match job.state:
        case JobState.DONE:
            return f"Job {short} is done. Get it:  hounsfield fetch {short} --out results"
        case JobState.REJECTED | JobState.FAILED:
            return f"Job {short} {job.state}: {job.code}. {job.reason}"
        case _:
            return f"Job {short} is {job.state}. Watch it:  hounsfield show {short}"

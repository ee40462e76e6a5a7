"""What the commands of a sender share: its connection, its files, its progress bars.

paths ──find_files──▶ send ──▶ follow ──▶ fetch ──save_result──▶ folder
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.cli.console import bytes_progress, stage_progress
from client.crypto.keydirectory import KeyDirectory
from client.errors import ConfigurationError, NotFound
from client.ingest.sender import IngestClient, SenderSettings
from client.jobs import Job, JobState, Priority
from client.settings import Settings

__all__ = (
    "JobArgument",
    "JsonOption",
    "connect",
    "find_files",
    "follow",
    "save_result",
    "send",
    "sender_settings",
    "whole_id",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobArgument = Annotated[
    str, typer.Argument(help="The job's id, or its first characters as `hounsfield jobs` shows it.")
]
_FULL_ID = 36
_LOOK_BACK = 500


def connect(settings: Settings) -> IngestClient:
    """Return a client of the gateway that the settings name, as their tenant."""
    return IngestClient(sender_settings(settings))


def sender_settings(settings: Settings) -> SenderSettings:
    """Return how the commands call the gateway."""
    keys = KeyDirectory(Path(settings.keys))
    return SenderSettings(
        address=settings.gateway,
        tenant=settings.tenant,
        tls=keys.sender_tls(settings.tenant),
        result_keys=keys.result_keys(settings.tenant),
        token=settings.token,
        token_file=Path(settings.token_file) if settings.token_file else None,
        break_glass_reason=settings.break_glass_reason,
        pseudonym_key=keys.pseudonym_key(settings.tenant),
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
    process_again: bool = False,
) -> Job:
    """Send a study with a progress bar."""
    total = sum(path.stat().st_size for path in files)
    with bytes_progress(console) as bar:
        task = bar.add_task(f"Sending {len(files)} files", total=total)
        return await client.submit(
            files,
            priority=priority,
            model=model,
            process_again=process_again,
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


async def whole_id(client: IngestClient, start: str) -> str:
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

"""submit, jobs, jobs retry, show, fetch, cancel: studies and results from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.cli.console import ExitCode, Output, run_async
from client.cli.job_views import job_row, sentence, short_row
from client.cli.sending import (
    JobArgument,
    JsonOption,
    connect,
    find_files,
    follow,
    save_result,
    send,
    whole_id,
)
from client.cli.typed_ids import IssuerOption, PatientOption, typed
from client.crypto.labels import StudyLabel
from client.jobs import Job, JobState, Priority
from client.settings import load_settings
from client.telemetry.tracestart import tracing

__all__ = ("app", "cancel", "fetch", "show", "submit")

app = typer.Typer(help="List this tenant's jobs, or give one a fresh set of tries.")

_Labelled = tuple[Job, StudyLabel | None]
_EXITS = {
    JobState.REJECTED: ExitCode.REJECTED,
    JobState.FAILED: ExitCode.FAILED,
    JobState.DEAD: ExitCode.FAILED,
    JobState.CANCELLED: ExitCode.FAILED,
}


def submit(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders of one study.")],
    *,
    priority: Annotated[
        Priority, typer.Option(help="stat overtakes every waiting routine study.")
    ] = Priority.ROUTINE,
    model: Annotated[str, typer.Option(help="A model by name instead of routing by rules.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Process it even if it was sent before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Encrypt one study on this machine and hand it in.

    Every file below PATH is sent; what is not a DICOM image is refused by name of a code, not by
    silence. The same files sent again are the same job, unless that one failed. Exit code 0:
    stored (with --wait: done), 4: rejected, 8: failed.
    """
    output = Output(as_json)
    files = find_files(paths)

    settings = load_settings()

    async def work() -> _Labelled:
        async with connect(settings) as client:
            job = await send(
                client, files, output.console, priority=priority, model=model, process_again=again
            )
            job = await follow(client, job, output.console) if wait else job
            return job, client.label(job)

    with tracing(settings, "sender"):
        job, label = run_async(work())
    output.value(job_row(job, label))
    output.say(sentence(job))
    if job.state in _EXITS:
        raise typer.Exit(_EXITS[job.state])


@app.callback(invoke_without_command=True)
def list_jobs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="At most so many, the newest first.")] = 20,
    patient: PatientOption = "",
    issuer: IssuerOption = "",
    as_json: JsonOption = False,
) -> None:
    """List this tenant's jobs, the newest first.

    The column "study" is decrypted on this machine; a patient is looked for by a keyed hash, and
    the id itself is not sent.
    """
    if context.invoked_subcommand is not None:
        return

    async def work() -> list[_Labelled]:
        async with connect(load_settings()) as client:
            pseudonym = client.pseudonym(typed(patient), issuer)
            found = await client.list_jobs(limit=limit, patient=pseudonym)
            return [(job, client.label(job)) for job in found]

    row = job_row if as_json else short_row
    Output(as_json).rows("Jobs", [row(job, label) for job, label in run_async(work())])


@app.command("retry")
def retry(job: JobArgument, as_json: JsonOption = False) -> None:
    """Give a dead, failed or rejected job a fresh set of tries, after its reason was mended."""

    async def work() -> _Labelled:
        async with connect(load_settings()) as client:
            answer = await client.retry(await whole_id(client, job))
            return answer, client.label(answer)

    _tell(*run_async(work()), Output(as_json))


def show(job: JobArgument, as_json: JsonOption = False) -> None:
    """Show one job: where it is, how far, and why it was refused if it was."""

    async def work() -> _Labelled:
        async with connect(load_settings()) as client:
            answer = await client.get(await whole_id(client, job))
            return answer, client.label(answer)

    output = Output(as_json)
    row = job_row(*run_async(work()))
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
            return await client.fetch(await whole_id(client, job))

    output = Output(as_json)
    written = save_result(run_async(work()), out)
    output.rows("Result", [{"file": str(path), "bytes": path.stat().st_size} for path in written])


def cancel(job: JobArgument, as_json: JsonOption = False) -> None:
    """Cancel a job that has not ended; one that has keeps its state."""

    async def work() -> _Labelled:
        async with connect(load_settings()) as client:
            answer = await client.cancel(await whole_id(client, job))
            return answer, client.label(answer)

    _tell(*run_async(work()), Output(as_json))


def _tell(job: Job, label: StudyLabel | None, output: Output) -> None:
    output.value(job_row(job, label))
    output.say(sentence(job))

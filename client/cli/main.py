"""The `hounsfield` command: its parts, its help and how errors end it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from client.cli import (
    audit_commands,
    care_commands,
    demo,
    doctor,
    job_commands,
    key_commands,
    patient_commands,
    report_commands,
    stack_commands,
    token_commands,
)
from client.cli.console import report_error
from client.cli.deidentify_command import deidentify
from client.discretion import forbid_core_dumps
from client.errors import ClientError
from client.version import SOFTWARE_VERSION

__all__ = ("app", "main")

_HELP = """Encrypted CT, MR and X-ray studies in, standard DICOM segmentations out.

First steps:  hounsfield demo  ·  hounsfield up  ·  hounsfield submit FOLDER --wait

Exit codes: 0 well, 1 unexpected, 2 wrong usage, 3 something is missing or set wrongly, 4 the study
was rejected, 5 not reachable or full, 6 no such job, 7 not allowed, 8 the job failed.
"""

app = typer.Typer(
    help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


@app.callback()
def _global(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        typer.echo(SOFTWARE_VERSION)
        raise typer.Exit


app.command()(demo.demo)
app.command()(stack_commands.up)
app.command()(stack_commands.status)
app.command()(stack_commands.down)
app.command()(job_commands.submit)
app.add_typer(job_commands.app, name="jobs")
app.command()(job_commands.show)
app.command()(job_commands.fetch)
app.command()(job_commands.cancel)
app.command()(patient_commands.erase)
key_commands.app.command()(token_commands.revoke)
app.add_typer(key_commands.app, name="keys")
app.command()(token_commands.token)
app.add_typer(audit_commands.app, name="audit")
app.add_typer(report_commands.app, name="report")
app.command()(care_commands.backup)
app.command()(care_commands.restore)
app.command()(care_commands.verify)
app.command()(deidentify)
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line; our own errors become one readable line and an exit code."""
    forbid_core_dumps()
    try:
        app()
    except ClientError as error:
        sys.exit(report_error(error, "--json" in sys.argv))

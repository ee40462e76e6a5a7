"""erase: makes every copy of a patient's studies and results unreadable, from the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli.console import Output, run_async
from client.cli.sending import JsonOption, connect
from client.cli.typed_ids import IssuerOption, PatientOption, typed
from client.ingest.sender import Erasure
from client.settings import load_settings

__all__ = ("erase",)


def erase(
    *,
    reason: Annotated[
        str, typer.Option(help="Why, for the audit trail: 3 to 200 characters, no patient data.")
    ],
    patient: PatientOption = "",
    issuer: IssuerOption = "",
    upload: Annotated[
        str, typer.Option(help="Upload id of a study whose files have no Patient ID.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase a patient: destroy the key without which no copy can be read, in backups neither.

    There is no way back. Jobs that have not ended fail. What is printed is the proof: the entry's
    place and hash in the audit trail. Keep it. Results that were fetched already, and the files
    they came from, are yours to delete.
    """
    if bool(patient) == bool(upload):
        raise typer.BadParameter("Give either --patient or --upload.")
    patient = typed(patient)
    if not yes:
        typer.confirm(
            "Erase every study and result of this patient for good?", abort=True, err=True
        )

    async def work() -> Erasure:
        async with connect(load_settings()) as client:
            pseudonym = client.pseudonym(patient, issuer)
            return await client.erase(patient=pseudonym, upload_id=upload, reason=reason)

    proof = run_async(work())
    output = Output(as_json)
    output.value(
        {"jobs": proof.jobs, "event_number": proof.event_number, "event_hash": proof.event_hash}
    )
    output.say(
        f"Erased: {proof.jobs} jobs can no longer be read. Proof: entry {proof.event_number} of "
        f"the audit trail, {proof.event_hash}"
    )

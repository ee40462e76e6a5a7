"""How a patient is named on the command line without leaving the id in the shell's history."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ("IssuerOption", "PatientOption", "typed")

PatientOption = Annotated[
    str,
    typer.Option(
        "--patient",
        help="Patient ID (0010,0020); - asks for it, so that no shell keeps it in its history.",
    ),
]
IssuerOption = Annotated[
    str, typer.Option("--issuer", help="Issuer of Patient ID (0010,0021), where the files have it.")
]


def typed(patient_id: str) -> str:
    """Return a Patient ID as given, or ask for it where ``-`` was.

    Raises:
        typer.BadParameter: It is blank, which would be every patient, not one.
    """
    if patient_id == "-":
        patient_id = typer.prompt("Patient ID", err=True)
    if patient_id.isspace():
        raise typer.BadParameter("A Patient ID is not blank.")
    return patient_id

"""audit show, export, verify: the audit trail from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.audittrail import AuditEvent
from client.cli.console import ExitCode, Output, run_async
from client.cli.sending import connect
from client.errors import ConfigurationError
from client.settings import Settings, load_settings

__all__ = ("app",)

app = typer.Typer(
    no_args_is_help=True, help="Who did what and when: a chain of entries that nobody can alter."
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
AfterOption = Annotated[int, typer.Option(help="Only entries after this number.", min=0)]


@app.command("show")
def show(
    after: AfterOption = 0,
    limit: Annotated[int, typer.Option(help="At most so many, the oldest first.", min=1)] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show the tenant's entries; needs a token with the role auditor.

    The table is abridged; --json and `audit export` tell everything.
    """
    rows = [_row(event) for event in _events(load_settings(), after, limit)]
    Output(as_json).rows("Audit trail", rows if as_json else [_short(row) for row in rows])


@app.command("export")
def export(
    out: Annotated[Path, typer.Option(help="File to write; - is standard output.")] = Path("-"),
    after: AfterOption = 0,
    source: Annotated[str, typer.Option(help="Name of this installation.")] = "hounsfield",
) -> None:
    """Write the tenant's entries as DICOM audit messages: one FHIR AuditEvent a line.

    The fields are those of DICOM PS3.15 A.5. Go on later with --after and the last number.
    """
    from client.auditmessages import audit_message

    settings = load_settings()
    lines = [json.dumps(audit_message(event, source)) for event in _events(settings, after)]
    text = "".join(f"{line}\n" for line in lines)
    if str(out) == "-":
        sys.stdout.write(text)
        return
    out.write_text(text)
    Output(False).say(f"{len(lines)} entries written to {out}.")


@app.command("verify")
def verify(
    expect: Annotated[
        list[str] | None,
        typer.Option(help="TENANT:NUMBER:HASH of an entry that was noted earlier; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every chain in the ledger; exit code 8 when an entry was altered, lost or moved.

    Works on the ledger itself and needs its audit key. Note an entry's number and hash elsewhere
    from time to time and give them with --expect: only that tells of a ledger that was set back as
    a whole.
    """
    from client.crypto.keydirectory import KeyDirectory
    from client.ledger.ledger import Ledger

    settings = load_settings()
    noted = [_noted(text) for text in expect or ()]

    async def work() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        key = KeyDirectory(Path(settings.keys)).audit_key()
        async with Ledger(settings.ledger_url, key) as ledger:
            reports = await ledger.verify_chains()
            missing = [
                {"tenant": tenant, "number": number, "fault": "is not the entry that was noted"}
                for tenant, number, noted_hash in noted
                if [e.hash for e in await ledger.audit_events(tenant, number - 1, 1)]
                != [noted_hash]
            ]
        chains = [
            {
                "tenant": report.tenant,
                "entries": report.events,
                "last hash": report.head_hash,
                "faults": len(report.faults),
            }
            for report in reports
        ]
        faults = [
            {"tenant": report.tenant, "number": fault.number, "fault": fault.what}
            for report in reports
            for fault in report.faults
        ]
        return chains, faults + missing

    chains, faults = run_async(work())
    output = Output(as_json)
    if as_json:
        output.value({"chains": chains, "faults": faults})
    else:
        output.rows("Chains of the audit trail", chains)
        if faults:
            output.rows("Faults", faults)
    if faults:
        raise typer.Exit(ExitCode.FAILED)
    output.say("Every entry is as it was written.")


def _events(settings: Settings, after: int, limit: int | None = None) -> list[AuditEvent]:
    async def work() -> list[AuditEvent]:
        async with connect(settings) as client:
            return [event async for event in client.events(after, limit)]

    return run_async(work())


def _noted(text: str) -> tuple[str, int, str]:
    tenant, _, rest = text.partition(":")
    number, _, entry_hash = rest.partition(":")
    if not number.isdigit() or len(entry_hash) != 64:
        raise ConfigurationError(
            f"Expected TENANT:NUMBER:HASH with 64 hexadecimal digits, got {text!r}."
        )
    return tenant, int(number), entry_hash


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": row["number"],
        "at": row["at"],
        "who": " ".join(filter(None, (row["actor"][:24], row["role"]))),
        "what": " ".join(filter(None, (row["action"], row["outcome"], row["code"]))),
        "job": " ".join(filter(None, (row["job"][:8], row["state"]))),
        "detail": row["detail"],
        "hash": row["hash"][:8],
    }


def _row(event: AuditEvent) -> dict[str, Any]:
    return {
        "number": event.number,
        "at": f"{event.at:%Y-%m-%d %H:%M:%S}",
        "actor": event.actor,
        "role": event.role,
        "action": event.action,
        "outcome": str(event.outcome),
        "job": event.job_id,
        "state": event.state,
        "code": event.code,
        "detail": event.detail,
        "hash": event.hash,
    }

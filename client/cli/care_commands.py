"""backup, restore, verify: keeps what the system holds safe, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli.console import ExitCode, Output, run_async
from client.crypto.keydirectory import KeyDirectory
from client.errors import ConfigurationError
from client.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from client.ledger.verification import ChainReport
    from client.objectstore.objects import ObjectStore

__all__ = ("backup", "restore", "verify")

_NO_KEYS = (
    "Not saved: the KEYS folder (certificates, private keys, audit key, KEYS/kek). Keep a copy of "
    "it elsewhere; without it nothing that was saved can be read or verified."
)
_NO_VAULT = (
    "Not saved: the vault with the patients' keys. Save it apart, with --keys and another place."
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def backup(
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A folder, or the URL of an object store.")
    ],
    keys: Annotated[
        str, typer.Option(help="Save the vault too: another folder or URL, kept apart from DEST.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Save ledger and objects of the running system; only what DEST lacks is copied.

    A run that is stopped leaves the former backup in DEST as it was.
    """
    from client.audittrail import AuditEntry
    from client.backup.backup import BackupReport, back_up
    from client.backup.keybackup import back_up_keys
    from client.backup.snapshot import LedgerRows
    from client.jobs import Actor
    from client.ledger.audit import SYSTEM_TENANT
    from client.ledger.ledger import Ledger
    from client.objectstore.stores import open_store

    settings = load_settings()
    _refuse_together(destination, keys)

    async def work() -> BackupReport:
        audit_key = KeyDirectory(Path(settings.keys)).audit_key()
        store, target = open_store(settings.store_url), _place(destination)
        async with LedgerRows(settings.ledger_url) as rows:
            report = await back_up(rows, store, target)
        if keys:  # after the ledger: every key that its rows name is there by now
            await back_up_keys(settings.vault_url, _place(keys))
        async with Ledger(settings.ledger_url, audit_key) as ledger:
            entry = AuditEntry("ledger.saved", detail=f"backup of {report.manifest.made_at}")
            await ledger.record(SYSTEM_TENANT, Actor("backup"), entry)
        return report

    report = run_async(work())
    output = Output(as_json)
    faults = [{"object": fault.key, "fault": fault.what} for fault in report.faults]
    output.value(
        {
            "made_at": report.manifest.made_at,
            "objects": report.objects,
            "copied": report.copied,
            "copied_bytes": report.copied_bytes,
            "faults": faults,
        }
    )
    output.say(
        f"Saved as of {report.manifest.made_at}: {report.objects} objects, of which "
        f"{report.copied} ({report.copied_bytes / 1e6:.1f} MB) were new."
    )
    output.say(_NO_KEYS if keys else f"{_NO_VAULT}\n{_NO_KEYS}")
    _end(output, "Objects that the system itself has lost", faults)


def restore(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Where `hounsfield backup` saved to.")
    ],
    keys: Annotated[str, typer.Option(help="Where it saved the vault to.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Bring a backup back into an empty system; every hash is checked before it says done.

    Stop the system first and bring back its KEYS folder. Another database or store than before
    may be set: a backup of SQLite restores into PostgreSQL and back. Keys of patients that the
    ledger calls erased are not brought back.
    """
    from client.backup.keybackup import restore_keys
    from client.backup.restoring import RestoreReport, restore
    from client.objectstore.stores import open_store

    settings = load_settings()

    async def work() -> tuple[RestoreReport, int]:
        audit_key = KeyDirectory(Path(settings.keys)).audit_key()
        store = open_store(settings.store_url)
        report = await restore(_saved_at(source), settings.ledger_url, audit_key, store)
        number = 0
        if keys:
            number = await restore_keys(_saved_at(keys), settings.vault_url, report.erased_keys)
        return report, number

    report, number = run_async(work())
    output = Output(as_json)
    faults = _chain_faults(report.chains)
    output.value(
        {
            "made_at": report.manifest.made_at,
            "objects": report.objects,
            "keys": number,
            "lost_before": report.manifest.faults,
            "faults": faults,
        }
    )
    output.say(f"Restored as of {report.manifest.made_at}: {report.objects} objects, every hash as")
    output.say(f"it was; {number} patients' keys.")
    if not keys:
        output.say("The vault was not restored: give --keys, or studies and results stay closed.")
    _end(output, "Faults in the audit trail", faults)


def verify(
    backup: Annotated[
        str, typer.Option(help="Verify this backup instead of the running system.")
    ] = "",
    keys: Annotated[
        str, typer.Option(help="Look for keys in this backup of the vault that were erased since.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Read every object again and recompute the audit trail; exit code 8 when something differs."""
    faults: list[dict[str, Any]] = []
    told: dict[str, Any] = {}
    if backup or not keys:
        told, faults = run_async(_verify_backup(backup) if backup else _verify_system())
    if keys:
        erased = run_async(_erased_since(keys))
        told["erased_keys"] = len(erased)
        faults += erased
    output = Output(as_json)
    output.value({**told, "faults": faults})
    for name, value in told.items():
        output.say(f"{name.replace('_', ' ')}: {value}")
    _end(output, "Faults", faults)
    output.say("Everything is as it was written.")


async def _verify_system() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from client.backup.checking import check_ledger_objects
    from client.ledger.ledger import Ledger
    from client.objectstore.stores import open_store

    settings = load_settings()
    audit_key = KeyDirectory(Path(settings.keys)).audit_key()
    async with Ledger(settings.ledger_url, audit_key) as ledger:
        number, found = await check_ledger_objects(ledger, open_store(settings.store_url))
        chains = await ledger.verify_chains()
    faults = [{"object": fault.key, "fault": fault.what} for fault in found]
    told = {"objects": number, "audit_entries": sum(chain.events for chain in chains)}
    return told, faults + _chain_faults(chains)


async def _verify_backup(place: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from client.backup.restoring import check_backup, check_chains

    source = _saved_at(place)
    checked = await check_backup(source)
    chains: tuple[ChainReport, ...] = ()
    if checked.rows_whole:
        audit_key = KeyDirectory(Path(load_settings().keys)).audit_key()
        chains = await check_chains(source, checked.manifest, audit_key)
    faults = [{"object": fault.key, "fault": fault.what} for fault in checked.faults]
    faults += [{"object": key, "fault": "was lost before"} for key in checked.manifest.faults]
    told = {
        "made_at": checked.manifest.made_at,
        "objects": checked.objects,
        "audit_entries": sum(chain.events for chain in chains),
    }
    return told, faults + _chain_faults(chains)


async def _erased_since(place: str) -> list[dict[str, Any]]:
    from client.backup.keybackup import erased_since

    what = "the patient was erased since: make a new backup of the vault and destroy this one"
    return [
        {"object": f"{key.tenant} {key.subject} {key.id}", "fault": what}
        for key in await erased_since(_saved_at(place), load_settings().vault_url)
    ]


def _chain_faults(chains: Iterable[ChainReport]) -> list[dict[str, Any]]:
    return [
        {"object": f"audit trail of {chain.tenant!r}, entry {fault.number}", "fault": fault.what}
        for chain in chains
        for fault in chain.faults
    ]


def _end(output: Output, title: str, faults: list[dict[str, Any]]) -> None:
    if faults:
        if not output.as_json:
            output.rows(title, faults)
        raise typer.Exit(ExitCode.FAILED)


def _saved_at(text: str) -> ObjectStore:
    if "://" not in text and not Path(text).expanduser().is_dir():
        raise ConfigurationError(f"Expected a backup, but there is no folder {text}.")
    return _place(text)


def _place(text: str) -> ObjectStore:
    from client.objectstore.stores import open_store

    return open_store(text if "://" in text else Path(text).expanduser().absolute().as_uri())


def _refuse_together(destination: str, keys: str) -> None:
    if "://" in destination or "://" in keys or not keys:
        nested = destination == keys
    else:
        one, other = (Path(text).expanduser().resolve() for text in (destination, keys))
        nested = one.is_relative_to(other) or other.is_relative_to(one)
    if nested:
        raise ConfigurationError(
            "Expected --keys in another place than DEST: who has both can read everything, and "
            "erasing a patient would leave the key in the backup of the studies."
        )

"""keys new, list, rotate, retire: certificates and encryption keys from the command line."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from client.cli.console import Output, run_async
from client.crypto.keydirectory import (
    KeyDescription,
    KeyDirectory,
    create_key_directory,
    describe_keys,
)
from client.jobs import Actor
from client.settings import load_settings

if TYPE_CHECKING:
    from client.vault.rotation import KeyKeeper, Rotation

__all__ = ("app",)

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Certificates and encryption keys of this machine.")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("new")
def new(
    tenant: Annotated[
        str | None, typer.Option(help="Whose sender certificate and result key to make.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="A name or address of the gateway; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make what is missing: authority, gateway and sender certificates, worker and result keys.

    What is there and valid is kept; certificates that end within 30 days are issued anew. Give
    another --tenant to add a sender.
    """
    settings = load_settings()
    found = create_key_directory(Path(settings.keys), tenant or settings.tenant, tuple(host or ()))
    _show(Output(as_json), found)


@app.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """List certificates and keys with their ids and when they end."""
    _show(Output(as_json), describe_keys(Path(load_settings().keys)))


@app.command("rotate")
def rotate(
    kek: Annotated[
        bool, typer.Option("--kek", help="The key that wraps the patients' keys.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Make no new key: go on with what is left.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new worker key, and wrap the key of every stored study for it.

    Nothing stops meanwhile and no object is touched. When it was broken off, --finish goes on.
    Run it where the worker's private keys are. The old key stays until `keys retire`.
    """

    async def work(keeper: KeyKeeper) -> Rotation:
        if kek:
            return await (keeper.rewrap_patients() if finish else keeper.rotate_kek())
        return await (keeper.rewrap_studies() if finish else keeper.rotate_worker_key())

    rotation = _kept(work)
    output = Output(as_json)
    if as_json:
        output.value(asdict(rotation))
        return
    what = "patients' keys" if kek else "studies"
    output.say(f"Key {rotation.key_id} is in use; {rotation.rewrapped} {what} were wrapped for it.")
    for job_id in rotation.damaged:
        output.say(f"Job {job_id} keeps its old key: its header is damaged.")


@app.command("retire")
def retire(key_id: Annotated[str, typer.Argument(help="Id that `keys list` shows.")]) -> None:
    """Destroy an old worker key or key-encrypting key, if nothing needs it any more.

    What is wrapped with it in old backups can never be opened again.
    """
    _kept(lambda keeper: keeper.retire(key_id))
    Output(False).say(f"Key {key_id} is destroyed.")


def _kept(work: Callable[[KeyKeeper], Coroutine[Any, Any, T]]) -> T:
    """Run something with ledger, vault and keys at hand."""
    from client.crypto.keyring import Keyring
    from client.crypto.kms import LocalKeyManager, open_key_manager
    from client.ledger.ledger import Ledger
    from client.vault.rotation import KeyKeeper
    from client.vault.vault import Vault

    settings = load_settings()
    keys = KeyDirectory(Path(settings.keys))
    kek = open_key_manager(settings.kek, keys.kek)

    async def connected() -> T:
        async with (
            Ledger(settings.ledger_url, keys.audit_key()) as ledger,
            Vault(settings.vault_url, kek) as vault,
        ):
            keeper = KeyKeeper(
                ledger,
                vault,
                Keyring(keys.worker_keys),
                kek,
                LocalKeyManager(keys.kek),
                actor=Actor(f"console:{getpass.getuser()}"),
            )
            return await work(keeper)

    return run_async(connected())


def _show(output: Output, found: tuple[KeyDescription, ...]) -> None:
    now = datetime.now(UTC)
    output.rows(
        f"Keys in {load_settings().keys}",
        [
            {
                "kind": key.kind,
                "owner": key.owner,
                "id": key.id,
                "made": f"{key.created_at:%Y-%m-%d}",
                "days left": "–" if key.expires_at is None else str((key.expires_at - now).days),
                "file": key.path.name if not output.as_json else str(key.path),
            }
            for key in found
        ],
    )

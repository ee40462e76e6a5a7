"""keys new, keys list: certificates and encryption keys from the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.cli.console import Output
from client.crypto.keydirectory import KeyDescription, create_key_directory, describe_keys
from client.settings import load_settings

__all__ = ("app",)

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

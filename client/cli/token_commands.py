"""token, keys revoke: who is let in, from the command line."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from client.access.principal import Role
from client.cli.console import Output
from client.crypto.keydirectory import KeyDirectory, describe_keys, revoke_certificate
from client.crypto.privatefiles import write_private
from client.errors import ConfigurationError
from client.settings import load_settings

__all__ = ("revoke", "token")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,6})([smhd])")


class _Earlier(StrEnum):
    """What becomes of tokens of earlier keys."""

    KEEP = "keep"
    END = "end"


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def token(
    role: Annotated[list[Role], typer.Option(help="What the bearer is; repeatable.")],
    name: Annotated[str, typer.Option(help="Who bears it; the audit trail keeps this name.")],
    life: Annotated[
        str, typer.Option("--for", help="How long it counts: 30m, 1h, 1d at most.")
    ] = "1h",
    tenant: Annotated[str | None, typer.Option(help="Whose data it opens.")] = None,
    new_key: Annotated[
        _Earlier | None,
        typer.Option(help="Sign with a new key first: tokens of earlier keys stay valid, or end."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for HOUNSFIELD_TOKEN_FILE, its owner's alone.")
    ] = None,
) -> None:
    """Issue a bearer token with this machine's own issuer: printed, or written to a private file.

    It counts only together with a certificate of the same tenant. It cannot be called back alone:
    `--new-key end` ends every token issued before.
    """
    from client.access.issuer import LocalIssuer

    settings = load_settings()
    keys = KeyDirectory(Path(settings.keys))
    issuer = LocalIssuer(keys.tokens, settings.token_issuer, settings.token_audience)
    earlier = issuer.key_ids()
    if new_key is not None:
        issuer.new_key()
    issued = issuer.issue(tenant or settings.tenant, name, frozenset(role), _seconds(life))
    if out is None:
        typer.echo(issued)
    else:
        write_private(out, f"{issued}\n".encode())
        Output(False).say(f"Use it:  export HOUNSFIELD_TOKEN_FILE={out.absolute()}")
    for kid in earlier if new_key is _Earlier.END else ():
        issuer.retire(kid)


def revoke(
    certificate: Annotated[str, typer.Argument(help="Its id, as `hounsfield keys list` shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Take a sender's certificate back; running gateways refuse it a second later.

    Make a new one for an honest sender: delete senders/<tenant>.pem, then `hounsfield keys new
    --tenant <tenant>`.
    """
    folder = Path(load_settings().keys)
    if not re.fullmatch(r"[0-9a-f]{1,40}", certificate):
        raise ConfigurationError("Expected a certificate's id: hexadecimal, in lower case.")
    here = {key.id for key in describe_keys(folder)}
    path = revoke_certificate(folder, int(certificate, 16))
    output = Output(as_json)
    output.value({"revoked": certificate, "list": str(path), "here": certificate in here})
    output.say(f"Revoked {certificate}. The list is {path}; give it to every gateway.")
    if certificate not in here:
        output.say("No certificate of that id is in this folder: compare it once more.")


def _seconds(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if not found:
        raise ConfigurationError(f"Expected a duration such as 30m, 1h or 1d, got {text!r}.")
    return int(found[1]) * _SECONDS[found[2]]

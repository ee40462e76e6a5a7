"""hounsfield token, hounsfield keys revoke: what they make is what the gateway takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.access.identity import Authenticator
from client.access.principal import TOKEN_KEY, Role
from client.cli.main import app
from client.crypto.keydirectory import KeyDirectory
from client.crypto.privatefiles import read_private
from client.errors import AccessDenied, ConfigurationError, Unauthenticated
from tests.gateways import access_settings

pytestmark = pytest.mark.contract


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.strip()


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyDirectory:
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path))
    run("keys", "new")
    return KeyDirectory(tmp_path / "keys")


async def test_a_token_says_who_and_for_how_long(keys: KeyDirectory) -> None:
    token = run("token", "--role", "clinician", "--role", "auditor", "--name", "dr.x")
    certificate = keys.sender_tls("local").certificate.read_bytes()
    authenticator = Authenticator(access_settings(keys))
    caller = await authenticator.identify(certificate, [(TOKEN_KEY, f"Bearer {token}")])
    assert (caller.tenant, caller.name) == ("local", "dr.x")
    assert caller.roles == {Role.CLINICIAN, Role.AUDITOR}
    for life in ("2d", "90", "0h", "-1h", "1 h", "1w"):
        with pytest.raises(ConfigurationError):
            run("token", "--role", "sender", "--name", "x", "--for", life)


def test_a_token_in_a_file_is_its_owners_alone(keys: KeyDirectory, tmp_path: Path) -> None:
    path = tmp_path / "token"
    said = run("token", "--role", "auditor", "--name", "x", "--out", str(path))
    assert "HOUNSFIELD_TOKEN_FILE" in said
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_private(path).strip() not in said.encode()


async def test_a_new_key_ends_earlier_tokens_or_keeps_them(keys: KeyDirectory) -> None:
    certificate = keys.sender_tls("local").certificate.read_bytes()
    issue = ("token", "--role", "operator", "--name", "x", "--for", "30m")
    first = run(*issue)
    second = run(*issue, "--new-key", "keep")
    authenticator = Authenticator(access_settings(keys))
    for token in (first, second):
        await authenticator.identify(certificate, [(TOKEN_KEY, f"Bearer {token}")])
    third = run(*issue, "--new-key", "end")
    authenticator = Authenticator(access_settings(keys))
    for token in (first, second):
        with pytest.raises(Unauthenticated):
            await authenticator.identify(certificate, [(TOKEN_KEY, f"Bearer {token}")])
    await authenticator.identify(certificate, [(TOKEN_KEY, f"Bearer {third}")])


async def test_revoking_a_certificate_shuts_it_out(keys: KeyDirectory) -> None:
    certificate = keys.sender_tls("local").certificate.read_bytes()
    listed = json.loads(run("keys", "list", "--json"))
    (sender,) = [row["id"] for row in listed if row["kind"] == "sender"]
    assert json.loads(run("keys", "revoke", sender, "--json"))["here"]
    assert not json.loads(run("keys", "revoke", "abc", "--json"))["here"]
    with pytest.raises(AccessDenied, match="revoked"):
        await Authenticator(access_settings(keys)).identify(certificate, ())
    with pytest.raises(ConfigurationError, match="hexadecimal"):
        run("keys", "revoke", "../ca")

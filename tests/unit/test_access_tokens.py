"""Bearer tokens: what is taken, what is refused, and where keys may come from."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from client.access.identity import AccessSettings, Authenticator
from client.access.issuer import JWKS_FILE, LocalIssuer
from client.access.keysets import FileKeys, WebKeys, open_keys
from client.access.principal import REASON_KEY, TOKEN_KEY, Principal, Role
from client.access.tokens import TokenVerifier
from client.crypto.certificates import (
    Credential,
    issue_gateway,
    issue_sender,
    make_authority,
    parse_certificate,
    revoke,
)
from client.errors import AccessDenied, ClientError, ConfigurationError, Transient, Unauthenticated
from tests.forge import AUDIENCE, ISSUER, TOKENS, TokenForge, TokenRow, forge_certificate

pytestmark = pytest.mark.unit

TENANT = "radiology"


@pytest.fixture(scope="module")
def authority() -> Credential:
    return make_authority()


@pytest.fixture
def settings(tmp_path: Path, authority: Credential) -> AccessSettings:
    TokenForge().publish(tmp_path / JWKS_FILE)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    return AccessSettings(
        tmp_path / "ca.pem", tmp_path / "ca.crl.pem", ISSUER, AUDIENCE, str(tmp_path / JWKS_FILE)
    )


async def identify(
    settings: AccessSettings, certificate: Credential, *metadata: tuple[str, str]
) -> Principal:
    authenticator = Authenticator(settings)
    await authenticator.load()
    return await authenticator.identify(certificate.certificate, metadata)


@pytest.mark.parametrize("row", TOKENS, ids=lambda row: row.name)
async def test_the_table_of_tokens(
    settings: AccessSettings, authority: Credential, row: TokenRow
) -> None:
    sender = issue_sender(authority, TENANT)
    token = row.make(TokenForge(TENANT))
    shown = (TOKEN_KEY, f"{row.scheme}{token}")
    if row.taken:
        caller = await identify(settings, sender, shown)
        assert caller == Principal(TENANT, "dr.x", frozenset((Role.CLINICIAN,)))
        return
    with pytest.raises(Unauthenticated) as caught:
        await identify(settings, sender, shown)
    assert not token or token not in str(caught.value)


async def test_two_tokens_are_one_too_many(settings: AccessSettings, authority: Credential) -> None:
    good = (TOKEN_KEY, f"Bearer {TokenForge().token()}")
    with pytest.raises(Unauthenticated, match="one metadata entry"):
        await identify(settings, issue_sender(authority, TENANT), good, good)


async def test_a_certificate_alone_is_a_sender_unless_tokens_are_required(
    settings: AccessSettings, authority: Credential
) -> None:
    sender = issue_sender(authority, TENANT)
    serial = parse_certificate(sender.certificate).serial_number
    caller = await identify(settings, sender)
    assert caller == Principal(TENANT, f"certificate:{serial:x}", frozenset((Role.SENDER,)))
    required = AccessSettings(
        settings.authority, settings.revoked, ISSUER, AUDIENCE, settings.token_jwks, True
    )
    with pytest.raises(Unauthenticated, match="bearer token"):
        await identify(required, sender)


async def test_the_reason_for_breaking_the_glass_may_hold_any_letter(
    settings: AccessSettings, authority: Credential
) -> None:
    shown = (TOKEN_KEY, f"Bearer {TokenForge(roles=('break_glass',)).token()}")
    reason = (REASON_KEY, "Schlaganfall, Haus%C3%A4rztin nicht erreichbar")
    caller = await identify(settings, issue_sender(authority, TENANT), shown, reason)
    assert caller.reason == "Schlaganfall, Hausärztin nicht erreichbar"


@pytest.mark.parametrize("tenants", [(), ("",), ("a", "b")])
async def test_a_certificate_names_one_tenant(
    settings: AccessSettings, authority: Credential, tenants: tuple[str, ...]
) -> None:
    certificate = forge_certificate(authority, tenants=tenants, hosts=("x",))
    with pytest.raises(AccessDenied):
        await identify(settings, certificate)


async def test_a_revoked_certificate_is_refused_from_the_next_look_on(
    settings: AccessSettings, authority: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (issue_sender(authority, TENANT) for _ in range(2))
    authenticator = Authenticator(settings)
    monkeypatch.setattr(authenticator._revoked._file, "_look_s", 0.0)
    await authenticator.identify(first.certificate, ())
    earlier = None
    for taken_back in (first, second):
        serial = parse_certificate(taken_back.certificate).serial_number
        earlier = revoke(authority, serial, earlier)
        settings.revoked.write_bytes(earlier)
        with pytest.raises(AccessDenied, match="revoked"):
            await authenticator.identify(taken_back.certificate, ())
    with pytest.raises(AccessDenied, match="revoked"):
        await authenticator.identify(first.certificate, ())
    await authenticator.identify(issue_sender(authority, TENANT).certificate, ())


async def test_a_certificate_that_ends_during_a_connection_is_refused(
    settings: AccessSettings, authority: Credential
) -> None:
    with pytest.raises(AccessDenied, match="ended"):
        await identify(settings, forge_certificate(authority, ends_days=-0.001))


async def test_while_the_ca_is_changed_lists_of_both_count(
    settings: AccessSettings, authority: Credential
) -> None:
    new = make_authority()
    settings.authority.write_bytes(new.certificate + authority.certificate)
    taken_back = issue_sender(authority, TENANT)
    serial = parse_certificate(taken_back.certificate).serial_number
    for signer in (authority, new):
        settings.revoked.write_bytes(revoke(signer, serial, None))
        with pytest.raises(AccessDenied, match="revoked"):
            await identify(settings, taken_back)


async def test_a_revocation_list_that_cannot_be_trusted_closes_the_gateway(
    settings: AccessSettings, authority: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = issue_sender(authority, TENANT)
    authenticator = Authenticator(settings)
    monkeypatch.setattr(authenticator._revoked._file, "_look_s", 0.0)
    good = revoke(authority, 1, None)
    for damage in (b"x", good[:200], revoke(make_authority(), 1, None), None):
        settings.revoked.write_bytes(good)
        await authenticator.identify(sender.certificate, ())
        settings.revoked.unlink()
        if damage is not None:
            settings.revoked.write_bytes(damage)
            with pytest.raises(ConfigurationError, match=r"ca\.crl\.pem"):
                await identify(settings, sender)
        with pytest.raises(Transient):
            await authenticator.identify(sender.certificate, ())


async def test_the_local_issuer_rotates_its_keys(tmp_path: Path) -> None:
    issuer = LocalIssuer(tmp_path / "tokens", ISSUER, AUDIENCE)
    keys = FileKeys(tmp_path / "tokens" / JWKS_FILE)
    keys._file._look_s = 0.0
    verifier = TokenVerifier(keys, ISSUER, AUDIENCE)
    old = issuer.issue(TENANT, "op", frozenset((Role.OPERATOR,)), 60)
    (first,) = issuer.key_ids()
    assert (await verifier.verify(old)).roles == {Role.OPERATOR}
    second = issuer.new_key()
    assert issuer.key_ids() == (second, first)
    new = issuer.issue(TENANT, "op", frozenset((Role.OPERATOR,)), 60)
    assert [(await verifier.verify(token)).subject for token in (old, new)] == ["op", "op"]
    issuer.retire(first)
    with pytest.raises(Unauthenticated, match="not in service"):
        await verifier.verify(old)
    await verifier.verify(new)
    assert (tmp_path / "tokens" / f"{second}.key").stat().st_mode & 0o777 == 0o600
    assert "d" not in json.loads((tmp_path / "tokens" / JWKS_FILE).read_text())["keys"][0]
    for life_s in (0, -1, 86_401):
        with pytest.raises(ConfigurationError):
            issuer.issue(TENANT, "op", frozenset((Role.OPERATOR,)), life_s)


async def test_a_token_of_a_key_made_a_moment_ago_is_taken(tmp_path: Path) -> None:
    issuer = LocalIssuer(tmp_path / "tokens", ISSUER, AUDIENCE)
    keys = FileKeys(tmp_path / "tokens" / JWKS_FILE)
    keys._file._look_s = 3600.0
    verifier = TokenVerifier(keys, ISSUER, AUDIENCE)
    for _ in range(2):
        issuer.new_key()
        token = issuer.issue(TENANT, "op", frozenset((Role.OPERATOR,)), 60)
        assert (await verifier.verify(token)).subject == "op"


@pytest.mark.parametrize(
    ("place", "issuer"), [("http://x/jwks", "x"), ("", "x"), ("ftp://x", "https://x")]
)
def test_keys_come_from_a_file_or_by_https(place: str, issuer: str) -> None:
    with pytest.raises(ConfigurationError, match="TOKEN_JWKS"):
        open_keys(place, issuer)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct"}]}'])
async def test_a_damaged_key_set_stops_the_gateway(tmp_path: Path, content: str) -> None:
    path = tmp_path / JWKS_FILE
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="JSON Web Key Set"):
        await FileKeys(path).load()


class _Provider(BaseHTTPRequestHandler):
    """An OIDC issuer's two documents; ``keys`` is what the second one says."""

    keys = ""
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        assert isinstance(self.server, HTTPServer)
        here = f"https://localhost:{self.server.server_port}"
        if self.path == "/.well-known/openid-configuration":
            self._answer(json.dumps({"issuer": here, "jwks_uri": f"{here}/keys"}))
        elif self.path == "/keys" and self.keys:
            self._answer(self.keys)
        else:
            self.send_error(503)

    def _answer(self, body: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider(
    tmp_path: Path, authority: Credential, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    own = issue_gateway(authority)
    for name, content in (("c", own.certificate), ("k", own.private_key)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    TokenForge().publish(tmp_path / JWKS_FILE)
    monkeypatch.setattr(_Provider, "keys", (tmp_path / JWKS_FILE).read_text())
    monkeypatch.setattr(_Provider, "asked", [])
    with HTTPServer(("localhost", 0), _Provider) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_keys_of_an_oidc_issuer_are_discovered_and_kept(provider: str) -> None:
    verifier = TokenVerifier(open_keys("", provider), provider, AUDIENCE)
    tokens = [TokenForge().token(kid, iss=provider) for kid in ("ec", "rsa", "ec")]
    found = await asyncio.gather(*map(verifier.verify, tokens))
    assert {claims.subject for claims in found} == {"dr.x"}
    for kid in ("retired", "other"):
        with pytest.raises(Unauthenticated):
            await verifier.verify(TokenForge().token("ec", {"kid": kid}, iss=provider))
    assert _Provider.asked == ["/.well-known/openid-configuration", "/keys"]


async def test_an_issuer_that_is_away_is_not_asked_for_every_call(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Provider, "keys", "")
    verifier = TokenVerifier(WebKeys(f"{provider}/keys", provider), provider, AUDIENCE)
    for _ in range(5):
        with pytest.raises(Transient):
            await verifier.verify(TokenForge().token(iss=provider))
    assert _Provider.asked == ["/keys"]


async def test_a_discovery_document_of_another_issuer_is_not_believed(provider: str) -> None:
    other = provider.replace("localhost", "LOCALHOST")
    verifier = TokenVerifier(WebKeys("", other), other, AUDIENCE)
    with pytest.raises(ClientError):
        await verifier.verify(TokenForge().token(iss=other))
    assert "/keys" not in _Provider.asked

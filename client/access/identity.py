"""Finds out who calls: the certificate first, then the token that came with the call.

certificate, metadata ──certified──▶ tenant ──revocation, token──▶ Principal ──authorise──▶ call
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from cryptography import x509

from client.access.keysets import open_keys
from client.access.principal import REASON_KEY, TOKEN_KEY, Principal, Role
from client.access.revocation import RevocationList
from client.access.tokens import TokenVerifier
from client.crypto.certificates import parse_certificate, tenant_of
from client.errors import AccessDenied, ConfigurationError, Unauthenticated

__all__ = ("AccessSettings", "Authenticator")

_SCHEME = "bearer"
Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """How callers show who they are.

    Attributes:
        authority: Certificate of the CA that signs senders' certificates.
        revoked: Its revocation list, PEM; need not exist.
        token_issuer: What `iss` of a token must be.
        token_audience: What `aud` of a token must be.
        token_jwks: Where the issuer's keys are; see ``open_keys``.
        tokens_required: Whether a certificate alone is not enough.
    """

    authority: Path
    revoked: Path
    token_issuer: str
    token_audience: str
    token_jwks: str
    tokens_required: bool = False


class Authenticator:
    """Turns what a caller shows into a principal."""

    def __init__(self, settings: AccessSettings) -> None:
        self._revoked = RevocationList(settings.revoked, settings.authority)
        keys = open_keys(settings.token_jwks, settings.token_issuer)
        self._tokens = TokenVerifier(keys, settings.token_issuer, settings.token_audience)
        self._required = settings.tokens_required

    async def load(self) -> None:
        """Read the revocation list and the keys.

        Raises:
            ConfigurationError: One of them is damaged.
        """
        await self._revoked.load()
        await self._tokens.load()

    def certified(self, pem: bytes | None) -> Principal:
        """Return whom the certificate of a TLS connection names.

        Args:
            pem: The certificate, as TLS verified it; None when there is none.

        Raises:
            AccessDenied: There is none, or it names no tenant.
        """
        if pem is None:
            raise AccessDenied("Expected a TLS client certificate that names a tenant, got none.")
        tenant, certificate = _read(pem)
        name = f"certificate:{certificate.serial_number:x}"
        return Principal(tenant, name, frozenset((Role.SENDER,)))

    async def identify(self, pem: bytes | None, metadata: Metadata) -> Principal:
        """Return who calls: the token's bearer, or the certificate when there is no token.

        Args:
            pem: The certificate; see ``certified``.
            metadata: What came with the call.

        Raises:
            AccessDenied: The certificate was revoked, or has ended since the connection began.
            Unauthenticated: The token is missing, does not count, or is of another tenant.
            Transient: Revocations or keys cannot be had now.
        """
        principal = self.certified(pem)
        await self._check(_read(pem or b"")[1])
        shown = [_text(value) for key, value in metadata if key == TOKEN_KEY]
        if not shown:
            if self._required:
                raise Unauthenticated("Expected a bearer token besides the client certificate.")
            return principal
        scheme, _, token = shown[0].partition(" ")
        if len(shown) > 1 or scheme.lower() != _SCHEME:
            raise Unauthenticated("Expected one metadata entry `authorization: Bearer <token>`.")
        claims = await self._tokens.verify(token)
        if claims.tenant != principal.tenant:
            raise Unauthenticated("The token is for another tenant than the client certificate.")
        return replace(principal, name=claims.subject, roles=claims.roles, reason=_reason(metadata))

    async def _check(self, certificate: x509.Certificate) -> None:
        # TLS looks at the dates only when a connection begins, and connections last for hours.
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise AccessDenied("The client certificate has ended: connect with a new one.")
        await self._revoked.check(certificate)


def _reason(metadata: Metadata) -> str:
    return " ".join(unquote(_text(value)) for key, value in metadata if key == REASON_KEY)


def _text(value: str | bytes) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


@lru_cache(maxsize=1024)
def _read(pem: bytes) -> tuple[str, x509.Certificate]:
    try:
        certificate = parse_certificate(pem)
    except ConfigurationError as error:
        raise AccessDenied("The client certificate cannot be read.") from error
    return tenant_of(certificate), certificate

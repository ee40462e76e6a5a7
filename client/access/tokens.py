"""Verifies bearer tokens: signed JWTs (RFC 7519, RFC 8725) that say who a person is.

metadata `authorization: Bearer …` ──verify──▶ tenant, subject, roles
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jwt

from client.access.keysets import KeySource
from client.access.principal import Role
from client.errors import Unauthenticated
from client.limits import AccessLimits

__all__ = ("ALGORITHMS", "Claims", "TokenVerifier")

ALGORITHMS = (
    "ES256",
    "ES384",
    "ES512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "EdDSA",
)
"""Signatures by a key that we cannot make tokens with; the key's own algorithm must be the same."""
_LIMITS = AccessLimits()
_REQUIRED = ("aud", "exp", "iat", "iss", "roles", "sub", "tenant")
_TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:|/+-]{0,127}")
_KEY_ID = re.compile(r"[A-Za-z0-9._~=-]{1,128}")
_UNSOUND = "The token is not a validly signed JWT."
_ADVICE: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "The token has expired: get a new one."),
    (jwt.ImmatureSignatureError, "The token is not valid yet: compare the clocks."),
    (jwt.InvalidAudienceError, "The token is for another service: see HOUNSFIELD_TOKEN_AUDIENCE."),
    (jwt.InvalidIssuerError, "The token is of another issuer: see HOUNSFIELD_TOKEN_ISSUER."),
    (jwt.MissingRequiredClaimError, f"The token needs the claims {', '.join(_REQUIRED)}."),
    (jwt.InvalidAlgorithmError, f"The token must be signed by one of {', '.join(ALGORITHMS)}."),
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says of its bearer."""

    tenant: str
    subject: str
    roles: frozenset[Role]


class TokenVerifier:
    """Holds tokens to one issuer and one audience.

    Args:
        keys: Where the issuer's public keys are.
        issuer: What `iss` must be.
        audience: What `aud` must be, or contain.
    """

    def __init__(self, keys: KeySource, issuer: str, audience: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience

    async def load(self) -> None:
        """Read the keys for the first time; see ``KeySource``."""
        await self._keys.load()

    async def verify(self, token: str) -> Claims:
        """Return what a token says.

        The key is looked up by `kid` among the issuer's keys and nowhere else: headers that name
        or carry a key (`jku`, `jwk`, `x5u`, `x5c`) mean nothing here.

        Raises:
            Unauthenticated: The token does not count, and why; never quotes it.
            Transient: The issuer's keys cannot be had now.
        """
        if len(token) > _LIMITS.max_token_bytes:
            raise Unauthenticated(f"Expected a token of at most {_LIMITS.max_token_bytes} bytes.")
        try:
            key = await self._keys.key(_key_id(jwt.get_unverified_header(token)))
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LIMITS.clock_leeway_s,
                options={"require": list(_REQUIRED), "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            advice = (text for kind, text in _ADVICE if isinstance(error, kind))
            raise Unauthenticated(next(advice, _UNSOUND)) from None
        except (RecursionError, OverflowError, TypeError, ValueError):
            # JSON that PyJWT did not foresee: nested too deep, infinite, or of another type.
            raise Unauthenticated(_UNSOUND) from None
        return _read(claims)


def _key_id(header: dict[str, Any]) -> str:
    if header.get("alg") not in ALGORITHMS:
        raise jwt.InvalidAlgorithmError
    kid = header.get("kid")
    if not isinstance(kid, str) or not _KEY_ID.fullmatch(kid):
        raise Unauthenticated("Expected the token to name its key by a `kid` of plain characters.")
    return kid


def _read(claims: dict[str, Any]) -> Claims:
    tenant, subject, roles = claims["tenant"], claims["sub"], claims["roles"]
    times = (claims["iat"], claims["exp"])
    if not all(isinstance(moment, int | float) for moment in times):
        raise Unauthenticated("Expected the claims `iat` and `exp` to be numbers.")
    if claims["exp"] - claims["iat"] > _LIMITS.max_token_life_s:
        raise Unauthenticated(f"Expected a token that lives {_LIMITS.max_token_life_s} s at most.")
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise Unauthenticated("Expected the claim `tenant` to be a tenant's name.")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise Unauthenticated("Expected the claim `sub` to be 1 to 128 plain characters.")
    known = tuple(Role)
    if not isinstance(roles, list) or not roles or not all(role in known for role in roles):
        raise Unauthenticated(f"Expected the claim `roles` to be a list of {', '.join(Role)}.")
    return Claims(tenant, subject, frozenset(map(Role, roles)))

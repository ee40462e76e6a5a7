"""Where the keys that sign tokens come from: a JWKS file, an https address, an OIDC issuer.

token ──kid──▶ KeySource ──public key──▶ TokenVerifier
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import jwt

from client.access.freshfile import FreshFile
from client.errors import ConfigurationError, Transient, Unauthenticated

__all__ = ("FileKeys", "KeySource", "WebKeys", "open_keys")

_DISCOVERY = "/.well-known/openid-configuration"
_KEEP_S = 300.0
_FETCH_TIMEOUT_S = 5.0
_FETCH_PAUSE_S = 5.0
_UNKNOWN_PAUSE_S = 30.0
_LARGEST_DOCUMENT_BYTES = 1 << 20


class KeySource(Protocol):
    """Public keys by their id."""

    async def load(self) -> None:
        """Read the keys for the first time; raises ConfigurationError when that cannot be."""

    async def key(self, kid: str) -> jwt.PyJWK:
        """Return a key.

        Raises:
            Unauthenticated: There is no such key.
            Transient: The keys cannot be had now.
        """


def open_keys(place: str, issuer: str) -> KeySource:
    """Return the source for a setting.

    Args:
        place: A JWKS file's path, an https address of one, or "" to ask the OIDC issuer.
        issuer: The issuer's https address, as its tokens name it.

    Raises:
        ConfigurationError: It is none of these.
    """
    if place.startswith("https://") or (not place and issuer.startswith("https://")):
        return WebKeys(place, issuer)
    if not place or "://" in place:
        raise ConfigurationError(
            "HOUNSFIELD_TOKEN_JWKS: expected a file or an https address, or an https address as "
            f"HOUNSFIELD_TOKEN_ISSUER; got {place!r} and {issuer!r}."
        )
    return FileKeys(Path(place))


class FileKeys:
    """A JWKS file (RFC 7517, 5); a key that was taken out counts for at most another second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        nothing: Mapping[str, jwt.PyJWK] = MappingProxyType({})
        self._file = FreshFile(path, self._parse, nothing)

    async def load(self) -> None:
        """See ``KeySource``; no file means no keys yet."""
        await self._file.load()

    async def key(self, kid: str) -> jwt.PyJWK:
        """See ``KeySource``."""
        found = (await self._file.value()).get(kid)
        if found is None:
            # A token of a key made a moment ago.
            found = (await self._file.value(now=True)).get(kid)
        if found is None:
            raise _unknown()
        return found

    def _parse(self, raw: bytes) -> Mapping[str, jwt.PyJWK]:
        try:
            keys = jwt.PyJWKSet.from_dict(json.loads(raw)).keys
        except (ValueError, TypeError, LookupError, AttributeError, jwt.PyJWTError) as error:
            raise ConfigurationError(
                f"Expected {self._path} to be a JSON Web Key Set with at least one signing key."
            ) from error
        return {key.key_id: key for key in keys if key.key_id}


class WebKeys:
    """A JWKS by https, kept for five minutes; a key taken out there is refused here after that.

    An unknown id asks anew, at most every 30 seconds. No redirect is followed.

    Args:
        address: Of the JWKS; "" asks the issuer's discovery document (OIDC Discovery 1.0, 4).
        issuer: The issuer's address.
    """

    def __init__(self, address: str, issuer: str) -> None:
        self._address = address
        self._issuer = issuer
        self._client: jwt.PyJWKClient | None = None
        self._failed_at = -_FETCH_PAUSE_S
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """See ``KeySource``; an issuer that is away now is asked again when a token comes."""

    async def key(self, kid: str) -> jwt.PyJWK:
        """See ``KeySource``."""
        async with self._lock:
            if time.monotonic() - self._failed_at < _FETCH_PAUSE_S:
                raise _away()
            try:
                return await asyncio.to_thread(self._find, kid)
            except jwt.PyJWKClientConnectionError as error:
                self._failed_at = time.monotonic()
                raise _away() from error
            except jwt.PyJWKClientError:
                raise _unknown() from None
            except (OSError, ValueError, jwt.PyJWTError) as error:
                self._failed_at = time.monotonic()
                raise _away() from error

    def _find(self, kid: str) -> jwt.PyJWK:
        if self._client is None:
            self._client = jwt.PyJWKClient(
                self._address or self._discovered(),
                lifespan=_KEEP_S,
                timeout=_FETCH_TIMEOUT_S,
                cooldown_duration=_UNKNOWN_PAUSE_S,
            )
        return self._client.get_signing_key(kid)

    def _discovered(self) -> str:
        address = self._issuer.rstrip("/") + _DISCOVERY
        with urllib.request.urlopen(address, timeout=_FETCH_TIMEOUT_S) as answer:  # noqa: S310
            document: Any = json.loads(answer.read(_LARGEST_DOCUMENT_BYTES))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError("The discovery document is of another issuer.")
        found = str(document.get("jwks_uri"))
        if not found.startswith("https://"):
            raise ValueError("The discovery document names no https address of keys.")
        return found


def _unknown() -> Unauthenticated:
    return Unauthenticated("The token is signed by a key that is not in service: get a new token.")


def _away() -> Transient:
    return Transient("The token issuer's keys cannot be had now; try again.")

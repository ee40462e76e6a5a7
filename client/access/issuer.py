"""The local token issuer, for installations without an identity provider of their own.

tokens/jwks.json        public keys of every signing key in service; the gateway reads it
tokens/<kid>.key        a private key; whoever has it can be anyone
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.access.principal import Role
from client.crypto.privatefiles import (
    make_private_directory,
    read_private,
    write_private,
    write_public,
)
from client.errors import ConfigurationError, NotFound
from client.limits import AccessLimits

__all__ = ("JWKS_FILE", "LocalIssuer")

JWKS_FILE = "jwks.json"
_ALGORITHM = "ES256"


class LocalIssuer:
    """Signs tokens with the newest of its keys.

    Args:
        folder: Where its keys lie; made when missing.
        issuer: `iss` of its tokens.
        audience: `aud` of its tokens.
    """

    def __init__(self, folder: Path, issuer: str, audience: str) -> None:
        self._folder = folder
        self._issuer = issuer
        self._audience = audience

    def new_key(self) -> str:
        """Make a signing key; tokens of earlier keys stay valid. Return its id."""
        make_private_directory(self._folder)
        kid = secrets.token_hex(8)
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        public: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        row = public | {"kid": kid, "use": "sig", "alg": _ALGORITHM}
        write_private(self._folder / f"{kid}.key", pem)
        # The newest stands first: the order of the public list says which key signs.
        self._publish([row, *self._published()])
        return kid

    def retire(self, kid: str) -> None:
        """Take a key out of service: its tokens are refused a second later.

        Raises:
            NotFound: There is no such key.
        """
        rows = self._published()
        if kid not in {row["kid"] for row in rows}:
            raise NotFound(f"No signing key {kid} in {self._folder / JWKS_FILE}.")
        self._publish([row for row in rows if row["kid"] != kid])
        (self._folder / f"{kid}.key").unlink(missing_ok=True)

    def key_ids(self) -> tuple[str, ...]:
        """Return the ids of the keys in service, the newest first."""
        return tuple(row["kid"] for row in self._published())

    def issue(self, tenant: str, subject: str, roles: frozenset[Role], life_s: int) -> str:
        """Return a signed token; the first one makes the first key.

        Args:
            tenant: Whose data it opens; a certificate of the same tenant must come with it.
            subject: Who bears it, as the audit trail will name them.
            roles: What they are.
            life_s: Seconds until it ends.

        Raises:
            ConfigurationError: The life is out of bounds, or the private key is not here.
        """
        longest_s = AccessLimits().max_token_life_s
        if not 0 < life_s <= longest_s:
            raise ConfigurationError(
                f"A token may live 1 to {longest_s} s, as it cannot be called back; got {life_s} s."
            )
        kid = next(iter(self.key_ids()), "") or self.new_key()
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "tenant": tenant,
            "roles": sorted(roles),
            "iat": now,
            "nbf": now,
            "exp": now + life_s,
            "jti": secrets.token_hex(16),
        }
        pem = read_private(self._folder / f"{kid}.key")
        return jwt.encode(claims, pem, _ALGORITHM, headers={"kid": kid})

    def _published(self) -> list[dict[str, Any]]:
        path = self._folder / JWKS_FILE
        try:
            rows: list[dict[str, Any]] = json.loads(path.read_bytes())["keys"]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"Expected {path} to be a JSON Web Key Set.") from error
        return rows

    def _publish(self, rows: list[dict[str, Any]]) -> None:
        content = json.dumps({"keys": rows}, indent=2) + "\n"
        write_public(self._folder / JWKS_FILE, content.encode())

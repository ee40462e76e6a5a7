"""A directory of HPKE keys, found by id: what opens the data keys of studies or results.

<directory>/<key id>.public.json     key id, time of birth, Tink public keyset
<directory>/<key id>.private.json    Tink JSON keyset, mode 0600
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tink
from tink import hybrid, json_proto_keyset_format, proto_keyset_format, secret_key_access

from client.crypto.privatefiles import (
    destroy_private,
    make_private_directory,
    read_private,
    write_private,
    write_public,
)
from client.errors import ConfigurationError, NotFound, RefusalCode, Rejected

__all__ = ("HPKE_PUBLIC_TYPE", "Keyring", "PublicKey", "key_id_of", "load_public_keys")

HPKE_PUBLIC_TYPE = "type.googleapis.com/google.crypto.tink.HpkePublicKey"
_TEMPLATE = hybrid.hybrid_key_templates.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM

hybrid.register()


def key_id_of(keyset: bytes) -> str:
    """Return a public keyset's id: the first 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(keyset).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that data keys can be wrapped for.

    Attributes:
        key_id: ``key_id_of(keyset)``.
        keyset: Tink HPKE public keyset in Tink's binary format.
        created_at: When it was made; the newest key of a keyring is the one to use.
    """

    key_id: str
    keyset: bytes
    created_at: datetime

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        """Encrypt a short secret to this key, bound to ``context``.

        Raises:
            Rejected: BAD_ENVELOPE; the keyset is not one HPKE public key, or not the one its id
                names.
        """
        if key_id_of(self.keyset) != self.key_id:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"Key id {self.key_id} does not belong to the public keyset that came with it "
                f"(that one's id is {key_id_of(self.keyset)}). Compare ids before use.",
            )
        try:
            handle = proto_keyset_format.parse_without_secret(self.keyset)
            types = [key.type_url for key in handle.keyset_info().key_info]
            if types != [HPKE_PUBLIC_TYPE]:
                raise Rejected(
                    RefusalCode.BAD_ENVELOPE,
                    f"Public keyset {self.key_id} must hold exactly one HPKE key: send such a one.",
                )
            wrapped: bytes = handle.primitive(hybrid.HybridEncrypt).encrypt(secret, context)
        except tink.TinkError as error:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"Public keyset {self.key_id} is not a Tink HPKE public keyset: send such a one.",
            ) from error
        return wrapped


class Keyring:
    """The keys of one owner.

    Args:
        directory: Where they lie; it need not exist before the first ``create``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._openers: dict[str, Any] = {}

    def create(self) -> PublicKey:
        """Make a new key (DHKEM_X25519_HKDF_SHA256, HKDF_SHA256, AES_256_GCM) and keep it."""
        make_private_directory(self._directory)
        handle = tink.new_keyset_handle(_TEMPLATE)
        keyset = proto_keyset_format.serialize_without_secret(handle.public_keyset_handle())
        key = PublicKey(key_id_of(keyset), keyset, datetime.now(UTC))
        private = json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
        write_private(self._path(key.key_id, "private"), private.encode())
        # The public half comes last: a key that is listed can be opened.
        write_public(self._path(key.key_id, "public"), _public_json(key))
        return key

    def public_keys(self) -> tuple[PublicKey, ...]:
        """Return every public key, the newest first.

        Raises:
            ConfigurationError: A file is damaged.
        """
        return load_public_keys(self._directory)

    def newest(self) -> PublicKey:
        """Return the key that new data should be encrypted for.

        Raises:
            ConfigurationError: There is none.
        """
        keys = self.public_keys()
        if not keys:
            raise ConfigurationError(
                f"No key in {self._directory}: make one with `hounsfield keys new`."
            )
        return keys[0]

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt what was wrapped for one of these keys.

        Raises:
            NotFound: No key of that id is here.
            Rejected: BAD_ENVELOPE; damaged, or wrapped for another key or context.
            ConfigurationError: The private key's file is damaged or open to others.
        """
        try:
            secret: bytes = self._opener(key_id).decrypt(wrapped, context)
        except tink.TinkError as error:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"The data key does not open with key {key_id}: it is damaged, was wrapped for "
                "another key, or the header was changed after encryption. Encrypt and send again.",
            ) from error
        return secret

    def withdraw(self, key_id: str) -> None:
        """Stop offering a key: senders no longer see it, studies that have it still open.

        Raises:
            NotFound: There is no such public key.
        """
        try:
            self._path(key_id, "public").unlink()
        except FileNotFoundError as error:
            raise NotFound(f"No public key {key_id} is here.") from error

    def destroy(self, key_id: str) -> None:
        """Destroy a private key: what is wrapped for it can never be opened with it again.

        Raises:
            NotFound: There is no such private key.
        """
        self._openers.pop(key_id, None)
        path = self._path(key_id, "private")
        if not path.exists():
            raise NotFound(f"No private key {key_id} is here.")
        destroy_private(path)

    def private_ids(self) -> frozenset[str]:
        """Return the ids of the keys that can open something, also of those withdrawn."""
        suffix = ".private.json"
        found = self._directory.glob(f"*{suffix}")
        return frozenset(path.name.removesuffix(suffix) for path in found)

    def _opener(self, key_id: str) -> Any:
        path = self._path(key_id, "private")
        if not path.exists():  # asked each time, so that a key destroyed elsewhere ends here too
            self._openers.pop(key_id, None)
            raise NotFound(f"No private key {key_id} is here.")
        if key_id not in self._openers:
            try:
                handle = json_proto_keyset_format.parse(
                    read_private(path).decode(), secret_key_access.TOKEN
                )
                self._openers[key_id] = handle.primitive(hybrid.HybridDecrypt)
            except (tink.TinkError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{path} is not a Tink JSON keyset.") from error
        return self._openers[key_id]

    def _path(self, key_id: str, half: str) -> Path:
        if len(key_id) != 32 or not set(key_id) <= set("0123456789abcdef"):
            raise NotFound("A key id is 32 hexadecimal digits; no other key exists.")
        return self._directory / f"{key_id}.{half}.json"


def load_public_keys(directory: Path) -> tuple[PublicKey, ...]:
    """Return the public keys in a directory, the newest first; no private key is needed or read.

    Raises:
        ConfigurationError: A file is damaged.
    """
    keys = [_parse_public(path) for path in directory.glob("*.public.json")]
    return tuple(sorted(keys, key=lambda key: (key.created_at, key.key_id), reverse=True))


def _public_json(key: PublicKey) -> bytes:
    content = {
        "key_id": key.key_id,
        "created_at": key.created_at.isoformat(),
        "public_keyset": base64.b64encode(key.keyset).decode(),
    }
    return json.dumps(content, indent=2).encode() + b"\n"


def _parse_public(path: Path) -> PublicKey:
    try:
        content = json.loads(path.read_bytes())
        key = PublicKey(
            content["key_id"],
            base64.b64decode(content["public_keyset"], validate=True),
            datetime.fromisoformat(content["created_at"]),
        )
    except (OSError, ValueError, TypeError, KeyError, binascii.Error) as error:
        raise ConfigurationError(
            f"{path} is not a public key file (key_id, created_at, public_keyset in base64)."
        ) from error
    if key.key_id != key_id_of(key.keyset) or not path.name.startswith(f"{key.key_id}."):
        raise ConfigurationError(f"{path}: its name, key_id and keyset do not belong together.")
    return key

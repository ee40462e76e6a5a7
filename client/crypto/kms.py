"""Key-encrypting keys: what wraps the keys of patients, locally or in a key management service.

    subject key ──wrap──▶ wrapped key (stored) ──unwrap──▶ subject key

Local keys are files of one folder, ``<key id>.kek.json``, mode 0600: the id, the time of birth and
a Tink AES256_GCM keyset. The newest one wraps; every one that is still there unwraps.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import tink
from tink import aead, json_proto_keyset_format, secret_key_access

from client.crypto.cloudkms import CloudKeyManager
from client.crypto.privatefiles import (
    destroy_private,
    make_private_directory,
    read_private,
    write_private,
)
from client.errors import ConfigurationError, NotFound, RefusalCode, Rejected

__all__ = ("KeyManager", "LocalKey", "LocalKeyManager", "open_key_manager")

_TEMPLATE = aead.aead_key_templates.AES256_GCM
_SUFFIX = ".kek.json"

aead.register()


class KeyManager(Protocol):
    """Wraps short secrets under a key that it does not hand out. May block on the network."""

    @property
    def key_id(self) -> str:
        """The key that ``wrap`` uses now."""
        ...

    def wrap(self, secret: bytes, context: bytes) -> tuple[str, bytes]:
        """Encrypt a secret, bound to ``context``; return the id of the key used, and the result.

        Raises:
            ConfigurationError: The key does not exist or may not be used.
            Transient: The key management service is away.
        """
        ...

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """Return the secret that was wrapped under that key and context.

        Raises:
            NotFound: There is no such key (any more).
            Rejected: BAD_ENVELOPE; damaged, or wrapped under another key or context.
            ConfigurationError: The key may not be used.
            Transient: The key management service is away.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalKey:
    """A key-encrypting key of the folder, without the key itself."""

    key_id: str
    created_at: datetime
    path: Path


class LocalKeyManager:
    """Keys in a folder, for an installation without a key management service.

    Args:
        directory: The folder; it need not exist before the first ``create``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._primitives: dict[str, Any] = {}

    @property
    def key_id(self) -> str:
        """The newest key; read anew each time, since another process may have rotated.

        Raises:
            ConfigurationError: There is none.
        """
        keys = self.keys()
        if not keys:
            raise ConfigurationError(
                f"No key-encrypting key in {self._directory}: make one with `hounsfield keys new`."
            )
        return keys[0].key_id

    def create(self) -> LocalKey:
        """Make a new key, which wraps from now on."""
        make_private_directory(self._directory)
        key_id, created_at = uuid.uuid4().hex, datetime.now(UTC)
        handle = tink.new_keyset_handle(_TEMPLATE)
        keyset = json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
        content = {
            "key_id": key_id,
            "created_at": created_at.isoformat(),
            "keyset": json.loads(keyset),
        }
        path = self._path(key_id)
        write_private(path, json.dumps(content, indent=2).encode() + b"\n")
        return LocalKey(key_id, created_at, path)

    def keys(self) -> tuple[LocalKey, ...]:
        """Return every key, the newest first.

        Raises:
            ConfigurationError: A file is damaged or open to others.
        """
        found = [_parse(path)[0] for path in self._directory.glob(f"*{_SUFFIX}")]
        return tuple(sorted(found, key=lambda key: (key.created_at, key.key_id), reverse=True))

    def destroy(self, key_id: str) -> None:
        """Destroy a key: what it wraps can never be unwrapped again.

        Raises:
            NotFound: There is no such key.
        """
        self._primitives.pop(key_id, None)
        path = self._path(key_id)
        if not path.exists():
            raise NotFound(f"No key-encrypting key {key_id} is here.")
        destroy_private(path)

    def wrap(self, secret: bytes, context: bytes) -> tuple[str, bytes]:
        """See ``KeyManager.wrap``."""
        key_id = self.key_id
        wrapped: bytes = self._primitive(key_id).encrypt(secret, context)
        return key_id, wrapped

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """See ``KeyManager.unwrap``."""
        try:
            secret: bytes = self._primitive(key_id).decrypt(wrapped, context)
        except tink.TinkError as error:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"A stored key does not open with key-encrypting key {key_id}: it was damaged or "
                "exchanged. Restore the vault from a backup.",
            ) from error
        return secret

    def _primitive(self, key_id: str) -> Any:
        path = self._path(key_id)
        if not path.exists():  # asked each time, so that a destroyed key ends here too
            self._primitives.pop(key_id, None)
            raise NotFound(f"No key-encrypting key {key_id} is here.")
        if key_id not in self._primitives:
            handle = _parse(path)[1]
            self._primitives[key_id] = handle.primitive(aead.Aead)
        return self._primitives[key_id]

    def _path(self, key_id: str) -> Path:
        if len(key_id) != 32 or not set(key_id) <= set("0123456789abcdef"):
            raise NotFound("A local key id is 32 hexadecimal digits; no other key exists.")
        return self._directory / f"{key_id}{_SUFFIX}"


def _parse(path: Path) -> tuple[LocalKey, tink.KeysetHandle]:
    try:
        content = json.loads(read_private(path))
        key = LocalKey(content["key_id"], datetime.fromisoformat(content["created_at"]), path)
        keyset = json.dumps(content["keyset"])
        handle = json_proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    except (ValueError, TypeError, KeyError, tink.TinkError) as error:
        raise ConfigurationError(
            f"{path} is not a key-encrypting key (key_id, created_at, Tink keyset)."
        ) from error
    if path.name != f"{key.key_id}{_SUFFIX}":
        raise ConfigurationError(f"{path}: its name and its key_id do not belong together.")
    return key, handle


class _AnyKey:
    """Wraps under the chosen key; unwraps under whatever key an id names, local or not."""

    def __init__(self, local: LocalKeyManager, chosen: str) -> None:
        self._local = local
        self._clouds: dict[str, CloudKeyManager] = {}
        self._chosen = self._manager(chosen)

    @property
    def key_id(self) -> str:
        return self._chosen.key_id

    def wrap(self, secret: bytes, context: bytes) -> tuple[str, bytes]:
        return self._chosen.wrap(secret, context)

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        return self._manager(key_id).unwrap(key_id, wrapped, context)

    def _manager(self, key_id: str) -> KeyManager:
        if "://" not in key_id:
            return self._local
        return self._clouds.setdefault(key_id, CloudKeyManager(key_id))


def open_key_manager(kek: str, directory: Path) -> KeyManager:
    """Return what wraps under the chosen key and unwraps under every earlier one.

    Args:
        kek: "" for the newest local key; else ``aws-kms://arn:aws:kms:…``,
            ``gcp-kms://projects/…`` or ``hcvault://host:port/transit/keys/…``.
        directory: The folder of local keys.

    Raises:
        ConfigurationError: Another kind of URI.
    """
    return _AnyKey(LocalKeyManager(directory), kek)

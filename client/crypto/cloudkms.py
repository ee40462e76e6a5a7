"""Key-encrypting keys in AWS KMS, Google Cloud KMS and HashiCorp Vault, by Tink's own clients.

    secret ──context bound──▶ the service's encrypt call ──▶ wrapped

The key never leaves the service; every call of it is in the service's own audit log. Credentials
are found the way each service's library finds them (a role, a file, VAULT_TOKEN).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import tink

from client.errors import (
    ClientError,
    ConfigurationError,
    NotFound,
    RefusalCode,
    Rejected,
    Transient,
)

__all__ = ("CloudKeyManager",)

_AWS, _GCP, _VAULT = "aws-kms://", "gcp-kms://", "hcvault://"
_DIGEST_BYTES = 32


class CloudKeyManager:
    """One key of a service.

    Args:
        key_id: Its URI.

    Raises:
        ConfigurationError: It is not the URI of a service that is known here.
    """

    def __init__(self, key_id: str) -> None:
        self._service = _service_of(key_id)
        self._key_id = key_id
        self._primitive: Any = None

    @property
    def key_id(self) -> str:
        """The key's URI."""
        return self._key_id

    def wrap(self, secret: bytes, context: bytes) -> tuple[str, bytes]:
        """See ``KeyManager.wrap``."""
        try:
            wrapped: bytes = self._connected().encrypt(secret, context)
        except Exception as error:
            raise self._service.translate(error) from error
        return self._key_id, wrapped

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """See ``KeyManager.unwrap``."""
        if key_id != self._key_id:
            raise NotFound(f"Expected a secret wrapped under {self._key_id}, got one of {key_id}.")
        try:
            secret: bytes = self._connected().decrypt(wrapped, context)
        except Exception as error:
            raise self._service.translate(error) from error
        return secret

    def _connected(self) -> Any:
        if self._primitive is None:
            self._primitive = self._service.connect(self._key_id)
        return self._primitive


@dataclass(frozen=True, slots=True)
class _Service:
    """One key management service.

    Attributes:
        name: For people.
        connect: Makes Tink's Aead for a key.
        verdict: Says what an error of its library means.
    """

    name: str
    connect: Callable[[str], Any]
    verdict: Callable[[BaseException], type[ClientError]]

    def translate(self, error: Exception) -> ClientError:
        """Return our error for one of the service's library, which Tink may have wrapped."""
        if isinstance(error, ClientError):
            return error
        if isinstance(error, ImportError):
            return ConfigurationError(
                f"{self.name} needs its client library: pip install 'hounsfield[kms]'."
            )
        cause = error.args[0] if isinstance(error, tink.TinkError) and error.args else error
        kind = self.verdict(cause) if isinstance(cause, BaseException) else ConfigurationError
        what = type(cause).__name__ if isinstance(cause, BaseException) else "a Tink error"
        if kind is Rejected:
            return Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"{self.name} does not open a stored key: it was damaged or exchanged. "
                "Restore the vault from a backup.",
            )
        if kind is Transient:
            return Transient(f"{self.name} is away ({what}); try again.")
        return ConfigurationError(
            f"{self.name} does not let us use the key ({what}): check its URI, the credentials "
            "and the right to encrypt and decrypt with it."
        )


def _service_of(key_id: str) -> _Service:
    for prefix, service in _SERVICES.items():
        if key_id.startswith(prefix):
            return service
    raise ConfigurationError(
        f"Expected a key URI of {', '.join(_SERVICES)}, got scheme {urlsplit(key_id).scheme!r}."
    )


# AWS KMS: API reference, errors of Encrypt and Decrypt.
_AWS_REFUSED = {"InvalidCiphertextException", "IncorrectKeyException"}
_AWS_MISSET = {
    "AccessDeniedException",
    "DisabledException",
    "ExpiredTokenException",
    "InvalidKeyUsageException",
    "InvalidSignatureException",
    "KMSInvalidStateException",
    "NotFoundException",
    "UnrecognizedClientException",
}


def _connect_aws(key_id: str) -> Any:
    from tink.integration import awskms

    return awskms.AwsKmsClient(key_id, None).get_aead(key_id)


def _aws_verdict(error: BaseException) -> type[ClientError]:
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        if code in _AWS_REFUSED:
            return Rejected
        return ConfigurationError if code in _AWS_MISSET else Transient
    away = (exceptions.HTTPClientError, exceptions.ConnectionError)
    return Transient if isinstance(error, away) else ConfigurationError


def _connect_gcp(key_id: str) -> Any:
    from tink.integration import gcpkms

    return gcpkms.GcpKmsClient(key_id).get_aead(key_id)


def _gcp_verdict(error: BaseException) -> type[ClientError]:
    from google.api_core import exceptions
    from google.auth.exceptions import TransportError

    if isinstance(error, exceptions.InvalidArgument):
        return Rejected
    away = (
        exceptions.ServerError,
        exceptions.TooManyRequests,
        exceptions.RetryError,
        TransportError,
    )
    return Transient if isinstance(error, away) else ConfigurationError


def _connect_vault(key_id: str) -> Any:
    import hvac
    from tink.integration import hcvault

    address = urlsplit(key_id)
    client = hvac.Client(url=f"https://{address.netloc}")
    return _ContextInside(hcvault.new_aead(address.path, client))


def _vault_verdict(error: BaseException) -> type[ClientError]:
    import requests
    from hvac import exceptions

    if isinstance(error, exceptions.InvalidRequest):
        return Rejected
    misset = (exceptions.Forbidden, exceptions.InvalidPath, exceptions.Unauthorized)
    if isinstance(error, misset):
        return ConfigurationError
    away = (exceptions.VaultError, requests.RequestException)
    return Transient if isinstance(error, away) else ConfigurationError


class _ContextInside:
    """Binds a context to a secret by encrypting both: Tink's Vault client takes no context."""

    def __init__(self, primitive: Any) -> None:
        self._primitive = primitive

    def encrypt(self, secret: bytes, context: bytes) -> bytes:
        wrapped: bytes = self._primitive.encrypt(hashlib.sha256(context).digest() + secret, b"")
        return wrapped

    def decrypt(self, wrapped: bytes, context: bytes) -> bytes:
        both: bytes = self._primitive.decrypt(wrapped, b"")
        if not hmac.compare_digest(both[:_DIGEST_BYTES], hashlib.sha256(context).digest()):
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                "A stored key belongs to another row of the vault: restore the vault's backup.",
            )
        return both[_DIGEST_BYTES:]


_SERVICES = {
    _AWS: _Service("AWS KMS", _connect_aws, _aws_verdict),
    _GCP: _Service("Google Cloud KMS", _connect_gcp, _gcp_verdict),
    _VAULT: _Service("HashiCorp Vault", _connect_vault, _vault_verdict),
}

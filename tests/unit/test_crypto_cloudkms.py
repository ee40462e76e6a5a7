"""What an error of a key service means to us: damaged, set wrongly, or away for now."""

from __future__ import annotations

import hashlib
import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tink import TinkError

from client.crypto import cloudkms
from client.crypto.cloudkms import CloudKeyManager
from client.errors import (
    ClientError,
    ConfigurationError,
    NotFound,
    RefusalCode,
    Rejected,
    Transient,
)

pytestmark = pytest.mark.unit

AWS, GCP, VAULT = "aws-kms://arn:aws:kms:x", "gcp-kms://projects/p", "hcvault://v:8200/transit/k"


class Failing:
    """An Aead of Tink whose service answers with one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def encrypt(self, _secret: bytes, _context: bytes) -> bytes:
        raise self._error

    decrypt = encrypt


def verdict(key_id: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> ClientError:
    """What a caller gets when the service fails, the same for both ways."""
    manager = CloudKeyManager(key_id)
    monkeypatch.setattr(manager, "_primitive", Failing(error))
    caught: list[ClientError] = []
    for call in (lambda: manager.wrap(b"s", b"c"), lambda: manager.unwrap(key_id, b"w", b"c")):
        with pytest.raises(ClientError) as info:
            call()
        assert info.value.__cause__ is error or info.value is error
        caught.append(info.value)
    assert str(caught[0]) == str(caught[1])
    if isinstance(caught[0], Rejected):
        assert caught[0].code is RefusalCode.BAD_ENVELOPE
    return caught[0]


class AwsError(Exception):
    def __init__(self, response: Any) -> None:
        super().__init__("an error of AWS")
        self.response = response


class HttpError(Exception): ...


class Unreachable(Exception): ...


@pytest.fixture
def botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes of botocore.exceptions that are told apart."""
    package = ModuleType("botocore")
    package.exceptions = SimpleNamespace(  # type: ignore[attr-defined]
        ClientError=AwsError, HTTPClientError=HttpError, ConnectionError=Unreachable
    )
    monkeypatch.setitem(sys.modules, "botocore", package)


@pytest.mark.usefixtures("botocore")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AwsError({"Error": {"Code": "InvalidCiphertextException"}}), Rejected),
        (AwsError({"Error": {"Code": "IncorrectKeyException"}}), Rejected),
        (AwsError({"Error": {"Code": "AccessDeniedException"}}), ConfigurationError),
        (AwsError({"Error": {"Code": "KMSInvalidStateException"}}), ConfigurationError),
        (AwsError({"Error": {"Code": "NotFoundException"}}), ConfigurationError),
        (AwsError({"Error": {"Code": "ThrottlingException"}}), Transient),
        (AwsError({"Error": {}}), Transient),
        (AwsError({}), Transient),
        (HttpError("timed out"), Transient),
        (Unreachable("no route"), Transient),
        (ValueError("no such thing"), ConfigurationError),
    ],
)
def test_errors_of_aws_are_told_apart(
    error: Exception, kind: type[ClientError], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verdict(AWS, error, monkeypatch)
    assert type(found) is kind
    assert str(found).removeprefix("BAD_ENVELOPE: ").startswith("AWS KMS ")
    wrapped = verdict(AWS, TinkError(error), monkeypatch)
    assert type(wrapped) is kind, "Tink puts its own error around"
    assert type(error).__name__ in str(wrapped) or kind is Rejected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("InvalidArgument", Rejected),
        ("ServiceUnavailable", Transient),
        ("TooManyRequests", Transient),
        ("PermissionDenied", ConfigurationError),
        ("NotFound", ConfigurationError),
    ],
)
def test_errors_of_google_are_told_apart(
    name: str, kind: type[ClientError], monkeypatch: pytest.MonkeyPatch
) -> None:
    exceptions = pytest.importorskip("google.api_core.exceptions", reason="install hounsfield[kms]")
    found = verdict(GCP, getattr(exceptions, name)("an error"), monkeypatch)
    assert type(found) is kind
    assert "Google Cloud KMS " in str(found)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("InvalidRequest", Rejected),
        ("Forbidden", ConfigurationError),
        ("InvalidPath", ConfigurationError),
        ("Unauthorized", ConfigurationError),
        ("VaultDown", Transient),
        ("InternalServerError", Transient),
    ],
)
def test_errors_of_vault_are_told_apart(
    name: str, kind: type[ClientError], monkeypatch: pytest.MonkeyPatch
) -> None:
    exceptions = pytest.importorskip("hvac.exceptions", reason="install hounsfield[kms]")
    found = verdict(VAULT, getattr(exceptions, name)("an error"), monkeypatch)
    assert type(found) is kind
    assert "HashiCorp Vault " in str(found)


@pytest.mark.parametrize(
    ("error", "told"), [(TinkError("text"), "(a Tink error)"), (TinkError(), "(TinkError)")]
)
def test_tinks_own_errors_are_wrong_settings(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exceptions = pytest.importorskip("hvac.exceptions", reason="install hounsfield[kms]")
    assert exceptions
    found = verdict(VAULT, error, monkeypatch)
    assert type(found) is ConfigurationError
    assert told in str(found)


class Recording:
    """An Aead without secrets that takes no context, like Tink's for Vault."""

    def encrypt(self, secret: bytes, context: bytes) -> bytes:
        assert context == b""
        return b"sealed " + secret

    def decrypt(self, wrapped: bytes, context: bytes) -> bytes:
        assert context == b""
        return wrapped.removeprefix(b"sealed ")


def test_a_context_is_sealed_in_where_a_service_takes_none() -> None:
    inside = cloudkms._ContextInside(Recording())
    wrapped = inside.encrypt(b"secret", b"row 1")
    assert wrapped == b"sealed " + hashlib.sha256(b"row 1").digest() + b"secret"
    assert inside.decrypt(wrapped, b"row 1") == b"secret"
    for other in (b"row 2", b""):
        with pytest.raises(Rejected, match="A stored key belongs to another row of the vault") as e:
            inside.decrypt(wrapped, other)
        assert e.value.code is RefusalCode.BAD_ENVELOPE


def test_our_own_errors_pass_and_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Transient("ours")
    assert verdict(AWS, own, monkeypatch) is own
    missing = verdict(AWS, ImportError("boto3"), monkeypatch)
    assert type(missing) is ConfigurationError
    assert "AWS KMS needs its client library: pip install 'hounsfield[kms]'" in str(missing)


def test_a_service_is_chosen_by_the_whole_prefix_and_connected_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigurationError, match=r"aws-kms://, gcp-kms://, hcvault://.*'https'"):
        CloudKeyManager("https://x")
    calls = []

    class Plain:
        def encrypt(self, secret: bytes, context: bytes) -> bytes:
            return context + secret

        def decrypt(self, wrapped: bytes, context: bytes) -> bytes:
            return wrapped.removeprefix(context)

    def connect(key_id: str) -> Plain:
        calls.append(key_id)
        return Plain()

    service = cloudkms._SERVICES["aws-kms://"]
    monkeypatch.setitem(
        cloudkms._SERVICES, "aws-kms://", cloudkms._Service(service.name, connect, service.verdict)
    )
    manager = CloudKeyManager(AWS)
    assert manager.key_id == AWS
    assert calls == [], "constructors connect to nothing"
    assert manager.wrap(b"secret", b"context ") == (AWS, b"context secret")
    assert manager.unwrap(AWS, b"context secret", b"context ") == b"secret"
    assert calls == [AWS]
    with pytest.raises(NotFound, match="wrapped under aws-kms://arn:aws:kms:x, got one of another"):
        manager.unwrap("another", b"", b"")


def test_clients_are_made_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    class Client:
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)

        def get_aead(self, key_id: str) -> Any:
            made.append((key_id,))
            return SimpleNamespace(encrypt=lambda secret, _context: secret)

    aws, gcp = ModuleType("awskms"), ModuleType("gcpkms")
    aws.AwsKmsClient, gcp.GcpKmsClient = Client, Client  # type: ignore[attr-defined]
    # The entry of sys.modules is what an import statement reads, whoever replaced it before.
    integration = importlib.import_module("tink.integration")
    for name, module in (("awskms", aws), ("gcpkms", gcp)):
        monkeypatch.setattr(integration, name, module, raising=False)
        monkeypatch.setitem(sys.modules, f"tink.integration.{name}", module)
    assert CloudKeyManager(AWS).wrap(b"s", b"c") == (AWS, b"s")
    assert CloudKeyManager(GCP).wrap(b"s", b"c") == (GCP, b"s")
    assert made == [(AWS, None), (AWS,), (GCP,), (GCP,)]

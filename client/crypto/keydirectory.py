"""The folder with every key and certificate of a local installation: made once, then renewed.

    ca.pem  ca.key                         signs the certificates below
    ca.crl.pem                             certificates that were taken back, once there are any
    gateway.pem  gateway.key               the gateway's TLS certificate
    senders/<tenant>.pem  .key             a sender's TLS certificate
    senders/<tenant>.pseudonym.key         a sender's key for naming patients; it never leaves
    results/<tenant>/<key id>.*.json       a sender's keys: results are encrypted for them
    worker/<key id>.*.json                 the worker's keys: studies are encrypted for them
    kek/<key id>.kek.json                  what wraps the vault's keys, without a cloud's service
    audit.key                              makes the audit trail
    tokens/jwks.json  <key id>.key         signs bearer tokens, once there are any

The gateway needs ca.pem, gateway.*, audit.key, kek/ and the public halves in worker/; it can open
nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from client.crypto.certificates import (
    LOCAL_HOSTS,
    Credential,
    certificate_hosts,
    issue_gateway,
    issue_sender,
    make_authority,
    parse_certificate,
    revoke,
)
from client.crypto.keyring import Keyring, load_public_keys
from client.crypto.kms import LocalKeyManager
from client.crypto.privatefiles import (
    make_private_directory,
    read_private,
    write_private,
    write_public,
)
from client.crypto.pseudonyms import PseudonymKey
from client.errors import ConfigurationError

__all__ = (
    "KeyDescription",
    "KeyDirectory",
    "TlsFiles",
    "check_tenant",
    "create_key_directory",
    "describe_keys",
    "revoke_certificate",
)

_TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_AUDIT_KEY = "audit.key"
_RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """One side of mutual TLS, as PEM files: whom it trusts, and who it is."""

    authority: Path
    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One key or certificate, for people.

    Attributes:
        kind: "ca", "gateway", "sender", "result", "worker" or "kek".
        owner: The tenant, "" where there is none.
        id: Key id, or the certificate's serial number in hexadecimal.
        created_at: Start of validity.
        expires_at: End of validity, None when it has none.
        path: Its public half, where it has one.
    """

    kind: str
    owner: str
    id: str
    created_at: datetime
    expires_at: datetime | None
    path: Path


@dataclass(frozen=True, slots=True)
class KeyDirectory:
    """Where things lie below one folder."""

    root: Path

    @property
    def authority(self) -> Path:
        """The CA's certificate."""
        return self.root / "ca.pem"

    @property
    def revoked(self) -> Path:
        """The CA's revocation list; absent until a certificate is revoked."""
        return self.root / "ca.crl.pem"

    @property
    def tokens(self) -> Path:
        """The local token issuer's folder."""
        return self.root / "tokens"

    @property
    def gateway_tls(self) -> TlsFiles:
        """What the gateway serves with."""
        return TlsFiles(self.authority, self.root / "gateway.pem", self.root / "gateway.key")

    def sender_tls(self, tenant: str) -> TlsFiles:
        """What a sender calls with."""
        folder = self.root / "senders"
        return TlsFiles(self.authority, folder / f"{tenant}.pem", folder / f"{tenant}.key")

    def pseudonym_key(self, tenant: str) -> Path:
        """What a sender names patients with; see ``PseudonymKey``."""
        return self.root / "senders" / f"{tenant}.pseudonym.key"

    @property
    def worker_keys(self) -> Path:
        """The worker's keyring; the gateway reads its public halves."""
        return self.root / "worker"

    def audit_key(self) -> bytes:
        """Return what makes the audit trail; gateway, worker and operator may read it.

        Raises:
            ConfigurationError: It is missing, or open to others.
        """
        return read_private(self.root / _AUDIT_KEY)

    @property
    def kek(self) -> Path:
        """The key-encrypting keys; the gateway and the worker both use them."""
        return self.root / "kek"

    def result_keys(self, tenant: str) -> Path:
        """A sender's keyring."""
        return self.root / "results" / tenant


def check_tenant(tenant: str) -> str:
    """Return a tenant's name if it is one.

    Raises:
        ConfigurationError: It is not 1 to 63 lower-case letters, digits and inner hyphens.
    """
    if not _TENANT.fullmatch(tenant):
        raise ConfigurationError(
            f"A tenant is 1 to 63 lower-case letters, digits or inner hyphens; got {tenant!r}."
        )
    return tenant


def create_key_directory(
    directory: Path, tenant: str, hosts: Sequence[str] = ()
) -> tuple[KeyDescription, ...]:
    """Make whatever is missing for a gateway, a worker and one sender; keep what is there.

    Certificates that end within 30 days, or that lack one of ``hosts``, are issued anew. Call it
    again with another tenant to add a sender.

    Args:
        directory: The folder, mode 0700; made when missing.
        tenant: The sender's tenant.
        hosts: DNS names and addresses of the gateway, besides localhost.

    Returns:
        What lies in the folder now.

    Raises:
        ConfigurationError: The tenant's name is not one, a file is damaged, or a certificate must
            be issued and ca.key is not here.
    """
    check_tenant(tenant)
    keys = KeyDirectory(make_private_directory(directory))
    for folder in ("senders", "results"):
        make_private_directory(directory / folder)
    for keyring in (Keyring(keys.worker_keys), Keyring(keys.result_keys(tenant))):
        if not keyring.public_keys():
            keyring.create()
    if not (directory / _AUDIT_KEY).exists():
        write_private(directory / _AUDIT_KEY, secrets.token_bytes(32))
    if not LocalKeyManager(keys.kek).keys():
        LocalKeyManager(keys.kek).create()
    if not keys.pseudonym_key(tenant).exists():
        PseudonymKey.create(keys.pseudonym_key(tenant))
    authority = TlsFiles(keys.authority, keys.authority, directory / "ca.key")
    _ensure(authority, make_authority, _is_current)
    issuer = parse_certificate(keys.authority.read_bytes())
    known = _hosts_of(keys.gateway_tls.certificate)
    wanted = frozenset((*LOCAL_HOSTS, *hosts))
    _ensure(
        keys.gateway_tls,
        lambda: issue_gateway(_load(authority), sorted(wanted | known)),
        lambda c: _is_current(c) and _is_issued_by(c, issuer) and wanted <= known,
    )
    _ensure(
        keys.sender_tls(tenant),
        lambda: issue_sender(_load(authority), tenant),
        lambda c: _is_current(c) and _is_issued_by(c, issuer),
    )
    return describe_keys(directory)


def revoke_certificate(directory: Path, serial_number: int) -> Path:
    """Take a certificate back; running gateways refuse it a second later.

    Args:
        directory: The folder; its ca.key must be here.
        serial_number: The certificate's, as ``describe_keys`` shows it in hexadecimal.

    Returns:
        The revocation list.

    Raises:
        ConfigurationError: ca.key is not here, or the list is damaged.
    """
    keys = KeyDirectory(directory)
    authority = TlsFiles(keys.authority, keys.authority, directory / "ca.key")
    earlier = keys.revoked.read_bytes() if keys.revoked.exists() else None
    write_public(keys.revoked, revoke(_load(authority), serial_number, earlier))
    return keys.revoked


def describe_keys(directory: Path) -> tuple[KeyDescription, ...]:
    """Return every key and certificate in the folder.

    Raises:
        ConfigurationError: A file is damaged.
    """
    keys = KeyDirectory(directory)
    certificates = [("ca", "", keys.authority), ("gateway", "", keys.gateway_tls.certificate)]
    certificates += [("sender", p.stem, p) for p in sorted((directory / "senders").glob("*.pem"))]
    found = [_describe(kind, owner, path) for kind, owner, path in certificates if path.exists()]
    keyrings = [("worker", "", keys.worker_keys)]
    keyrings += [("result", p.name, p) for p in sorted((directory / "results").glob("*"))]
    for kind, owner, folder in keyrings:
        for key in load_public_keys(folder):
            path = folder / f"{key.key_id}.public.json"
            found.append(KeyDescription(kind, owner, key.key_id, key.created_at, None, path))
    wrapping = LocalKeyManager(keys.kek).keys()
    found += [KeyDescription("kek", "", k.key_id, k.created_at, None, k.path) for k in wrapping]
    return tuple(found)


def _describe(kind: str, owner: str, path: Path) -> KeyDescription:
    certificate = parse_certificate(path.read_bytes())
    return KeyDescription(
        kind,
        owner,
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        path,
    )


def _ensure(
    files: TlsFiles, make: Callable[[], Credential], good: Callable[[x509.Certificate], bool]
) -> None:
    if files.certificate.exists() and good(parse_certificate(files.certificate.read_bytes())):
        return
    credential = make()
    write_private(files.private_key, credential.private_key)
    write_public(files.certificate, credential.certificate)


def _is_current(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - datetime.now(UTC) > _RENEW_BEFORE


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError):
        return False
    return True


def _hosts_of(path: Path) -> frozenset[str]:
    return certificate_hosts(parse_certificate(path.read_bytes())) if path.exists() else frozenset()


def _load(files: TlsFiles) -> Credential:
    return Credential(files.certificate.read_bytes(), read_private(files.private_key))

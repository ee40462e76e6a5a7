"""Certificates for mutual TLS: a small CA of our own, the gateway's and the senders' certificates.

Keys are EC P-256. A sender's certificate names its tenant in a URI subject alternative name,
``urn:hounsfield:tenant:<tenant>``; the gateway believes nothing else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from client.errors import AccessDenied, ConfigurationError

__all__ = (
    "LOCAL_HOSTS",
    "TENANT_URN",
    "Credential",
    "certificate_hosts",
    "ends_at",
    "issue_gateway",
    "issue_sender",
    "make_authority",
    "parse_certificate",
    "revoke",
    "tenant_of",
)

TENANT_URN = "urn:hounsfield:tenant:"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_AUTHORITY_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=397)
_LIST_MARK = b"BEGIN X509 CRL"
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its private key, both PEM; the key is left out of ``repr``."""

    certificate: bytes
    private_key: bytes

    def __repr__(self) -> str:
        """Name no key."""
        return "Credential(***)"


def make_authority() -> Credential:
    """Make a CA that signs leaf certificates only, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Hounsfield local CA")
    builder = (
        _builder(name, name, key.public_key(), _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Credential(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def issue_gateway(authority: Credential, hosts: Sequence[str] = ()) -> Credential:
    """Make the gateway's certificate for localhost and the given DNS names and addresses."""
    names: list[x509.GeneralName] = [_host_name(h) for h in dict.fromkeys((*LOCAL_HOSTS, *hosts))]
    return _issue(authority, "Hounsfield gateway", names, ExtendedKeyUsageOID.SERVER_AUTH)


def issue_sender(authority: Credential, tenant: str) -> Credential:
    """Make a sender's certificate that names its tenant."""
    names = [x509.UniformResourceIdentifier(f"{TENANT_URN}{tenant}")]
    return _issue(authority, "Hounsfield sender", names, ExtendedKeyUsageOID.CLIENT_AUTH)


def revoke(authority: Credential, serial_number: int, earlier: bytes | None) -> bytes:
    """Return the authority's revocation list with one more certificate on it (RFC 5280, 5), PEM.

    It lasts as long as the authority: it is made anew whenever a certificate is revoked.

    Args:
        authority: Who signed the certificate.
        serial_number: The certificate's.
        earlier: The list until now; None when there was none.

    Raises:
        ConfigurationError: The earlier list is damaged, or the authority's key is not an EC key.
    """
    issuer, signer = parse_certificate(authority.certificate), _signer(authority)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(issuer.not_valid_after_utc)
    )
    listed = {entry.serial_number: entry for entry in _parse_list(earlier)} if earlier else {}
    if serial_number not in listed:
        entry = x509.RevokedCertificateBuilder().serial_number(serial_number).revocation_date(now)
        listed[serial_number] = entry.build()
    for revoked in listed.values():
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _parse_list(pem: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(pem)
    except ValueError as error:
        raise ConfigurationError("Expected a PEM revocation list, got something else.") from error


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Return the first certificate of a PEM file.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigurationError("Expected a PEM certificate, got something else.") from error


def ends_at(pem: bytes) -> datetime:
    """Return until when a certificate, or a revocation list, may be used.

    Raises:
        ConfigurationError: It is neither, or a list without an end.
    """
    if _LIST_MARK not in pem:
        return parse_certificate(pem).not_valid_after_utc
    until = _parse_list(pem).next_update_utc
    if until is None:
        raise ConfigurationError("Expected a revocation list that says when the next one comes.")
    return until


def tenant_of(certificate: x509.Certificate) -> str:
    """Return the one tenant a certificate names.

    Raises:
        AccessDenied: It names none, or several.
    """
    uris = _alternative_names(certificate, x509.UniformResourceIdentifier)
    tenants = [uri.removeprefix(TENANT_URN) for uri in uris if uri.startswith(TENANT_URN)]
    if len(tenants) != 1 or not tenants[0]:
        raise AccessDenied(
            f"Expected a client certificate with one URI name {TENANT_URN}<tenant>, "
            f"got {len(tenants)} of them."
        )
    return tenants[0]


def certificate_hosts(certificate: x509.Certificate) -> frozenset[str]:
    """Return the DNS names and IP addresses a gateway's certificate is for."""
    dns = _alternative_names(certificate, x509.DNSName)
    return frozenset((*dns, *_alternative_names(certificate, x509.IPAddress)))


def _alternative_names(certificate: x509.Certificate, kind: type) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return []  # malformed names name nobody
    return [str(value) for value in extension.value.get_values_for_type(kind)]


def _issue(
    authority: Credential,
    common_name: str,
    names: Iterable[x509.GeneralName],
    usage: x509.ObjectIdentifier,
) -> Credential:
    issuer = parse_certificate(authority.certificate)
    signer = _signer(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        _builder(_name(common_name), issuer.subject, key.public_key(), _LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(identifier, critical=False)
    )
    return Credential(_pem(builder.sign(signer, hashes.SHA256())), _key_pem(key))


def _signer(authority: Credential) -> ec.EllipticCurvePrivateKey:
    signer = serialization.load_pem_private_key(authority.private_key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("The CA's private key must be an EC key.")
    return signer


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

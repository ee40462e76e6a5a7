"""Every certificate says exactly what it is for, and revocation lists only grow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from client.crypto.certificates import (
    Credential,
    certificate_hosts,
    ends_at,
    issue_gateway,
    issue_sender,
    make_authority,
    parse_certificate,
    revoke,
    tenant_of,
)
from client.errors import AccessDenied, ConfigurationError

pytestmark = pytest.mark.unit

AUTHORITY = make_authority()
ISSUER = parse_certificate(AUTHORITY.certificate)


def common_name(certificate: x509.Certificate) -> object:
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert len(list(certificate.subject)) == 1
    return attribute.value


def usages(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert extension.critical
    names = (
        *("digital_signature", "key_cert_sign", "crl_sign", "content_commitment"),
        *("key_encipherment", "data_encipherment", "key_agreement"),
    )
    return {name for name in names if getattr(extension.value, name)}


def lasts(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc


def test_the_authority_may_sign_leaf_certificates_and_lists_and_nothing_else() -> None:
    authority = make_authority()
    made = parse_certificate(authority.certificate)
    basic = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    assert usages(made) == {"key_cert_sign", "crl_sign"}
    assert common_name(made) == "Hounsfield local CA"
    assert made.issuer == made.subject
    made.verify_directly_issued_by(made)
    assert lasts(made) == timedelta(days=3650, minutes=5)
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.ExtendedKeyUsage)


@pytest.mark.parametrize(
    ("issue", "name", "purpose", "names"),
    [
        (
            lambda: issue_gateway(AUTHORITY, ["gw.example", "10.0.0.9", "localhost"]),
            "Hounsfield gateway",
            ExtendedKeyUsageOID.SERVER_AUTH,
            {"localhost", "127.0.0.1", "::1", "gw.example", "10.0.0.9"},
        ),
        (
            lambda: issue_sender(AUTHORITY, "radiology"),
            "Hounsfield sender",
            ExtendedKeyUsageOID.CLIENT_AUTH,
            {"urn:hounsfield:tenant:radiology"},
        ),
    ],
    ids=["gateway", "sender"],
)
def test_a_leaf_is_for_one_purpose(
    issue: Callable[[], Credential],
    name: str,
    purpose: x509.ObjectIdentifier,
    names: set[str],
) -> None:
    credential = issue()
    leaf = parse_certificate(credential.certificate)
    leaf.verify_directly_issued_by(ISSUER)
    assert common_name(leaf) == name
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (False, None)
    assert usages(leaf) == {"digital_signature"}
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(extended.value) == [purpose]
    alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert len(list(alternative.value)) == len(names)
    assert {str(entry.value) for entry in alternative.value} == names
    assert (extended.critical, alternative.critical) == (False, False)
    authority_key = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    issuer_key = ISSUER.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert authority_key.value.key_identifier == issuer_key.value.digest
    assert (authority_key.critical, issuer_key.critical) == (False, False)
    assert lasts(leaf) == timedelta(days=397, minutes=5)
    assert isinstance(leaf.signature_hash_algorithm, hashes.SHA256)
    key = serialization.load_pem_private_key(credential.private_key, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == leaf.public_key()
    own_key = leaf.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert own_key == x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def test_serial_numbers_are_not_repeated_and_credentials_do_not_print() -> None:
    leaves = [issue_sender(AUTHORITY, "a") for _ in range(3)]
    assert len({parse_certificate(leaf.certificate).serial_number for leaf in leaves}) == 3
    assert repr(AUTHORITY) == "Credential(***)"


def leaf_of(*names: x509.GeneralName, extension: bytes | None = None) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extension is not None:
        oid = x509.SubjectAlternativeName.oid
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
    return builder.sign(key, hashes.SHA256())


URN = "urn:hounsfield:tenant:"


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ((), 0),
        ((x509.DNSName("a"),), 0),
        ((x509.UniformResourceIdentifier("urn:other:tenant:a"),), 0),
        ((x509.UniformResourceIdentifier(f"x{URN}a"),), 0),
        ((x509.UniformResourceIdentifier(URN),), 1),
        ((x509.UniformResourceIdentifier(f"{URN}a"), x509.UniformResourceIdentifier(f"{URN}b")), 2),
    ],
)
def test_a_certificate_that_does_not_name_one_tenant_is_nobody_s(
    names: tuple[x509.GeneralName, ...], count: int
) -> None:
    with pytest.raises(AccessDenied, match=rf"urn:hounsfield:tenant:<tenant>, got {count} of them"):
        tenant_of(leaf_of(*names))


def test_malformed_names_name_nobody() -> None:
    broken = leaf_of(extension=b"\x30\x05broken")
    with pytest.raises(AccessDenied):
        tenant_of(broken)
    assert certificate_hosts(broken) == frozenset()
    other = leaf_of(x509.DNSName("a"), x509.UniformResourceIdentifier(f"{URN}a"))
    assert (tenant_of(other), set(certificate_hosts(other))) == ("a", {"a"})


@pytest.mark.parametrize("pem", [b"", b"not a certificate", AUTHORITY.private_key])
def test_what_is_no_pem_is_told(pem: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"^Expected a PEM certificate, got something"):
        parse_certificate(pem)
    with pytest.raises(ConfigurationError, match=r"^Expected a PEM revocation list, got something"):
        revoke(AUTHORITY, 1, pem or b"x")


def test_a_revocation_list_grows_and_keeps_its_dates() -> None:
    first = x509.load_pem_x509_crl(revoke(AUTHORITY, 4711, None))
    (entry,) = first
    assert entry.serial_number == 4711
    assert abs(entry.revocation_date_utc - datetime.now(UTC)) < timedelta(minutes=1)
    assert first.issuer == ISSUER.subject
    authority_key = ISSUER.public_key()
    assert isinstance(authority_key, ec.EllipticCurvePublicKey)
    assert first.is_signature_valid(authority_key)
    assert isinstance(first.signature_hash_algorithm, hashes.SHA256)
    assert first.next_update_utc == ISSUER.not_valid_after_utc
    assert abs(first.last_update_utc - datetime.now(UTC)) < timedelta(minutes=1)
    pem = first.public_bytes(serialization.Encoding.PEM)
    second = x509.load_pem_x509_crl(revoke(AUTHORITY, 815, pem))
    again = x509.load_pem_x509_crl(
        revoke(AUTHORITY, 4711, second.public_bytes(serialization.Encoding.PEM))
    )
    for revoked in (second, again):
        assert sorted(e.serial_number for e in revoked) == [815, 4711]
        kept = revoked.get_revoked_certificate_by_serial_number(4711)
        assert kept is not None
        assert kept.revocation_date_utc == entry.revocation_date_utc


def test_an_authority_with_another_kind_of_key_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for make in (lambda a: issue_sender(a, "a"), issue_gateway, lambda a: revoke(a, 1, None)):
        with pytest.raises(ConfigurationError, match=r"^The CA's private key must be an EC key\.$"):
            make(Credential(AUTHORITY.certificate, key))


def test_certificates_and_revocation_lists_say_when_they_end() -> None:
    sender = issue_sender(AUTHORITY, "radiology").certificate
    assert ends_at(sender) == parse_certificate(sender).not_valid_after_utc
    assert ends_at(revoke(AUTHORITY, 7, None)) == ISSUER.not_valid_after_utc
    damaged = b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
    for other, expected in ((b"", "PEM certificate"), (damaged, "PEM revocation list")):
        with pytest.raises(ConfigurationError, match=expected):
            ends_at(other)

"""The table of certificates and TLS settings that a gateway, or a sender, must refuse.

row ──TLS handshake, ListJobs──▶ refused in the handshake │ PERMISSION_DENIED │ taken
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from client.crypto.certificates import (
    Credential,
    issue_gateway,
    issue_sender,
    make_authority,
    parse_certificate,
)
from client.crypto.keydirectory import TlsFiles, revoke_certificate
from client.crypto.privatefiles import write_private, write_public
from tests.forge import forge_certificate
from tests.gateways import TENANT, GatewayUnderTest

__all__ = (
    "CERTIFICATES",
    "HANDSHAKES",
    "CertificateRow",
    "authority_of",
    "dial",
    "peer_certificate",
    "show_as_gateway",
    "tls_files",
    "tls_verdict",
    "verdict",
)

Limit = Callable[[ssl.SSLContext, Path], None]
HANDSHAKE = grpc.StatusCode.UNAVAILABLE
DENIED = grpc.StatusCode.PERMISSION_DENIED
TAKEN = grpc.StatusCode.OK
_METHOD = "/hounsfield.ingest.v1.Ingest/ListJobs"
_TIMEOUT_S = 10


def authority_of(gateway: GatewayUnderTest) -> Credential:
    """Return the CA that the gateway trusts."""
    root = gateway.keys.root
    return Credential(gateway.keys.authority.read_bytes(), (root / "ca.key").read_bytes())


def tls_files(folder: Path, authority: Credential, own: Credential | None) -> TlsFiles:
    """Write what one side of a connection needs."""
    folder.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(folder / "ca.pem", folder / "cert.pem", folder / "cert.key")
    write_public(files.authority, authority.certificate)
    if own is not None:
        write_public(files.certificate, own.certificate)
        write_private(files.private_key, own.private_key)
    return files


@dataclass(frozen=True)
class CertificateRow:
    """A client certificate, and how a call with it must end."""

    name: str
    make: Callable[[Credential], Credential | None]
    expected: grpc.StatusCode


def _by_a_leaf(authority: Credential) -> Credential:
    """Return a certificate signed by a sender, who is no CA."""
    leaf = issue_sender(authority, TENANT)
    forged = forge_certificate(leaf)
    return Credential(forged.certificate + leaf.certificate, forged.private_key)


CERTIFICATES = (
    CertificateRow("ours", lambda ca: issue_sender(ca, TENANT), TAKEN),
    CertificateRow("forged as ours are made", forge_certificate, TAKEN),
    CertificateRow("none", lambda _: None, HANDSHAKE),
    CertificateRow("expired", lambda ca: forge_certificate(ca, ends_days=-0.01), HANDSHAKE),
    CertificateRow("not valid yet", lambda ca: forge_certificate(ca, begins_days=0.5), HANDSHAKE),
    CertificateRow("of another CA", lambda _: issue_sender(make_authority(), TENANT), HANDSHAKE),
    CertificateRow("signed by itself", lambda _: forge_certificate(None), HANDSHAKE),
    CertificateRow("signed by a sender", _by_a_leaf, HANDSHAKE),
    CertificateRow("the gateway's own", issue_gateway, HANDSHAKE),
    CertificateRow(
        "for servers, names a tenant",
        lambda ca: forge_certificate(ca, usage=ExtendedKeyUsageOID.SERVER_AUTH),
        HANDSHAKE,
    ),
    CertificateRow(
        "names no tenant", lambda ca: forge_certificate(ca, tenants=(), hosts=("x",)), DENIED
    ),
    CertificateRow(
        "names an empty tenant", lambda ca: forge_certificate(ca, tenants=("",)), DENIED
    ),
    CertificateRow(
        "names two tenants", lambda ca: forge_certificate(ca, tenants=(TENANT, "b")), DENIED
    ),
    CertificateRow("revoked", lambda ca: issue_sender(ca, "revoked"), DENIED),
)
"""Every certificate that a caller may show."""


async def dial(
    gateway: GatewayUnderTest, files: TlsFiles, address: str = ""
) -> tuple[grpc.StatusCode, str]:
    """List jobs with a certificate, or without one where there is no file; return how it ended."""
    own = files.certificate.exists()
    credentials = grpc.ssl_channel_credentials(
        files.authority.read_bytes(),
        files.private_key.read_bytes() if own else None,
        files.certificate.read_bytes() if own else None,
    )
    async with grpc.aio.secure_channel(address or gateway.address, credentials) as channel:
        method: Any = channel.unary_unary(_METHOD)
        call = method(b"", timeout=_TIMEOUT_S)
        return await call.code(), await call.details() or ""


async def verdict(gateway: GatewayUnderTest, row: CertificateRow, folder: Path) -> grpc.StatusCode:
    """Return how a call with a row's certificate ends; "revoked" is revoked first."""
    own = row.make(authority_of(gateway))
    if row.name == "revoked" and own is not None:
        revoke_certificate(gateway.keys.root, parse_certificate(own.certificate).serial_number)
        await asyncio.sleep(1.2)
    return (await dial(gateway, tls_files(folder, authority_of(gateway), own)))[0]


def _context(gateway: GatewayUnderTest) -> ssl.SSLContext:
    tls = gateway.keys.sender_tls(TENANT)
    context = ssl.create_default_context(cafile=tls.authority)
    context.load_cert_chain(tls.certificate, tls.private_key)
    context.set_alpn_protocols(["h2"])
    return context


def _version(number: str) -> Limit:
    def limit(context: ssl.SSLContext, _: Path) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion[number]

    return limit


def _ciphers(names: str) -> Limit:
    def limit(context: ssl.SSLContext, _: Path) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"{names}:@SECLEVEL=0")

    return limit


def _as_authority(context: ssl.SSLContext, keys: Path) -> None:
    context.load_cert_chain(keys / "ca.pem", keys / "ca.key")


HANDSHAKES: tuple[tuple[str, Limit, bool], ...] = (
    ("TLS 1.3", lambda *_: None, True),
    ("TLS 1.2, ECDHE and AES-GCM", _ciphers("ECDHE-ECDSA-AES256-GCM-SHA384"), True),
    ("TLS 1.0", _version("TLSv1"), False),
    ("TLS 1.1", _version("TLSv1_1"), False),
    ("TLS 1.2, CBC and SHA-1", _ciphers("ECDHE-ECDSA-AES128-SHA"), False),
    ("TLS 1.2, CBC and SHA-256", _ciphers("ECDHE-ECDSA-AES128-SHA256"), False),
    ("TLS 1.2, no forward secrecy", _ciphers("AES128-GCM-SHA256"), False),
    ("TLS 1.2, no encryption", _ciphers("NULL"), False),
    ("TLS 1.2, no authentication", _ciphers("aNULL"), False),
    ("the CA's own certificate", _as_authority, False),
)
"""What a caller's TLS offers, and whether the gateway may agree to it."""


def _shake(gateway: GatewayUnderTest, context: ssl.SSLContext) -> bytes | None:
    host, _, port = gateway.address.rpartition(":")
    with socket.create_connection(("127.0.0.1", int(port)), _TIMEOUT_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secured:
                # TLS 1.3 tells of a refusal only after the handshake.
                if not secured.recv(1):
                    return None
                return secured.getpeercert(binary_form=True)
        except (ssl.SSLError, ConnectionError):
            return None


async def tls_verdict(gateway: GatewayUnderTest, limit: Limit) -> bool:
    """Return whether the gateway agrees to a handshake with these limits."""
    context = _context(gateway)
    limit(context, gateway.keys.root)
    return await asyncio.to_thread(_shake, gateway, context) is not None


async def peer_certificate(gateway: GatewayUnderTest) -> x509.Certificate:
    """Return the certificate that the gateway shows a new connection."""
    shown = await asyncio.to_thread(_shake, gateway, _context(gateway))
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


async def show_as_gateway(
    own: Credential, authority: Credential, use: Callable[[str], Awaitable[grpc.StatusCode]]
) -> grpc.StatusCode:
    """Serve nothing with a certificate while ``use`` calls ``localhost:port``; return its answer.

    A sender that accepts the certificate finds no such method: UNIMPLEMENTED.
    """
    server = grpc.aio.server()
    credentials = grpc.ssl_server_credentials(
        [(own.private_key, own.certificate)], authority.certificate, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        return await use(f"localhost:{port}")
    finally:
        await server.stop(0)

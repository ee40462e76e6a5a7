"""The gateway's side of mutual TLS: certificates that are renewed while calls run.

files ──every second──▶ configuration ──next handshake──▶ new connections; old ones go on
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import grpc
from cryptography.hazmat.primitives import serialization

from client.crypto.certificates import parse_certificate
from client.crypto.keydirectory import TlsFiles
from client.crypto.privatefiles import read_private
from client.errors import ConfigurationError

__all__ = ("ServerTls",)

_LOG = logging.getLogger(__name__)
_Content = tuple[bytes, bytes, bytes]


class ServerTls:
    """What the gateway shows new connections, and whom it trusts; follows its files.

    A certificate and its key are two files, so between the two renames they do not belong
    together: what does not fit is left alone until it does.

    Args:
        files: Certificate, key, and the CA that signs senders' certificates.
        look_s: Seconds between two looks at the files.
    """

    def __init__(self, files: TlsFiles, look_s: float = 1.0) -> None:
        self._files = files
        self._look_s = look_s
        self._content = self._read()
        self._fresh: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        self._complaint = ""

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a server is bound with; client certificates are required."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._content),
            self._take_fresh,  # type: ignore[arg-type] # None is allowed: nothing new
            require_client_authentication=True,
        )

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        try:
            content = self._read()
        except ConfigurationError as error:
            if str(error) != self._complaint:
                _LOG.error("The gateway keeps the certificate it has: %s", error)
            self._complaint = str(error)
            return
        self._complaint = ""
        if content != self._content:
            self._content = content
            self._fresh.append(_configuration(content))
            ends_at = parse_certificate(content[1]).not_valid_after_utc
            _LOG.info("New connections get the new certificate, valid until %s", ends_at)

    def _take_fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """Answer gRPC, which asks at every handshake and in threads of its own."""
        try:
            return self._fresh.pop()
        except IndexError:
            return None

    def _read(self) -> _Content:
        files = self._files
        try:
            certificate, authority = files.certificate.read_bytes(), files.authority.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read {error.filename}: make certificates with `hounsfield keys new`."
            ) from error
        private_key = read_private(files.private_key)
        parse_certificate(authority)
        try:
            own = serialization.load_pem_private_key(private_key, password=None).public_key()
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{files.private_key} is not a PEM private key.") from error
        if own != parse_certificate(certificate).public_key():
            raise ConfigurationError(
                f"{files.certificate} and {files.private_key} do not belong together."
            )
        return private_key, certificate, authority


def _configuration(content: _Content) -> grpc.ServerCertificateConfiguration:
    private_key, certificate, authority = content
    return grpc.ssl_server_certificate_configuration(
        [(private_key, certificate)], root_certificates=authority
    )

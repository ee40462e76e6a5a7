"""Certificates that were taken back before their end: the CRL of our authority (RFC 5280, 5)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from client.access.freshfile import FreshFile
from client.errors import AccessDenied, ConfigurationError, Transient

__all__ = ("RevocationList",)

_NONE = (frozenset[int](), datetime.max.replace(tzinfo=UTC))


class RevocationList:
    """Serial numbers that are no longer let in; a replaced file counts from the next second on.

    No file means that nothing was revoked yet. A file that is damaged, of another authority, past
    its next update, or gone again closes the gateway: whom it would let in cannot be known then.

    Args:
        path: The CRL, PEM.
        authority: Certificates of our CA, the new and the old one while it is being changed; one
            of them must have signed it.
    """

    def __init__(self, path: Path, authority: Path) -> None:
        self._path = path
        self._authority = authority
        self._file = FreshFile(path, self._parse, _NONE)

    async def load(self) -> None:
        """Read the list for the first time.

        Raises:
            ConfigurationError: It is damaged, of another authority, or past its next update.
        """
        await self._file.load()

    async def check(self, certificate: x509.Certificate) -> None:
        """Return when the certificate still counts.

        Raises:
            AccessDenied: It was revoked.
            Transient: There is no valid list at this moment.
        """
        revoked, ends_at = await self._file.value()
        if ends_at <= datetime.now(UTC):
            raise Transient("The gateway's revocation list is out of date; it needs a new one.")
        if certificate.serial_number in revoked:
            raise AccessDenied("The client certificate was revoked: ask for a new one.")

    def _parse(self, pem: bytes) -> tuple[frozenset[int], datetime]:
        try:
            found = x509.load_pem_x509_crl(pem)
            authorities = x509.load_pem_x509_certificates(self._authority.read_bytes())
            ours = any(_has_signed(authority, found) for authority in authorities)
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(
                f"Expected {self._path} to be a PEM revocation list: make it anew with "
                "`hounsfield keys revoke`."
            ) from error
        ends_at = found.next_update_utc
        if not ours or ends_at is None or ends_at <= datetime.now(UTC):
            raise ConfigurationError(
                f"Expected {self._path} to be signed by {self._authority} and to have its next "
                "update ahead: make it anew with `hounsfield keys revoke`."
            )
        return frozenset(entry.serial_number for entry in found), ends_at


def _has_signed(authority: x509.Certificate, found: x509.CertificateRevocationList) -> bool:
    return found.issuer == authority.subject and found.is_signature_valid(
        authority.public_key()  # type: ignore[arg-type]
    )

"""Certificates and TLS: what is refused, by whom, and how a renewed certificate comes into use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from cryptography.x509.oid import ExtendedKeyUsageOID

from client.crypto.certificates import issue_gateway, issue_sender, make_authority
from client.crypto.privatefiles import write_private, write_public
from client.errors import ConfigurationError
from client.ingest.servertls import ServerTls
from tests.certificate_table import (
    CERTIFICATES,
    HANDSHAKES,
    authority_of,
    dial,
    show_as_gateway,
    tls_files,
    tls_verdict,
    verdict,
)
from tests.forge import forge_certificate
from tests.gateways import TENANT, GatewayUnderTest, running_gateway
from tests.reloading import calls_through_reloads

pytestmark = pytest.mark.contract


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path_factory.mktemp("g")) as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
async def test_the_table_of_certificates(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    seen = {
        row.name: await verdict(gateway, row, tmp_path / f"{number}")
        for number, row in enumerate(CERTIFICATES)
    }
    assert seen == {row.name: row.expected for row in CERTIFICATES}


@pytest.mark.asyncio(loop_scope="module")
async def test_old_and_weak_tls_is_refused(gateway: GatewayUnderTest) -> None:
    seen = {name: await tls_verdict(gateway, limit) for name, limit, _ in HANDSHAKES}
    assert seen == {name: agreed for name, _, agreed in HANDSHAKES}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_sender_refuses_a_gateway_that_is_not_the_one_it_called(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    ours = authority_of(gateway)
    sender = tls_files(tmp_path, ours, issue_sender(ours, TENANT))
    usage = ExtendedKeyUsageOID.SERVER_AUTH

    async def call(address: str) -> grpc.StatusCode:
        return (await dial(gateway, sender, address))[0]

    shown = {
        "ours": issue_gateway(ours),
        "of another host": forge_certificate(ours, tenants=(), hosts=("evil.test",), usage=usage),
        "of another CA": issue_gateway(make_authority()),
        "a sender's": issue_sender(ours, TENANT),
        "expired": forge_certificate(
            ours, tenants=(), hosts=("localhost",), usage=usage, ends_days=-0.01
        ),
    }
    seen = {name: await show_as_gateway(own, ours, call) for name, own in shown.items()}
    assert seen.pop("ours") is grpc.StatusCode.UNIMPLEMENTED
    assert set(seen.values()) == {grpc.StatusCode.UNAVAILABLE}, seen


@pytest.mark.asyncio(loop_scope="module")
async def test_a_renewed_certificate_drops_no_call(gateway: GatewayUnderTest) -> None:
    report = await calls_through_reloads(gateway, reloads=2, callers=8)
    assert report.failures == ()
    assert report.calls >= 100
    assert report.streams_survived
    assert len(set(report.serials)) == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_a_new_authority_counts_without_a_restart(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        old, new = authority_of(gateway), make_authority()
        both = new.certificate + old.certificate
        write_public(gateway.keys.authority, both)
        await asyncio.sleep(1.5)
        for number, authority in enumerate((old, new)):
            files = tls_files(tmp_path / f"{number}", old, issue_sender(authority, TENANT))
            assert (await dial(gateway, files))[0] is grpc.StatusCode.OK


def test_half_a_renewal_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = make_authority()
    first, second = issue_gateway(authority), issue_gateway(authority)
    files = tls_files(tmp_path, authority, first)
    tls = ServerTls(files)
    write_private(files.private_key, second.private_key)
    for _ in range(3):
        tls._look()
    assert tls._take_fresh() is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "do not belong together" in caplog.text
    write_public(files.certificate, second.certificate)
    tls._look()
    assert tls._take_fresh() is not None
    assert tls._take_fresh() is None
    files.certificate.write_bytes(b"x")
    with pytest.raises(ConfigurationError):
        ServerTls(files)

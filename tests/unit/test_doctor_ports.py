"""doctor says which of the addresses that the stack needs is taken."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from client.cli.doctor import Finding, examine
from client.settings import load_settings

pytestmark = pytest.mark.unit


def ports(home: Path, **addresses: str) -> Finding:
    variables = {f"HOUNSFIELD_{name.upper()}": value for name, value in addresses.items()}
    settings = load_settings({"HOUNSFIELD_HOME": str(home), **variables})
    return next(finding for finding in examine(settings) if finding.check == "ports")


def test_each_address_is_tried_the_workers_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.77", 0)) as taken:
        port = taken.getsockname()[1]
        free = {"gateway": "127.0.0.77:0"}
        for name in ("metrics_listen", "health_listen"):
            for listen in (port, port - 1):
                finding = ports(tmp_path, **free, **{name: f"127.0.0.77:{listen}"})
                assert not finding.ok
                assert f"127.0.0.77:{port}: Address already in use" in finding.seen
        finding = ports(tmp_path, gateway=f"127.0.0.77:{port}")
        assert not finding.ok
        assert ports(tmp_path, **free) == Finding("ports", True, "127.0.0.77:0: free")


def test_what_is_no_address_is_told(tmp_path: Path) -> None:
    finding = ports(tmp_path, gateway="127.0.0.77:0", metrics_listen="9464")
    assert not finding.ok
    assert "Expected host:port, got '9464'" in finding.mend

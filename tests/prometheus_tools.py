"""Prometheus' own programs for tests: from the path, or from Debian's package, or a skip."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.process import tied_command

__all__ = ("Prometheus", "find_program", "running_prometheus")

ROOT = Path(__file__).parents[1]
_START_S = 30.0


def find_program(name: str) -> str:
    """Return the path of ``promtool`` or ``prometheus``; skip the test where it cannot be had."""
    found = subprocess.run(
        [str(ROOT / "scripts" / "prometheus_tool.sh"), name],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def alerts(self) -> dict[str, str]:
        """Return the alerts that are pending or firing, with their state."""
        found = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in found}

    def _get(self, what: str, **arguments: str) -> Any:
        url = f"http://{self._address}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]


@contextmanager
def running_prometheus(
    folder: Path, address: str, rules: Path, targets: Mapping[str, str]
) -> Iterator[Prometheus]:
    """Run a server that looks every second.

    Args:
        folder: Where it keeps everything.
        address: host:port it listens on.
        rules: Folder of its rule files.
        targets: host:port by the label ``container``.
    """
    labels = {"namespace": "hounsfield"}
    jobs = [
        {
            "job_name": name,
            "static_configs": [
                {"targets": [at], "labels": {**labels, "container": name, "pod": f"{name}-0"}}
            ],
        }
        for name, at in targets.items()
    ]
    timing = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": timing, "rule_files": [f"{rules}/*.yaml"], "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(json.dumps(config))
    command = [
        find_program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(tied_command(command), stdout=log, stderr=log, cwd=folder)
    try:
        _wait_until_ready(server, address)
        yield Prometheus(address)
    finally:
        server.terminate()
        server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, "Prometheus ended; its log says why."
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"Prometheus is not ready after {_START_S:g} s.")

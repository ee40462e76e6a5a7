"""A real local stack and what tests do to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from client.cli.sending import connect
from client.crypto.keydirectory import KeyDirectory
from client.ingest.sender import IngestClient
from client.ledger.ledger import Ledger
from client.settings import Settings
from client.stack import control
from client.stack.scratch import scratch_stack

__all__ = ("LocalStack", "running_stack", "two_ports")


class LocalStack:
    """A running stack."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def home(self) -> Path:
        """Where it keeps everything."""
        return Path(self.settings.home)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the command line finds this stack."""
        return {**os.environ, **self.settings.environment()}

    def hounsfield(self, *arguments: object, code: int = 0) -> Any:
        """Run the command line with --json; return what it printed. It must end with ``code``."""
        done = subprocess.run(
            [Path(sys.executable).with_name("hounsfield"), *map(str, arguments), "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else json.loads(done.stderr.splitlines()[-1])

    def client(self) -> IngestClient:
        """A sender's connection, as the stack's own tenant."""
        return connect(self.settings)

    def ledger(self) -> Ledger:
        """The stack's own ledger, to be entered."""
        key = KeyDirectory(Path(self.settings.keys)).audit_key()
        return Ledger(self.settings.ledger_url, key)

    def pid(self, service: str) -> int:
        """Process id of a service, as soon as it is ready."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for status in control.status(self.settings):
                if status.name == service and status.state == "ready":
                    return status.pid
            time.sleep(0.05)
        raise AssertionError(f"{service} is not ready: {control.status(self.settings)}")

    def kill(self, service: str, number: int) -> None:
        """Send a signal to a service's main process."""
        os.kill(self.pid(service), number)

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        supervisor = psutil.Process(int((self.home / "run" / "supervisor.lock").read_text()))
        return [supervisor, *supervisor.children(recursive=True)]


@contextlib.contextmanager
def running_stack(home: Path, **changes: Any) -> Iterator[LocalStack]:
    """Start a stack in ``home`` with these settings, stop it at the end."""
    with scratch_stack(home, **changes) as settings:
        yield LocalStack(settings)


def two_ports() -> str:
    """An address whose port and the next one are free, as a stack with metrics needs."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return f"127.0.0.1:{port}"
            except (OSError, OverflowError):
                continue

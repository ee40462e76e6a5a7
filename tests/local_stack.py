"""A real local stack and what tests do to it."""

from __future__ import annotations

import contextlib
import os
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

__all__ = ("LocalStack", "running_stack")


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

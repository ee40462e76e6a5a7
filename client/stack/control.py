"""Starts, watches and stops the supervisor from another process: up, status, down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from client.errors import ConfigurationError, Transient
from client.secretfiles import SECRETS
from client.settings import Settings
from client.stack.supervisor import ServiceStatus, lock_is_held, read_status

__all__ = ("launch", "log_directory", "run_directory", "status", "stop", "until_ready")

_POLL_S = 0.1


def run_directory(settings: Settings) -> Path:
    """Where the supervisor of this home keeps its lock and its status."""
    return Path(settings.home) / "run"


def log_directory(settings: Settings) -> Path:
    """Where the services of this home write their logs."""
    return Path(settings.home) / "logs"


def launch(settings: Settings, with_parent: bool = False) -> subprocess.Popen[bytes]:
    """Start the supervisor in the background; it outlives this process unless told otherwise.

    Args:
        settings: What to start.
        with_parent: End the stack when this process ends, however it ends.

    Raises:
        ConfigurationError: A stack already runs in this home.
    """
    if lock_is_held(run_directory(settings)):
        raise ConfigurationError(
            f"A stack is already running in {settings.home}. See `hounsfield status`; stop it "
            "with `hounsfield down`."
        )
    logs = log_directory(settings)
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "client.stack.local"]
    with _log_of_supervisor(settings).open("wb") as log:
        return subprocess.Popen(
            [*argv, "--with-parent"] if with_parent else argv,
            env={**_without_secrets(os.environ), **settings.environment()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out where secrets lie: they have been read, and are handed on by value."""
    return {name: value for name, value in environ.items() if name != SECRETS}


def until_ready(
    settings: Settings,
    supervisor: subprocess.Popen[bytes],
    on_status: Callable[[tuple[ServiceStatus, ...]], None] = lambda _: None,
    timeout_s: float = 120.0,
) -> tuple[ServiceStatus, ...]:
    """Return once every service is ready; stop everything if that takes too long.

    Args:
        settings: What was launched.
        supervisor: As ``launch`` returned it.
        on_status: Called whenever the state of a service changed.
        timeout_s: Seconds until everything must be ready.

    Raises:
        ConfigurationError: A service did not start; the end of its log is in the message.
    """
    deadline = time.monotonic() + timeout_s
    seen: tuple[ServiceStatus, ...] = ()
    while time.monotonic() < deadline:
        if supervisor.poll() is not None:
            raise ConfigurationError(_log_of_supervisor(settings).read_text().strip())
        now = status(settings)
        if now != seen:
            on_status(now)
            seen = now
        if now and all(service.state == "ready" for service in now):
            return now
        time.sleep(_POLL_S)
    stop(settings)
    raise ConfigurationError(
        f"The stack was expected to be ready within {timeout_s:g} s; see the logs in "
        f"{log_directory(settings)}."
    )


def _log_of_supervisor(settings: Settings) -> Path:
    return log_directory(settings) / "supervisor.log"


def status(settings: Settings) -> tuple[ServiceStatus, ...]:
    """Return every service of the running stack; empty when none runs."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return read_status(run_directory(settings))
    return ()


def stop(settings: Settings, timeout_s: float = 60.0) -> bool:
    """Stop the stack of this home; return False when none ran.

    Raises:
        Transient: It did not end in time.
    """
    run = run_directory(settings)
    if not lock_is_held(run):
        return False
    os.kill(int((run / "supervisor.lock").read_text()), signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while lock_is_held(run):
        if time.monotonic() > deadline:
            raise Transient(f"The stack in {settings.home} did not stop within {timeout_s:g} s.")
        time.sleep(_POLL_S)
    return True

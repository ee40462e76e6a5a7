"""Triton in a container beside the worker's: its keys, its command line, becoming it, its guard.

    prepare ─▶ keys ─▶ arguments.json, admin.key │ HOUNSFIELD_TRITON_WORKER_KEY (the worker's)
    serve   ◀─ arguments.json, exec      link: makes the image of the cpu profile ready for that
    watch   ◀─ admin.key: revives models whose process died, until SIGTERM; answers health checks

    python -m client.triton.container prepare --server FOLDER --worker FOLDER
    python -m client.triton.container serve ARGUMENTS.json
    python -m client.triton.container watch ADMIN.key
    python -m client.triton.container link

An init container prepares, so that the keys are fresh in every pod and lie in its memory only.
gRPC stays on loopback, for the worker of the same pod; HTTP answers probes and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from client.crypto.privatefiles import read_private, write_private
from client.discretion import forbid_core_dumps
from client.errors import ConfigurationError
from client.settings import PREFIX, Settings, load_settings
from client.triton.installation import (
    SHARED_MEMORY,
    find_installation,
    link_stub,
    shared_memory_prefix,
)
from client.triton.server import TritonSettings, serving_arguments

__all__ = ("ADMIN_KEY", "ARGUMENTS", "WORKER_KEY", "container_arguments", "main", "prepare")

ADMIN_KEY = "admin.key"
ARGUMENTS = "arguments.json"
WORKER_KEY = f"{PREFIX}TRITON_WORKER_KEY"
_HTTP_PORT, _GRPC_PORT, _METRICS_PORT = 8000, 8001, 8002
_EVERYBODY = "0.0.0.0"  # noqa: S104  # probes and Prometheus come to the pod's own address
_CLOSED = (
    *("metadata", "inference", "shared-memory", "model-config"),
    *("model-repository", "statistics", "trace", "logging"),
)
"""What Triton's HTTP offers beside health; see ``tritonserver --help``, --http-restricted-api."""
EX_CONFIG = 78


def container_arguments(settings: TritonSettings, http_port: int = _HTTP_PORT) -> tuple[str, ...]:
    """The arguments of a server in a container; where its own parts lie is the image's to add.

    Args:
        settings: With ports and models.
        http_port: Where probes ask.
    """
    return (
        *serving_arguments(settings),
        "--allow-http=true",
        f"--http-address={_EVERYBODY}",
        f"--http-port={http_port}",
        f"--http-restricted-api={','.join(_CLOSED)}:admin-key={settings.admin_key}",
        f"--metrics-address={_EVERYBODY}",
        "--strict-readiness=true",
    )


def prepare(settings: Settings, server: Path, worker: Path) -> None:
    """Make the pod's keys, and write what each side needs of them.

    Args:
        settings: Repository, profile and where traces go.
        server: Folder that the containers of Triton and of its watchdog see.
        worker: Folder of secrets that the worker's container sees.

    Raises:
        ConfigurationError: The repository has no model, or a description is wrong.
    """
    triton = TritonSettings(
        Path(settings.model_repository),
        profile=settings.profile,
        grpc_port=_GRPC_PORT,
        metrics_port=_METRICS_PORT,
        otlp_endpoint=settings.otlp_endpoint,
    ).resolved()
    write_private(server / ARGUMENTS, json.dumps(container_arguments(triton)).encode())
    write_private(server / ADMIN_KEY, triton.admin_key.encode())
    write_private(worker / WORKER_KEY, triton.worker_key.encode())


def _serve(arguments: Path) -> None:
    """Become the server of the image for the cpu profile."""
    forbid_core_dumps()
    installation = find_installation()
    link_stub(installation)
    # In a container every run has the same process id: what has it already, an earlier run left.
    prefix = shared_memory_prefix(os.getpid())
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink()
    command = [
        str(installation.server),
        *installation.arguments(),
        *json.loads(read_private(arguments)),
        f"--backend-config=python,shm-region-prefix-name={prefix}",
    ]
    root = str(Path(__file__).parents[2])
    environment = installation.environment() | {"PYTHONPATH": root}
    os.execve(command[0], command, environment)  # noqa: S606  # the command is ours, no shell


def _watch(settings: Settings, admin_key: Path) -> None:
    # The image that serves has no gRPC.
    from client.telemetry.logs import begin_logs
    from client.triton.guard import run_guard

    begin_logs(settings)
    run_guard(settings, admin_key)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0, or 78 (EX_CONFIG) with the reason on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m client.triton.container", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    preparing = actions.add_parser("prepare", help="make keys and command line")
    preparing.add_argument("--server", type=Path, required=True)
    preparing.add_argument("--worker", type=Path, required=True)
    serving = actions.add_parser("serve", help="become the server")
    serving.add_argument("arguments", type=Path)
    watching = actions.add_parser("watch", help="revive models whose process died")
    watching.add_argument("admin_key", type=Path)
    actions.add_parser("link", help="link the Python backend's stub while the disk is writable")
    options = parser.parse_args(argv)
    try:
        if options.action == "prepare":
            prepare(load_settings(), options.server, options.worker)
        elif options.action == "link":
            link_stub(find_installation())
        elif options.action == "watch":
            _watch(load_settings(), options.admin_key)
        else:
            _serve(options.arguments)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())

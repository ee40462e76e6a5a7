"""The command line of an embedded Triton server: one pure function from settings to argv and env.

TritonSettings ─▶ resolved (free ports, models) ─▶ server_command ─▶ ServerCommand
"""

from __future__ import annotations

import hmac
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.addresses import free_ports
from client.errors import ConfigurationError
from client.triton.installation import find_installation
from preprocess.spec import ModelSpec, SpecError, find_model_specs

__all__ = (
    "ServerCommand",
    "TritonSettings",
    "admin_headers",
    "server_command",
    "serving_arguments",
    "worker_headers",
)

ADMIN_PROTOCOLS = ("model-repository", "trace", "logging")
WORKER_PROTOCOLS = ("shared-memory", "statistics")
_HEADER = "triton-grpc-protocol-"
_WITHOUT_GPU = ("--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0")


@dataclass(frozen=True)
class TritonSettings:
    """How to run an embedded server.

    Attributes:
        repository: The model repository.
        models: Models to load; empty means every one with a description in the repository.
        profile: Triton's custom model configuration to serve. Only ``cpu`` can be embedded.
        host: Address to listen on; not meant to be anything but loopback.
        grpc_port: 0 means a free one.
        metrics_port: 0 means a free one.
        admin_key: Opens every restricted protocol: loading models, trace and log settings, and what
            the worker's key opens.
        exit_timeout_s: How long requests in flight may take after SIGTERM.
        otlp_endpoint: Where spans of traced requests go by OTLP/HTTP; "": none are made.
    """

    repository: Path
    models: tuple[str, ...] = ()
    profile: str = "cpu"
    host: str = "127.0.0.1"
    grpc_port: int = 0
    metrics_port: int = 0
    admin_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    exit_timeout_s: int = 10
    otlp_endpoint: str = ""

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC service."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def worker_key(self) -> str:
        """Opens shared memory and statistics alone; the admin key cannot be had from it.

        Not everybody may have these: who registers a region can name one of another program of
        this user, and have the server read it or write to it.
        """
        return _worker_key(self.admin_key)

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """Descriptions of the models to load.

        Raises:
            ConfigurationError: A description is wrong, or a model has none.
        """
        try:
            known = {spec.name: spec for spec in find_model_specs(self.repository)}
        except SpecError as error:
            raise ConfigurationError(str(error)) from error
        wanted = self.models or tuple(known)
        missing = [name for name in wanted if name not in known]
        if missing or not wanted:
            raise ConfigurationError(
                f"Expected a model.yaml for each of {missing or 'at least one model'} in the "
                f"repository, found {sorted(known) or 'none'}."
            )
        return tuple(known[name] for name in wanted)

    def resolved(self) -> TritonSettings:
        """The same settings with every port and model named."""
        ports = free_ports(2, self.host)
        return replace(
            self,
            repository=self.repository.absolute(),
            models=tuple(spec.name for spec in self.specs),
            grpc_port=self.grpc_port or ports[0],
            metrics_port=self.metrics_port or ports[1],
        )


@dataclass(frozen=True)
class ServerCommand:
    """How to start the server.

    Attributes:
        argv: Program and arguments. The keys are among them.
        env: The whole environment.
    """

    argv: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str]


def server_command(settings: TritonSettings) -> ServerCommand:
    """Builds the command of a server on loopback, gRPC and metrics only.

    It may be started again as it is after the server died.

    Args:
        settings: With ports and models, see ``TritonSettings.resolved``.

    Raises:
        ConfigurationError: The server is not installed, or the profile cannot be embedded.
    """
    if settings.profile != "cpu":
        raise ConfigurationError(
            f"Expected profile cpu for the embedded Triton, got {settings.profile}; the gpu "
            "profile runs in NVIDIA's container, name its address in HOUNSFIELD_TRITON_URL."
        )
    installation = find_installation()
    root = str(Path(__file__).parents[2])
    launch = (sys.executable, "-m", "client.triton.launch", str(installation.server))
    arguments = (
        *installation.arguments(),
        *serving_arguments(settings),
        "--allow-http=false",
        f"--metrics-address={settings.host}",
    )
    return ServerCommand(
        argv=(*launch, *arguments), env=installation.environment() | {"PYTHONPATH": root}
    )


def serving_arguments(settings: TritonSettings) -> tuple[str, ...]:
    """What is served, how, and to whom: the same for an embedded server and one in a container.

    Args:
        settings: With ports and models, see ``TritonSettings.resolved``.

    Returns:
        Arguments; the keys are among them.
    """
    return (
        f"--model-repository={settings.repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in settings.models),
        f"--model-config-name={settings.profile}",
        "--disable-auto-complete-config",
        f"--grpc-address={settings.host}",
        f"--grpc-port={settings.grpc_port}",
        f"--metrics-port={settings.metrics_port}",
        f"--grpc-restricted-protocol={','.join(ADMIN_PROTOCOLS)}:admin-key={settings.admin_key}",
        f"--grpc-restricted-protocol={','.join(WORKER_PROTOCOLS)}:worker-key={settings.worker_key}",
        f"--exit-timeout-secs={settings.exit_timeout_s}",
        *(_WITHOUT_GPU if settings.profile == "cpu" else ()),
        *_trace_arguments(settings.otlp_endpoint),
    )


def _trace_arguments(endpoint: str) -> tuple[str, ...]:
    """Has spans made of those requests alone that come with a ``traceparent``."""
    if not endpoint:
        return ()
    return (
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=0",
        f"--trace-config=opentelemetry,url={endpoint.rstrip('/')}/v1/traces",
        "--trace-config=opentelemetry,resource=service.name=triton",
        "--trace-config=opentelemetry,resource=service.namespace=hounsfield",
    )


def admin_headers(admin_key: str) -> dict[str, str]:
    """The gRPC metadata that opens all restricted protocols."""
    return {f"{_HEADER}admin-key": admin_key, **worker_headers(_worker_key(admin_key))}


def worker_headers(worker_key: str) -> dict[str, str]:
    """The gRPC metadata that opens shared memory and statistics."""
    return {f"{_HEADER}worker-key": worker_key}


def _worker_key(admin_key: str) -> str:
    return hmac.digest(admin_key.encode(), b"worker", "sha256").hex()

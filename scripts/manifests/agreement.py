"""What the settings say is what the manifest does: ports to listen on, ports to call, the model.

HOUNSFIELD_METRICS_LISTEN=0.0.0.0:9464 ◀─same─▶ containerPort: 9464
ConfigMap models: network, version ◀─same─▶ readinessProbe: /v2/models/…/versions/…/ready
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from client.errors import ConfigurationError
from client.settings import Settings
from scripts.manifests.configuration import settings_of
from scripts.manifests.objects import Finding, Object, Pod, Rendered, name_of

__all__ = ("check_agreement",)

_PROCESSES = {
    "client.ingest.process": ("gateway", "health_listen", "metrics_listen"),
    "client.triton.container": ("health_listen",),
    "client.worker": ("health_listen", "metrics_listen"),
}
"""By the module that a container runs: the settings that say where it listens."""

_CALLERS = {"client.triton.container", "client.worker"}
"""Modules that call Triton."""

_MODELS = "models"
"""The ConfigMap that names the network and version a pod must serve."""

_READY = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/ready")
_HERE = ("127.0.0.1", "localhost")


def check_agreement(rendered: Rendered, repository: Path) -> Iterator[Finding]:
    """Check ports and model versions that are said twice.

    Args:
        rendered: What to check.
        repository: The model repository; a probe names a model and version that lie there.
    """
    for pod in rendered.pods:
        for container in pod.servers if pod.endless else ():
            yield from _readiness(rendered, pod, container, repository)
            for module in set(container.get("command", ())) & _PROCESSES.keys():
                try:
                    settings = settings_of(rendered, container)
                except ConfigurationError:
                    continue  # said by check_configuration
                yield from _listening(pod, container, settings, _PROCESSES[module])
                yield from _calling(pod, container, settings)


def _listening(
    pod: Pod, container: Object, settings: Settings, names: tuple[str, ...]
) -> Iterator[Finding]:
    open_ports = {port["containerPort"] for port in container.get("ports", ())}
    for name in names:
        address: str = getattr(settings, name)
        host, _, port = address.rpartition(":")
        if not port.isdigit() or int(port) not in open_ports or host in _HERE:
            yield Finding(
                "setting-port",
                pod.subject,
                f"{container['name']} has {name}={address!r}; its ports are {sorted(open_ports)}",
            )


def _calling(pod: Pod, container: Object, settings: Settings) -> Iterator[Finding]:
    host, _, port = settings.triton_url.rpartition(":")
    calls = host in _HERE and _CALLERS & set(container["command"])
    if calls and pod.port(int(port)) is None:
        message = f"{container['name']} calls {settings.triton_url}; no container has that port"
        yield Finding("setting-port", pod.subject, message)


def _readiness(
    rendered: Rendered, pod: Pod, container: Object, repository: Path
) -> Iterator[Finding]:
    probe = container.get("readinessProbe", {})
    asked = " ".join([probe.get("httpGet", {}).get("path", ""), *_command(probe)])
    for match in _READY.finditer(asked):
        model, version = match["model"], match["version"]
        if version is None:
            yield Finding("model-version", pod.subject, f"{asked}: any version would do")
        elif not (repository / model / version).is_dir() or not version.isdigit():
            yield Finding("model-version", pod.subject, f"there is no {model} version {version}")
        else:
            yield from _promoted(rendered, pod, model, version)


def _promoted(rendered: Rendered, pod: Pod, model: str, version: str) -> Iterator[Finding]:
    for made in rendered.of("ConfigMap"):
        if name_of(made).rpartition("-")[0] == _MODELS:  # kustomize adds a hash
            named = (made["data"].get("network"), made["data"].get("version"))
            if named != (model, version):
                message = f"ready means {model} {version}, ConfigMap {_MODELS} names {named}"
                yield Finding("model-version", pod.subject, message)


def _command(probe: Object) -> list[str]:
    return [str(word) for word in probe.get("exec", {}).get("command", ())]

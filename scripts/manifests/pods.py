"""What must hold inside a pod: images, volumes, probes, confinement, resources."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from scripts.manifests.objects import Finding, Object, Pod, Rendered, subject_of

__all__ = ("check_pods",)

_DIGEST = re.compile(r"^[a-z0-9][a-z0-9._:/-]*@sha256:[0-9a-f]{64}$")
_PORT_FIELDS = {"port", "targetPort", "containerPort", "hostPort", "nodePort", "endPort"}
_DEFAULT_MODE = 0o644
_RESTRICTED = "pod-security.kubernetes.io/enforce"
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_CONTAINER_RULES: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
}


def check_pods(rendered: Rendered) -> Iterator[Finding]:
    """Check every pod template by itself."""
    for made in rendered.objects:
        for path, number in _ports(made):
            if not 1 <= number <= 65535:
                yield Finding("port-range", subject_of(made), f"{path}: {number} is no port")
    for namespace in rendered.of("Namespace"):
        if namespace["metadata"].get("labels", {}).get(_RESTRICTED) != "restricted":
            yield Finding("confinement", subject_of(namespace), f"{_RESTRICTED}: not restricted")
    for pod in rendered.pods:
        yield from _images(pod)
        yield from _volumes(pod)
        yield from _confinement(pod)
        if pod.endless:
            yield from _probes(pod)


def _ports(made: Any, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(made, dict):
        for key, value in made.items():
            if key in _PORT_FIELDS and isinstance(value, int):
                yield f"{path}.{key}".lstrip("."), value
            yield from _ports(value, f"{path}.{key}")
    elif isinstance(made, list):
        for index, value in enumerate(made):
            yield from _ports(value, f"{path}[{index}]")


def _image_names(pod: Pod) -> Iterator[str]:
    yield from (str(container.get("image", "")) for container in pod.containers)
    for volume in pod.spec.get("volumes", ()):
        if "image" in volume:
            yield str(volume["image"].get("reference", ""))


def _images(pod: Pod) -> Iterator[Finding]:
    for image in _image_names(pod):
        if not _DIGEST.match(image):
            yield Finding("image-digest", pod.subject, f"expected NAME@sha256:…, got {image!r}")


def _volumes(pod: Pod) -> Iterator[Finding]:
    claims = pod.owner.get("spec", {}).get("volumeClaimTemplates", ())
    volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
    volumes |= {claim["metadata"]["name"] for claim in claims}
    mounted: set[str] = set()
    for container in pod.containers:
        for mount in container.get("volumeMounts", ()):
            mounted.add(mount["name"])
            if mount["name"] not in volumes:
                yield Finding(
                    "volume-mount",
                    pod.subject,
                    f"{container['name']} mounts {mount['name']!r}; there are {sorted(volumes)}",
                )
    for volume in pod.spec.get("volumes", ()):
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            message = f"{volume['name']!r} may fill the node's memory or disk: no sizeLimit"
            yield Finding("volume-limit", pod.subject, message)
        for source in ("secret", "projected"):
            mode = volume.get(source, {}).get("defaultMode", _DEFAULT_MODE)
            if source in volume and mode & 0o027:
                message = f"{volume['name']!r}: expected mode 0440 or less, got {mode:04o}"
                yield Finding("secret-mode", pod.subject, message)
    for name in sorted(volumes - mounted):
        yield Finding("volume-unused", pod.subject, f"no container mounts {name!r}")


def _confinement(pod: Pod) -> Iterator[Finding]:
    context = pod.spec.get("securityContext", {})
    for container in pod.containers:
        own = container.get("securityContext", {})
        for key, wanted in _CONTAINER_RULES.items():
            if own.get(key) is not wanted:
                yield _loose(pod, container, f"{key}: expected {wanted}, got {own.get(key)}")
        if own.get("privileged"):
            yield _loose(pod, container, "it is privileged")
        if not own.get("runAsNonRoot", context.get("runAsNonRoot")):
            yield _loose(pod, container, "runAsNonRoot: expected True")
        if own.get("runAsUser", context.get("runAsUser")) == 0:
            yield _loose(pod, container, "runAsUser: expected any but 0")
        if "ALL" not in own.get("capabilities", {}).get("drop", ()):
            yield _loose(pod, container, "capabilities: expected drop: [ALL]")
        if own.get("capabilities", {}).get("add"):
            yield _loose(pod, container, "capabilities: expected none added")
        seccomp = own.get("seccompProfile", context.get("seccompProfile", {}))
        if seccomp.get("type") != "RuntimeDefault":
            yield _loose(pod, container, "seccompProfile: expected RuntimeDefault")
        yield from _resources(pod, container)
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield Finding("confinement", pod.subject, f"{key}: expected none")


def _loose(pod: Pod, container: Object, message: str) -> Finding:
    return Finding("confinement", pod.subject, f"{container['name']}: {message}")


def _resources(pod: Pod, container: Object) -> Iterator[Finding]:
    resources = container.get("resources", {})
    for part, wanted in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
        for name in wanted:
            if name not in resources.get(part, {}):
                yield Finding(
                    "resources", pod.subject, f"{container['name']}: no {part}.{name} is given"
                )


def _probes(pod: Pod) -> Iterator[Finding]:
    for container in pod.servers:
        for kind in _PROBES:
            probe = container.get(kind)
            if probe is None:
                yield Finding("probe-missing", pod.subject, f"{container['name']} has no {kind}")
                continue
            yield from _probe_port(pod, container, kind, probe)


def _probe_port(pod: Pod, container: Object, kind: str, probe: Object) -> Iterator[Finding]:
    ports = container.get("ports", ())
    # Names are the container's own; a number is the pod's, whose containers share one network.
    shared = [port for server in pod.servers for port in server.get("ports", ())]
    known = {port.get("name") for port in ports} | {port.get("containerPort") for port in shared}
    for way in ("grpc", "httpGet", "tcpSocket"):
        if way in probe and probe[way].get("port") not in known:
            yield Finding(
                "probe-port",
                pod.subject,
                f"{container['name']}.{kind} asks port {probe[way].get('port')!r}; "
                f"expected one of {sorted(str(port) for port in known)}",
            )

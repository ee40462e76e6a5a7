"""Containers start when what they read is there, and end before they are killed.

init containers, in their order: each writes what later ones read
SIGTERM ▶ preStop ▶ drain_s: studies in work end ▶ terminationGracePeriodSeconds ▶ SIGKILL
"""

from __future__ import annotations

from collections.abc import Iterator

from client.errors import ConfigurationError
from scripts.manifests.configuration import settings_of
from scripts.manifests.objects import Finding, Object, Pod, Rendered

__all__ = ("check_lifecycle",)

_DEFAULT_GRACE_S = 30
_WORKER = "client.worker"


def check_lifecycle(rendered: Rendered) -> Iterator[Finding]:
    """Check the order in which containers start, and the time that they are given to end."""
    for pod in rendered.pods:
        yield from _order(pod)
        if pod.endless:
            for container in pod.servers:
                yield from _grace(rendered, pod, container)


def _order(pod: Pod) -> Iterator[Finding]:
    """Find containers that start before the one that fills an empty volume for them."""
    empty = {volume["name"] for volume in pod.spec.get("volumes", ()) if "emptyDir" in volume}
    filled: set[str] = set()
    for container in pod.containers:
        for mount in container.get("volumeMounts", ()):
            if not mount.get("readOnly"):
                filled.add(mount["name"])
            elif mount["name"] in empty - filled:
                message = f"{container['name']} starts before {mount['name']!r} is filled for it"
                yield Finding("start-order", pod.subject, message)


def _grace(rendered: Rendered, pod: Pod, container: Object) -> Iterator[Finding]:
    sleep_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain_s = 0.0
    if _WORKER in container.get("command", ()):
        try:
            drain_s = settings_of(rendered, container).drain_s
        except ConfigurationError:
            return  # said by check_configuration
    grace_s = pod.spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S)
    if grace_s <= drain_s + sleep_s:
        yield Finding(
            "grace-period",
            pod.subject,
            f"{container['name']} may take {sleep_s} s + {drain_s:g} s to end; "
            f"terminationGracePeriodSeconds is {grace_s}",
        )

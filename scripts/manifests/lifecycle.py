"""A worker may end its studies before it is killed, and a pod is killed no later than it must.

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
    """Check that every pod is given the time that its containers may take to end."""
    for pod in rendered.pods:
        if pod.endless:
            for container in pod.servers:
                yield from _grace(rendered, pod, container)


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

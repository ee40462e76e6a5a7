"""Does what is named exist: accounts, priorities, claims, issuers, and a workload's own labels."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.manifests.objects import Finding, Object, Pod, Rendered, name_of, selects, subject_of

__all__ = ("check_names",)

_GIVEN_PRIORITIES = ("", "system-cluster-critical", "system-node-critical")


def check_names(rendered: Rendered) -> Iterator[Finding]:
    """Check what pods and certificates name, and what a workload says of itself."""
    for pod in rendered.pods:
        yield from _by_name(pod, rendered)
        yield from _own_labels(pod)
    for certificate in rendered.of("Certificate"):
        issuer = certificate["spec"]["issuerRef"]
        if issuer.get("kind", "Issuer") == "Issuer":
            yield from _missing(rendered, subject_of(certificate), "Issuer", issuer["name"])


def _by_name(pod: Pod, rendered: Rendered) -> Iterator[Finding]:
    spec = pod.spec
    account = spec.get("serviceAccountName", "default")
    yield from _missing(rendered, pod.subject, "ServiceAccount", account)
    priority = spec.get("priorityClassName", "")
    if priority not in _GIVEN_PRIORITIES:
        yield from _missing(rendered, pod.subject, "PriorityClass", priority)
    served_by = pod.owner.get("spec", {}).get("serviceName")
    if served_by:
        yield from _missing(rendered, pod.subject, "Service", served_by)
    for claim in _claims(spec):
        yield from _missing(rendered, pod.subject, "PersistentVolumeClaim", claim)


def _claims(spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes", ()):
        if "persistentVolumeClaim" in volume:
            yield volume["persistentVolumeClaim"]["claimName"]


def _missing(rendered: Rendered, subject: str, kind: str, name: str) -> Iterator[Finding]:
    if rendered.named(kind, name) is None:
        there = sorted(name_of(made) for made in rendered.of(kind))
        message = f"no {kind} {name!r}; there are {there}"
        yield Finding("name-reference", subject, message)


def _own_labels(pod: Pod) -> Iterator[Finding]:
    if pod.endless and not selects(pod.owner["spec"].get("selector", {}), pod.labels):
        yield Finding("workload-selector", pod.subject, "it does not pick its own template")
    for constraint in pod.spec.get("topologySpreadConstraints", ()):
        if not selects(constraint.get("labelSelector", {}), pod.labels):
            message = f"{constraint['topologyKey']}: it does not count its own pods"
            yield Finding("spread-selector", pod.subject, message)

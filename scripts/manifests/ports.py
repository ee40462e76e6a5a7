"""Does everything that names a pod or a port by label find it: Services, monitors, routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scripts.manifests.objects import Finding, Object, Rendered, name_of, selects, subject_of

__all__ = ("check_ports",)

_ROUTES = ("GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute")


def check_ports(rendered: Rendered) -> Iterator[Finding]:
    """Check the references by label, by Service name and by port."""
    for service in rendered.of("Service"):
        yield from _service(service, rendered)
    for monitor in rendered.of("ServiceMonitor"):
        yield from _service_monitor(monitor, rendered)
    for monitor in rendered.of("PodMonitor"):
        yield from _pod_monitor(monitor, rendered)
    for route in rendered.of(*_ROUTES):
        yield from _route(route, rendered)


def _service(service: Object, rendered: Rendered) -> Iterator[Finding]:
    selector = service["spec"].get("selector")
    if not selector:
        return
    pods = rendered.selected({"matchLabels": selector})
    if not pods:
        yield Finding("service-selector", subject_of(service), f"no pod has {selector}")
    for port in service["spec"].get("ports", ()):
        target = port.get("targetPort", port["port"])
        for pod in pods:
            if pod.port(target) is None:
                yield Finding(
                    "service-target-port",
                    subject_of(service),
                    f"{pod.subject} has no port {target!r}",
                )


def _service_monitor(monitor: Object, rendered: Rendered) -> Iterator[Finding]:
    spec = monitor["spec"]
    services = [
        service
        for service in rendered.of("Service")
        if selects(spec.get("selector", {}), service["metadata"].get("labels", {}))
    ]
    if not services:
        yield _blind(monitor, spec)
    for endpoint in spec.get("endpoints", ()):
        for service in services:
            names = {port.get("name") for port in service["spec"].get("ports", ())}
            if endpoint.get("port") not in names:
                yield _portless(monitor, endpoint, subject_of(service))


def _pod_monitor(monitor: Object, rendered: Rendered) -> Iterator[Finding]:
    spec = monitor["spec"]
    pods = rendered.selected(spec.get("selector", {}))
    if not pods:
        yield _blind(monitor, spec)
    for endpoint in spec.get("podMetricsEndpoints", ()):
        wanted = endpoint.get("port", endpoint.get("portNumber"))
        for pod in pods:
            if pod.port(wanted) is None:
                yield _portless(monitor, endpoint, pod.subject)


def _blind(monitor: Object, spec: Object) -> Finding:
    return Finding("monitor-selector", subject_of(monitor), f"nothing has {spec.get('selector')}")


def _portless(monitor: Object, endpoint: Object, subject: str) -> Finding:
    wanted = endpoint.get("port", endpoint.get("portNumber"))
    return Finding("monitor-port", subject_of(monitor), f"{subject} has no port {wanted!r}")


def _route(route: Object, rendered: Rendered) -> Iterator[Finding]:
    for rule in route["spec"].get("rules", ()):
        for backend in rule.get("backendRefs", ()):
            service = rendered.named("Service", backend["name"])
            ports: set[Any] = set()
            if service is not None:
                ports = {port["port"] for port in service["spec"].get("ports", ())}
            if backend.get("port") not in ports:
                yield Finding(
                    "route-backend",
                    subject_of(route),
                    f"no Service {backend['name']!r} with port {backend.get('port')}",
                )
    for parent in route["spec"].get("parentRefs", ()):
        yield from _listener(route, parent, rendered)


def _listener(route: Object, parent: Object, rendered: Rendered) -> Iterator[Finding]:
    gateway = rendered.named("Gateway", parent["name"])
    if gateway is None:
        yield Finding("route-parent", subject_of(route), f"no Gateway {parent['name']!r}")
        return
    names = {listener["name"] for listener in gateway["spec"].get("listeners", ())}
    wanted = parent.get("sectionName")
    if wanted is not None and wanted not in names:
        yield Finding(
            "route-parent",
            subject_of(route),
            f"Gateway/{name_of(gateway)} has no listener {wanted!r}",
        )

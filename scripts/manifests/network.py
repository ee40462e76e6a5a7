"""Network policies: everything is refused by default, and every edge is open at both ends.

source ──egress of its policies──▶ port ──ingress of the target's policies──▶ target
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from client.settings import PREFIX
from scripts.manifests.configuration import environment
from scripts.manifests.objects import Finding, Object, Pod, Rendered, name_of, selects, subject_of

__all__ = ("check_network",)

EDGES = (
    ("gateway", "queue"),
    ("inference", "queue"),
    ("gateway", "database"),
    ("inference", "database"),
)
"""Workload ▶ Service that must be open wherever both are there."""

_DNS_PORT = 53
_HTTPS_PORT = 443
_CALLED = tuple(
    f"{PREFIX}{name}"
    for name in ("KEK", "OTLP_ENDPOINT", "STORE_URL", "TOKEN_ISSUER", "TOKEN_JWKS")
)
"""Settings that may be an address outside; those with passwords come as files, unseen here."""


def check_network(rendered: Rendered) -> Iterator[Finding]:
    """Check the policies of the namespace against its pods, Services and monitors."""
    policies = list(rendered.of("NetworkPolicy"))
    if not any(_denies_all(policy) for policy in policies):
        yield Finding("default-deny", rendered.name, "no policy refuses all traffic by default")
    for policy in policies:
        yield from _selectors(policy, rendered)
    for pod in rendered.pods:
        if not _resolves_names(policies, pod):
            yield Finding("policy-dns", pod.subject, "no policy lets it ask for names (port 53)")
    net = _Net(rendered)
    yield from _lopsided(net)
    yield from _required(net)
    yield from _closed(net)
    yield from _outside(net)


class _Net:
    """Who may reach whom, by the policies of one namespace."""

    def __init__(self, rendered: Rendered) -> None:
        self.rendered = rendered
        self.policies = list(rendered.of("NetworkPolicy"))
        home: Object = next(rendered.of("Namespace"), {"metadata": {}})
        labels = home["metadata"].get("labels", {})
        self._home = {**labels, "kubernetes.io/metadata.name": name_of(home)}

    def leaves(self, source: Pod, target: Pod, port: int, *, by_name: bool = False) -> bool:
        """Whether a rule lets this source out; ``by_name``: one that names the target."""
        return any(
            self._names(rule.get("to", ()), target, by_name) and _opens(rule, target, port)
            for rule in _rules(self.policies, source, "egress")
        )

    def enters(self, source: Pod, target: Pod, port: int, *, by_name: bool = False) -> bool:
        """Whether a rule of this target lets the source in; ``by_name``: one that names it."""
        return any(
            self._names(rule.get("from", ()), source, by_name) and _opens(rule, target, port)
            for rule in _rules(self.policies, target, "ingress")
        )

    def open_to_others(self, target: Pod, port: int) -> bool:
        """Whether a rule lets anything of another namespace, or of outside, reach this port."""
        return any(
            _opens(rule, target, port)
            and (
                not rule.get("from")
                or any("namespaceSelector" in peer or "ipBlock" in peer for peer in rule["from"])
            )
            for rule in _rules(self.policies, target, "ingress")
        )

    def _names(self, peers: list[Object], pod: Pod, by_name: bool) -> bool:
        if not peers:  # a rule for everybody
            return not by_name
        return any(
            "ipBlock" not in peer
            and selects(peer.get("podSelector", {}), pod.labels)
            and selects(peer.get("namespaceSelector", {}), self._home)
            for peer in peers
        )


def _rules(policies: list[Object], pod: Pod, direction: str) -> Iterator[Object]:
    for policy in policies:
        if selects(policy["spec"].get("podSelector", {}), pod.labels):
            yield from policy["spec"].get(direction, ())


def _opens(rule: Object, target: Pod, port: int) -> bool:
    for listed in rule.get("ports", ()):
        first = target.port(listed["port"]) if isinstance(listed["port"], str) else listed["port"]
        if first is not None and first <= port <= listed.get("endPort", first):
            return True
    return not rule.get("ports")


def _denies_all(policy: Object) -> bool:
    spec = policy["spec"]
    return (
        spec.get("podSelector") == {}
        and {"Ingress", "Egress"} <= set(spec.get("policyTypes", ()))
        and not spec.get("ingress")
        and not spec.get("egress")
    )


def _selectors(policy: Object, rendered: Rendered) -> Iterator[Finding]:
    spec, subject = policy["spec"], subject_of(policy)
    if not rendered.selected(spec.get("podSelector", {})):
        yield Finding("policy-selector", subject, f"no pod has {spec.get('podSelector')}")
    for rule in [*spec.get("ingress", ()), *spec.get("egress", ())]:
        for peer in [*rule.get("from", ()), *rule.get("to", ())]:
            local = "podSelector" in peer and "namespaceSelector" not in peer
            if local and not rendered.selected(peer["podSelector"]):
                yield Finding("policy-selector", subject, f"no pod has {peer['podSelector']}")
    yield from _named_ports(policy, rendered)


def _named_ports(policy: Object, rendered: Rendered) -> Iterator[Finding]:
    spec = policy["spec"]
    for rule in spec.get("ingress", ()):
        for pod in rendered.selected(spec.get("podSelector", {})):
            for listed in rule.get("ports", ()):
                if pod.port(listed["port"]) is None:
                    yield Finding(
                        "policy-port",
                        subject_of(policy),
                        f"{pod.subject} has no port {listed['port']!r}",
                    )


def _resolves_names(policies: list[Object], pod: Pod) -> bool:
    return any(
        listed.get("port") == _DNS_PORT and listed.get("protocol") == "UDP"
        for rule in _rules(policies, pod, "egress")
        for listed in rule.get("ports", ())
    )


def _lopsided(net: _Net) -> Iterator[Finding]:
    """Find edges that one end names and the other does not let pass."""
    pods = net.rendered.pods
    for source, target in itertools.product(pods, pods):
        for port in _ports(target):
            edge = (source, target, port)
            shown = f"{source.subject} ▶ {target.subject}:{port}"
            if net.leaves(*edge, by_name=True) and not net.enters(*edge):
                yield Finding("policy-edge", source.subject, f"{shown}: no policy for entering")
            if net.enters(*edge, by_name=True) and not net.leaves(*edge):
                yield Finding("policy-edge", source.subject, f"{shown}: no policy for leaving")


def _required(net: _Net) -> Iterator[Finding]:
    by_name = {name_of(pod.owner): pod for pod in net.rendered.pods}
    for source_name, service_name in EDGES:
        source, service = by_name.get(source_name), net.rendered.named("Service", service_name)
        if source is None or service is None:
            continue
        for target, port in _behind(service, net.rendered):
            if not (net.leaves(source, target, port) and net.enters(source, target, port)):
                edge = f"{source.subject} ▶ {subject_of(service)}:{port}"
                yield Finding("policy-missing", source.subject, f"{edge} is closed")


def _closed(net: _Net) -> Iterator[Finding]:
    """Find Services that nobody reaches, and metrics that no Prometheus reaches."""
    for service in net.rendered.of("Service"):
        for target, port in _behind(service, net.rendered):
            inside = any(net.enters(source, target, port) for source in net.rendered.pods)
            if not inside and not net.open_to_others(target, port):
                yield Finding("policy-closed", subject_of(service), f"nobody may reach port {port}")
    yield from _unmeasured(net)
    for monitor in net.rendered.of("PodMonitor"):
        for pod in net.rendered.selected(monitor["spec"].get("selector", {})):
            for endpoint in monitor["spec"].get("podMetricsEndpoints", ()):
                scraped = pod.port(endpoint.get("port", ""))
                if scraped is not None and not net.open_to_others(pod, scraped):
                    message = f"no other namespace may scrape {pod.subject}:{scraped}"
                    yield Finding("policy-closed", subject_of(monitor), message)


def _unmeasured(net: _Net) -> Iterator[Finding]:
    """Find queues that the scaler, which lives in another namespace, cannot ask."""
    for scaler in net.rendered.of("ScaledObject"):
        for trigger in scaler["spec"].get("triggers", ()):
            host = trigger.get("metadata", {}).get("address", "").partition(":")[0]
            service = net.rendered.named("Service", host.partition(".")[0])
            for target, port in _behind(service, net.rendered) if service else ():
                if not net.open_to_others(target, port):
                    message = f"no other namespace may ask {target.subject}:{port}"
                    yield Finding("policy-closed", subject_of(scaler), message)


def _outside(net: _Net) -> Iterator[Finding]:
    """Find addresses in settings that no policy lets a pod call."""
    for pod in net.rendered.pods:
        opened = {
            port["port"]
            for rule in _rules(net.policies, pod, "egress")
            for port in rule.get("ports", ())
        }
        for container in pod.servers if pod.endless else ():
            for name, port in _called(net.rendered, container):
                if port not in opened:
                    message = f"{container['name']} calls {name}; no policy opens port {port}"
                    yield Finding("policy-setting", pod.subject, message)


def _called(rendered: Rendered, container: Object) -> Iterator[tuple[str, int]]:
    variables = environment(rendered, container)
    for name in _CALLED:
        value = variables.get(name, "")
        scheme, separator, rest = value.partition("://")
        port = rest.partition("/")[0].rpartition(":")[2]
        if separator and scheme != "file":
            yield f"{name}={value}", int(port) if port.isdigit() else _HTTPS_PORT


def _behind(service: Object, rendered: Rendered) -> Iterator[tuple[Pod, int]]:
    selector: Mapping[str, str] = service["spec"].get("selector") or {}
    for pod in rendered.selected({"matchLabels": selector}) if selector else ():
        for port in service["spec"].get("ports", ()):
            number = pod.port(port.get("targetPort", port["port"]))
            if number is not None:
                yield pod, number


def _ports(pod: Pod) -> list[int]:
    return [port["containerPort"] for made in pod.servers for port in made.get("ports", ())]

"""Ways to spoil a rendered overlay, each with the finding that must name it.

(what is done, the checks that must speak, object, path in it, new value, overlay or component)

A path's steps are keys; in a list an index, or the element's name or type. `+` appends.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from scripts.manifests.objects import Object, Rendered, kind_of, name_of

__all__ = ("BREAKS", "Break", "spoil")

GONE = object()
"""As a new value: the thing is taken away."""


@dataclass(frozen=True)
class Break:
    """One thing to spoil.

    Attributes:
        name: What is done, as the test's id.
        expected: The checks that must speak, and no others.
        target: ``Kind/name``, or a kind for the first of it; a ConfigMap's hash is left out.
        path: Where in it; "" for the whole object.
        value: What is put there.
        where: The overlay, or the component on the base.
    """

    name: str
    expected: str
    target: str
    path: str = ""
    value: Any = GONE
    where: str = "laptop"


def spoil(rendered: Rendered, case: Break) -> list[Object]:
    """Return the objects with one thing spoilt."""
    objects = copy.deepcopy(list(rendered.objects))
    if case.value is not GONE and not case.path:
        return [*objects, case.value]
    made = next(made for made in objects if _is(made, case.target))
    if not case.path:
        return [other for other in objects if other is not made]
    *steps, last = case.path.split(" ")
    inner: Any = made
    for step in steps:
        inner = inner[_key(inner, step)]
    if last == "+":
        inner.append(case.value)
    elif case.value is GONE:
        del inner[_key(inner, last)]
    else:
        inner[_key(inner, last)] = case.value
    return objects


def _is(made: Object, target: str) -> bool:
    kind, _, name = target.partition("/")
    names = ("", name_of(made), name_of(made).rpartition("-")[0])
    return kind_of(made) == kind and name in names


def _key(inner: Any, step: str) -> Any:
    if isinstance(inner, dict):
        return step
    if step.isdigit():
        return int(step)
    return next(i for i, part in enumerate(inner) if step in (part.get("name"), part.get("type")))


def _more(kind: str, api_version: str, **parts: Any) -> Object:
    metadata = {"name": "more", "namespace": "hounsfield"}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}


def _env(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}


GATEWAY, INFERENCE, QUEUE = "Deployment/gateway", "Deployment/inference", "StatefulSet/queue"
POD = "spec template spec"
IN_GATEWAY = f"{POD} containers gateway"
WORKER = f"{POD} containers worker"
TRITON = f"{POD} initContainers triton"
WATCHDOG = f"{POD} initContainers watchdog"
LABEL = "app.kubernetes.io/name"
NOBODY = {"matchLabels": {LABEL: "nobody"}}
BUDGET = {"minAvailable": 1, "selector": {"matchLabels": {LABEL: "queue"}}}
FROM_SECRET = {
    "name": "SALT",
    "valueFrom": {"secretKeyRef": {"name": "audit", "key": "audit.key"}},
}
RIVAL = {"scaleTargetRef": {"kind": "Deployment", "name": "inference"}, "maxReplicas": 2}
URL = "postgresql+psycopg://hounsfield:correct-horse@db/ledger"
LAG = {
    "type": "redis-streams",
    "metadata": {"address": "a:1", "enableTLS": "true", "stream": "jobs:stat", "lagCount": "5"},
}

# fmt: off
# ruff: noqa: E501
SCHEMAS = (
    Break("a field misspelt", "schema", GATEWAY, "spec replcas", 1),
    Break("a number as words", "schema", GATEWAY, "spec minReadySeconds", "15 seconds"),
    Break("a kind that is gone", "schema-unknown", "", "", _more("PodDisruptionBudget", "policy/v1beta1")),
    Break("a custom kind without schema", "schema-unknown", "", "", _more("Kafka", "kafka.example/v1")),
    Break("minReplicaCont", "schema", "ScaledObject", "spec minReplicaCont", 0, "production"),
    Break("an interval as words", "schema", "ScaledObject", "spec pollingInterval", "15 seconds", "production"),
)
PODS = (
    Break("port 99999", "port-range", "Service/gateway", "spec ports 0 port", 99999),
    Break("a tag", "image-digest", INFERENCE, f"{WORKER} image", "hounsfield/client:1.0"),
    Break("privileged", "confinement", INFERENCE, f"{TRITON} securityContext privileged", True),
    Break("root", "confinement", GATEWAY, f"{POD} securityContext runAsUser", 0),
    Break("a writable root", "confinement", INFERENCE, f"{WORKER} securityContext readOnlyRootFilesystem", False),
    Break("a capability", "confinement", GATEWAY, f"{IN_GATEWAY} securityContext capabilities add", ["NET_RAW"]),
    Break("the node's network", "confinement", GATEWAY, f"{POD} hostNetwork", True),
    Break("a namespace that lets all in", "confinement", "Namespace", "metadata labels pod-security.kubernetes.io/enforce", "baseline"),
    Break("no memory limit", "resources", INFERENCE, f"{WORKER} resources limits"),
    Break("no liveness", "probe-missing", GATEWAY, f"{IN_GATEWAY} livenessProbe"),
    Break("a sidecar unwatched", "probe-missing", INFERENCE, f"{TRITON} startupProbe"),
    Break("a probe of nothing", "probe-port", GATEWAY, f"{IN_GATEWAY} livenessProbe grpc port", 50052),
    Break("a probe of a watchdog that is gone", "probe-port", INFERENCE, WATCHDOG),
    Break("a gpu's Triton that asks a watchdog", "probe-port", INFERENCE, f"{TRITON} livenessProbe", {"grpc": {"port": 50052}}, "production"),
    Break("a volume not there", "volume-mount", INFERENCE, f"{WORKER} volumeMounts +", {"name": "scratch", "mountPath": "/scratch"}),
    Break("a volume not mounted", "volume-unused", GATEWAY, f"{POD} volumes +", {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}),
    Break("a volume without limit", "volume-limit", INFERENCE, f"{POD} volumes tmp emptyDir sizeLimit"),
    Break("secrets for everybody's eyes", "secret-mode", GATEWAY, f"{POD} volumes settings secret defaultMode", 0o644),
    Break("a Triton without its command line", "start-order", INFERENCE, f"{POD} initContainers worker-key"),
    Break("a grace period too short", "grace-period", INFERENCE, f"{POD} terminationGracePeriodSeconds", 30),
    Break("no time after preStop", "grace-period", GATEWAY, f"{POD} terminationGracePeriodSeconds", 10),
)
REFERENCES = (
    Break("no account", "name-reference", "ServiceAccount/inference"),
    Break("no priority", "name-reference", GATEWAY, f"{POD} priorityClassName", "hounsfield-first"),
    Break("no claim", "name-reference", "PersistentVolumeClaim/objects"),
    Break("no Service for the set", "name-reference", QUEUE, "spec serviceName", "valkey"),
    Break("no issuer", "name-reference", "Certificate", "spec issuerRef", {"name": "nobody", "kind": "Issuer"}, "production"),
    Break("pods spread by others' labels", "spread-selector", GATEWAY, f"{POD} topologySpreadConstraints 0 labelSelector", NOBODY),
    Break("a template it does not pick", "workload-selector", GATEWAY, "spec selector matchLabels tier", "front"),
    Break("a selector of nothing", "service-selector", "Service/gateway", f"spec selector {LABEL}", "gatway"),
    Break("a wrong target port", "service-target-port", "Service/gateway", "spec ports 0 targetPort", "gprc"),
    Break("a monitor of nothing", "monitor-selector", "PodMonitor", "spec selector", NOBODY, "production"),
    Break("metrics of no port", "monitor-port", "PodMonitor", "spec podMetricsEndpoints 0 port", "metrix", "production"),
    Break("a route to nothing", "route-backend", "TLSRoute", "spec rules 0 backendRefs 0 name", "gatway", "production"),
    Break("a route to another port", "route-backend", "TLSRoute", "spec rules 0 backendRefs 0 port", 50051, "production"),
    Break("a route from nothing", "route-parent", "TLSRoute", "spec parentRefs 0 name", "outake", "production"),
)
CONFIGURATION = (
    Break("a missing key", "config-reference", "ConfigMap/models", "data release"),
    Break("no ConfigMap", "config-reference", "ConfigMap/queue"),
    Break("a Secret nobody supplies", "secret-reference", GATEWAY, f"{POD} volumes queue-authority secret secretName", "queue-tsl"),
    Break("an unknown setting", "setting", GATEWAY, f"{IN_GATEWAY} env +", _env("HOUNSFIELD_GATWAY", "0.0.0.0:50443")),
    Break("a setting that does not parse", "setting", GATEWAY, f"{IN_GATEWAY} env +", _env("HOUNSFIELD_LEASE_S", "soon")),
    Break("another port than the settings say", "setting-port", "ConfigMap/settings", "data HOUNSFIELD_METRICS_LISTEN", "0.0.0.0:9465"),
    Break("listening to itself only", "setting-port", "ConfigMap/settings", "data HOUNSFIELD_GATEWAY", "127.0.0.1:50443"),
    Break("a watchdog that listens to itself only", "setting-port", INFERENCE, f"{WATCHDOG} env HOUNSFIELD_HEALTH_LISTEN value", "127.0.0.1:50052"),
    Break("a Triton on another port", "setting-port", "ConfigMap/settings", "data HOUNSFIELD_TRITON_URL", "127.0.0.1:8011"),
    Break("ready with another version", "model-version", "ConfigMap/models", "data version", "2"),
    Break("ready with any version", "model-version", INFERENCE, f"{TRITON} readinessProbe httpGet path", "/v2/models/brain_mr_net/ready"),
    Break("a URL with password", "secret-in-env", GATEWAY, f"{IN_GATEWAY} env +", _env("DATABASE_URL", URL)),
    Break("a key in the open", "secret-in-env", GATEWAY, f"{IN_GATEWAY} env +", _env("TRITON_KEY", "0123456789abcdef")),
    Break("a Secret as variable", "secret-in-env", GATEWAY, f"{IN_GATEWAY} env +", FROM_SECRET),
    Break("a password in a ConfigMap", "secret-in-open", "ConfigMap/queue", "data users.conf", "requirepass horse"),
    Break("a Secret in the files", "secret-in-open", "", "", _more("Secret", "v1", stringData={"a": "b"})),
    Break("a folder of secrets not mounted", "secrets-folder", GATEWAY, f"{IN_GATEWAY} env HOUNSFIELD_SECRETS value", "/elsewhere", "base"),
    Break("a file that is no setting", "secrets-folder", INFERENCE, f"{POD} volumes settings secret items", [{"key": "HOUNSFIELD_QUEUE_URL", "path": "QUEUE_URL"}], "base"),
    Break("a store inside the pod", "setting-missing", "ConfigMap/settings", "data HOUNSFIELD_STORE_URL"),
    Break("a ledger inside the pod", "setting-missing", GATEWAY, f"{POD} volumes settings secret items", [{"key": f"HOUNSFIELD_{name}_URL", "path": f"HOUNSFIELD_{name}_URL"} for name in ("QUEUE", "VAULT")]),
)
NETWORK = (
    Break("no default deny", "default-deny", "NetworkPolicy/default-deny"),
    Break("no names", "policy-dns", "NetworkPolicy/dns"),
    Break("an edge closed at one end", "policy-edge policy-missing", "NetworkPolicy/gateway", "spec egress", []),
    Break("an edge closed at the other", "policy-edge policy-missing", "NetworkPolicy/queue", "spec ingress 0 from 0"),
    Break("a policy for nobody", "policy-selector", "", "", _more("NetworkPolicy", "networking.k8s.io/v1", spec={"podSelector": NOBODY})),
    Break("a policy for a port not there", "policy-port", "NetworkPolicy/queue", "spec ingress 0 ports +", {"port": "plain"}),
    Break("nobody may call the gateway", "policy-closed", "NetworkPolicy/gateway", "spec ingress 0 ports 0 port", "health"),
    Break("a queue that the scaler may not ask", "policy-closed", "NetworkPolicy/queue", "spec ingress 0 from 2", GONE, "autoscaling"),
    Break("a collector that may not be called", "policy-setting", "ConfigMap/settings", "data HOUNSFIELD_OTLP_ENDPOINT", "http://collector:14318"),
)
SCALING = (
    Break("a budget that blocks", "disruption-budget", "PodDisruptionBudget/queue", "spec", BUDGET),
    Break("a budget of nothing", "budget-selector", "PodDisruptionBudget/queue", "spec selector", NOBODY),
    Break("no target", "scaler-target", "ScaledObject", "spec scaleTargetRef name", "inferense", "production"),
    Break("replicas beside a scaler", "scaler-replicas", INFERENCE, "spec replicas", 2, "production"),
    Break("two scalers", "scaler-rivals", "", "", _more("HorizontalPodAutoscaler", "autoscaling/v2", spec=RIVAL), "production"),
    Break("the lag", "scaler-trigger", "ScaledObject", "spec triggers +", LAG, "production"),
    Break("the group", "scaler-trigger", "ScaledObject", "spec triggers redis-streams metadata consumerGroup", "workers", "production"),
    Break("a trigger's field misspelt", "scaler-trigger", "ScaledObject", "spec triggers redis-streams metadata streamLenght", "4", "production"),
    Break("one stream of two", "scaler-streams", "ScaledObject", "spec triggers redis-streams", GONE, "production"),
    Break("no fallback", "scaler-fallback", "ScaledObject", "spec fallback", GONE, "production"),
    Break("a cool-down too short", "scaler-cooldown", "ScaledObject", "spec cooldownPeriod", 60, "production"),
    Break("no floor", "scaler-floor", "ScaledObject", "spec triggers cron", GONE, "cloud-example"),
    Break("no authentication", "scaler-authentication", "TriggerAuthentication", "", GONE, "production"),
)
# fmt: on
BREAKS = (*SCHEMAS, *PODS, *REFERENCES, *CONFIGURATION, *NETWORK, *SCALING)

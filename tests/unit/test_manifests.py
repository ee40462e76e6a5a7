"""The checks of k8s/ on objects small enough to see through."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from client.jobqueue.keys import STREAMS
from scripts import manifests
from scripts.manifests.configuration import check_configuration, check_secrets_used, settings_of
from scripts.manifests.crds import schemas_of
from scripts.manifests.lifecycle import check_lifecycle
from scripts.manifests.network import check_network
from scripts.manifests.objects import Finding, Object, Rendered, selects
from scripts.manifests.policies import read_skips
from scripts.manifests.rendering import declared_secrets, since_of
from scripts.manifests.scaling import check_scaling, load_triggers
from scripts.manifests.schemas import VERSIONS, SchemaChecker
from scripts.manifests.unset import unset_values
from tests.manifest_breaks import BREAKS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent.parent / "k8s"
SCHEMAS = ROOT / "schemas"
VENDORED = sorted(SCHEMAS.rglob("*.json"))


def made(text: str) -> Rendered:
    """Return objects written as YAML."""
    return Rendered("small", [part for part in yaml.safe_load_all(textwrap.dedent(text)) if part])


def checks(found: Any) -> set[str]:
    return {finding.check for finding in found}


@pytest.mark.parametrize(
    ("selector", "picked"),
    [
        ({}, True),
        ({"matchLabels": {"app": "queue"}}, True),
        ({"matchLabels": {"app": "queue", "tier": "back"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["queue"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["queue"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
    ],
)
def test_a_selector_picks_what_the_api_server_would(selector: Object, picked: bool) -> None:
    assert selects(selector, {"app": "queue"}) is picked


def test_pods_are_found_in_everything_that_makes_them() -> None:
    rendered = made(
        """
        {kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {containers: []}}
        ---
        kind: CronJob
        metadata: {name: b}
        spec:
          jobTemplate: {spec: {template: {metadata: {labels: {app: b}}, spec: {containers: []}}}}
        ---
        kind: Deployment
        metadata: {name: c}
        spec: {template: {metadata: {labels: {app: c}}, spec: {containers: []}}}
        """
    )
    assert [(pod.labels["app"], pod.endless) for pod in rendered.pods] == [
        ("a", False),
        ("b", False),
        ("c", True),
    ]


@pytest.mark.parametrize(
    ("first", "second", "findings"), [("write", "read", set()), ("read", "write", {"start-order"})]
)
def test_who_reads_an_empty_volume_starts_after_who_fills_it(
    first: str, second: str, findings: set[str]
) -> None:
    rendered = made(
        """
        kind: Pod
        metadata: {name: a, labels: {}}
        spec:
          initContainers:
            - {name: write, volumeMounts: [{name: keys, mountPath: /keys}]}
            - {name: read, volumeMounts: [{name: keys, mountPath: /keys, readOnly: true}]}
          containers: []
          volumes: [{name: keys, emptyDir: {}}]
        """
    )
    containers = rendered.pods[0].spec["initContainers"]
    containers.sort(key=lambda container: (first, second).index(container["name"]))
    assert checks(check_lifecycle(rendered)) == findings


DEFINITION: dict[str, Any] = {
    "kind": "CustomResourceDefinition",
    "spec": {
        "group": "example.org",
        "names": {"kind": "Thing"},
        "versions": [
            {"name": "v1alpha1", "served": False},
            {
                "name": "v1",
                "served": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "metadata": {"type": "object"},
                            "status": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "description": {"type": "string", "description": "A word."},
                                    "port": {"x-kubernetes-int-or-string": True, "type": "string"},
                                    "gap": {"type": "integer", "nullable": True},
                                    "free": {
                                        "type": "object",
                                        "properties": {"known": {"type": "string"}},
                                        "x-kubernetes-preserve-unknown-fields": True,
                                    },
                                    "labels": {
                                        "type": "object",
                                        "additionalProperties": {"type": "string"},
                                    },
                                },
                            },
                        },
                    }
                },
            },
        ],
    },
}


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({"description": "a"}, True),
        ({"port": 80}, True),
        ({"port": "http"}, True),
        ({"port": 1.5}, False),
        ({"gap": None}, True),
        ({"description": None}, False),
        ({"free": {"known": "a", "unknown": 1}}, True),
        ({"labels": {"any": "thing"}}, True),
        ({"labels": {"any": 1}}, False),
        ({"prot": 80}, False),
    ],
)
def test_a_definition_becomes_a_schema_without_gaps(spec: Object, fits: bool) -> None:
    ((path, schema),) = schemas_of(DEFINITION)
    assert path == "example.org/thing_v1.json"
    thing = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {}, "spec": spec}
    assert Draft202012Validator(schema).is_valid(thing) is fits
    assert not Draft202012Validator(schema).is_valid({**thing, "status": {}})


@pytest.mark.parametrize("path", VENDORED, ids=lambda path: path.stem)
def test_a_vendored_schema_is_sound_and_refuses_unknown_fields(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert {"apiVersion", "kind", "metadata", "spec"} <= set(schema["required"])
    assert f"`{path.parent.name}`" in (SCHEMAS / "README.md").read_text()


SCALED = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: inference, labels: {app: inference}}
spec:
  scaleTargetRef: {name: inference}
  minReplicaCount: 0
  maxReplicaCount: 4
  pollingInterval: 15
  cooldownPeriod: 1200
  fallback: {failureThreshold: 3, replicas: 1}
  triggers:
    - type: redis-streams
      metadata: {address: "q:6379", stream: "jobs:stat", streamLength: "1", enableTLS: "true"}
    - type: redis-streams
      metadata: {address: "q:6379", stream: "jobs:routine", streamLength: "4", enableTLS: "true"}
    - type: cron
      metadata: {timezone: Europe/Berlin, start: 0 7 * * *, end: 0 19 * * *, desiredReplicas: "1"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: inference}
spec:
  selector: {matchLabels: {app: inference}}
  template:
    metadata: {labels: {app: inference}}
    spec: {terminationGracePeriodSeconds: 960, containers: [{name: worker}]}
"""


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("minReplicaCount", "minReplicaCont", "schema"),
        ("pollingInterval: 15", "pollingInterval: 15 seconds", "schema"),
        ("labels: {app", "lables: {app", "schema"),
        ("keda.sh/v1alpha1", "keda.sh/v2", "schema-unknown"),
        ("ScaledObject", "ScaledObjekt", "schema-unknown"),
    ],
)
def test_a_custom_resource_is_held_to_its_schema(old: str, new: str, check: str) -> None:
    checker = SchemaChecker(SCHEMAS)
    assert list(checker.check_custom(made(SCALED))) == []
    assert checks(checker.check_custom(made(SCALED.replace(old, new, 1)))) == {check}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_typo_is_seen_for_every_version(version: str) -> None:
    checker = SchemaChecker(SCHEMAS)
    assert list(checker.check(made(SCALED), version)) == []
    broken = made(SCALED.replace("terminationGracePeriodSeconds", "terminationGraceSeconds"))
    (finding,) = checker.check(broken, version)
    assert finding.check == "schema"
    assert "terminationGraceSeconds" in finding.message


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("name: inference}\n  min", "name: inferense}\n  min", "scaler-target"),
        ('streamLength: "4"', 'lagCount: "4"', "scaler-trigger"),
        ('streamLength: "4"', 'streamLength: "4", consumerGroup: workers', "scaler-trigger"),
        ('streamLength: "4"', "streamLength: 4", "scaler-trigger"),
        ('enableTLS: "true"', 'enableTLS: "false"', "scaler-trigger"),
        ("type: cron", "type: corn", "scaler-trigger scaler-floor"),
        ("timezone: Europe/Berlin, ", "", "scaler-trigger"),
        ("jobs:routine", "jobs:rutine", "scaler-streams"),
        ("cooldownPeriod: 1200", "cooldownPeriod: 300", "scaler-cooldown"),
        ("fallback: {failureThreshold: 3, replicas: 1}", "", "scaler-fallback"),
        ("spec:\n  selector", "spec:\n  replicas: 1\n  selector", "scaler-replicas"),
    ],
)
def test_a_scaler_asks_what_is_true(old: str, new: str, check: str) -> None:
    assert old in SCALED
    triggers = load_triggers(SCHEMAS)
    assert list(check_scaling(made(SCALED), triggers)) == []
    found = checks(check_scaling(made(SCALED.replace(old, new, 1)), triggers))
    assert found - {"scaler-cooldown"} <= set(check.split())
    assert set(check.split()) <= found


def test_the_scaler_of_the_test_asks_the_streams_of_the_queue() -> None:
    assert all(stream in SCALED for stream in STREAMS.values())


@pytest.mark.parametrize(
    ("replicas", "budget", "blocks"),
    [
        (1, "minAvailable: 1", True),
        (2, "minAvailable: 1", False),
        (2, "minAvailable: 2", True),
        (4, "minAvailable: 75%", False),
        (3, "minAvailable: 75%", True),
        (1, "maxUnavailable: 1", False),
        (3, "maxUnavailable: 0", True),
    ],
)
def test_a_budget_leaves_a_pod_to_evict(replicas: int, budget: str, blocks: bool) -> None:
    rendered = made(
        f"""
        {{kind: PodDisruptionBudget, metadata: {{name: a}},
          spec: {{{budget}, selector: {{matchLabels: {{app: a}}}}}}}}
        ---
        kind: Deployment
        metadata: {{name: a}}
        spec: {{replicas: {replicas}, template: {{metadata: {{labels: {{app: a}}}}, spec: {{}}}}}}
        """
    )
    assert checks(check_scaling(rendered, {})) == ({"disruption-budget"} if blocks else set())


NETWORK = """
{kind: Namespace, metadata: {name: hounsfield}}
---
kind: NetworkPolicy
metadata: {name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
kind: NetworkPolicy
metadata: {name: dns}
spec: {podSelector: {}, egress: [{ports: [{port: 53, protocol: UDP}]}]}
---
kind: NetworkPolicy
metadata: {name: gateway}
spec:
  podSelector: {matchLabels: {app: gateway}}
  egress: [{to: [{podSelector: {matchLabels: {app: queue}}}], ports: [{port: 6379}]}]
---
kind: NetworkPolicy
metadata: {name: queue}
spec:
  podSelector: {matchLabels: {app: queue}}
  ingress: [{from: [{podSelector: {matchLabels: {app: gateway}}}], ports: [{port: redis}]}]
---
{kind: Service, metadata: {name: queue}, spec: {selector: {app: queue}, ports: [{port: 6379}]}}
---
kind: Deployment
metadata: {name: gateway}
spec: {template: {metadata: {labels: {app: gateway}}, spec: {containers: [{name: gateway}]}}}
---
kind: StatefulSet
metadata: {name: queue}
spec:
  template:
    metadata: {labels: {app: queue}}
    spec: {containers: [{name: q, ports: [{name: redis, containerPort: 6379}]}]}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "default-deny"),
        ("port: 53", "port: 54", "policy-dns"),
        ("ports: [{port: 6379}]}]", "ports: [{port: 6380}]}]", "policy-edge policy-missing"),
        ("port: redis}", "port: rediss}", "policy-edge policy-missing policy-port policy-closed"),
        ("app: queue}}}], ports", "app: qeue}}}], ports",
         "policy-edge policy-missing policy-selector"),
        ("from: [{podSelector: {matchLabels: {app: gateway}}}]",
         "from: [{namespaceSelector: {matchLabels: {a: b}}, podSelector: {}}]",
         "policy-edge policy-missing"),
    ],
)  # fmt: skip
def test_an_edge_is_open_at_both_ends(old: str, new: str, expected: str) -> None:
    assert old in NETWORK
    assert list(check_network(made(NETWORK))) == []
    assert checks(check_network(made(NETWORK.replace(old, new, 1)))) == set(expected.split())


def test_a_target_open_to_everybody_need_not_name_its_callers() -> None:
    everybody = NETWORK.replace("from: [{podSelector: {matchLabels: {app: gateway}}}], ", "")
    assert everybody != NETWORK
    assert list(check_network(made(everybody))) == []


def container(text: str, **secrets: list[str]) -> Rendered:
    """Return a pod with one container, written as YAML."""
    pod = {
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", **yaml.safe_load(text)}]},
    }
    declared = {name: frozenset(keys) for name, keys in secrets.items()}
    return Rendered("small", [pod], declared)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env: [{name: HOUNSFIELD_LEASE_S, value: '30'}]", set()),
        ("env: [{name: HOUNSFIELD_LEASE_S, value: soon}]", {"setting"}),
        ("env: [{name: HOUNSFIELD_LEASES, value: '30'}]", {"setting"}),
        ("env: [{name: HOUNSFIELD_TOKEN_FILE, value: /a}]", set()),
        ("env: [{name: HOUNSFIELD_TOKEN, value: eyJ}]", {"secret-in-env"}),
        ("env: [{name: PGPASSWORD, value: horse}]", {"secret-in-env"}),
        ("env: [{name: URL, value: 'rediss://a:b@queue:6379'}]", {"secret-in-env"}),
        ("env: [{name: URL, value: 'rediss://queue:6379'}]", set()),
        ("args: ['--url=rediss://a:b@queue:6379']", {"secret-in-env"}),
        ("envFrom: [{secretRef: {name: declared}}]", {"secret-in-env"}),
        ("envFrom: [{secretRef: {name: other}}]", {"secret-in-env", "secret-reference"}),
        ("envFrom: [{configMapRef: {name: other}}]", {"config-reference"}),
    ],
)
def test_the_environment_is_what_the_application_takes(text: str, expected: set[str]) -> None:
    assert checks(check_configuration(container(text, declared=["a"]))) == expected


def test_a_key_may_be_declared_as_a_pattern() -> None:
    rendered = container("image: a", kek=["*.kek.json"], forgotten=["password"])
    volume: dict[str, Any] = {"secretName": "kek", "items": [{"key": "1.kek.json", "path": "a"}]}
    rendered.objects[0]["spec"]["volumes"] = [{"name": "kek", "secret": volume}]
    assert list(check_configuration(rendered)) == []
    assert list(check_secrets_used([rendered])) == [
        Finding("secret-unused", "Secret/forgotten", "nothing uses its key 'password'")
    ]
    volume["items"][0]["key"] = "1.json"
    assert checks(check_configuration(rendered)) == {"secret-reference"}


def test_settings_are_read_as_the_application_would() -> None:
    rendered = container("env: [{name: HOUNSFIELD_LEASE_S, value: '45'}]")
    assert settings_of(rendered, rendered.pods[0].spec["containers"][0]).lease_s == 45


def test_secrets_are_declared_with_their_keys() -> None:
    declared = declared_secrets(ROOT)
    assert declared
    assert all(declared.values())


def test_a_skip_has_a_reason_beside_it(tmp_path: Path) -> None:
    path = tmp_path / ".checkov.yaml"
    path.write_text("skip-check:\n  - CKV_K8S_1 # because\n  - CKV2_K8S_6\n")
    assert read_skips(path) == {"CKV_K8S_1": "because", "CKV2_K8S_6": ""}
    assert read_skips(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("registry.example.org/a@sha256:" + "0" * 64, {"registry.example.org/a"}),
        ("docker.io/a@sha256:" + "0" * 64, {"docker.io/a"}),
        ("docker.io/a@sha256:" + "1" * 64, set()),
        ("192.0.2.0/28", {"192.0.2.0/28"}),
        ("s3://example-studies/v1", {"s3://example-studies/v1"}),
        ("10.0.0.0/8", set()),
        ("for example", {"example"}),
    ],
)
def test_what_is_nobodys_is_to_be_filled_in(value: str, named: set[str]) -> None:
    assert unset_values(Rendered("small", [{"kind": "ConfigMap", "data": {"a": value}}])) == named


def test_an_overlay_is_as_new_as_its_newest_component(tmp_path: Path) -> None:
    annotated = 'kind: Component\nmetadata: {annotations: {hounsfield/kubernetes: "%s"}}\n'
    for name, since in (("old", "1.9"), ("new", "1.35")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kustomization.yaml").write_text(annotated % since)
    (tmp_path / "top").mkdir()
    top = tmp_path / "top" / "kustomization.yaml"
    top.write_text("components: [../old, ../new]\n")
    assert since_of(tmp_path / "top") == "1.35"
    top.write_text("resources: []\n")
    assert since_of(tmp_path / "top") == ""


def test_every_rule_is_broken_on_purpose() -> None:
    text = "".join(path.read_text() for path in Path(manifests.__path__[0]).glob("*.py"))
    rules = set(re.findall(r'Finding\(\s*"([a-z-]+)"', text))
    assert len(rules) > 40
    broken = {check for case in BREAKS for check in case.expected.split()}
    assert rules - broken == {"build", "policy", "policy-skip", "secret-unused"}  # test_manifests

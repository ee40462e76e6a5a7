"""Reads the Prometheus rule files, and wraps them for the Prometheus operator.

rules/*.yaml, plain Prometheus ──▶ one PrometheusRule │ expressions, for tests
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ("COMPONENT", "RULES", "Alert", "alerts", "groups", "prometheus_rule", "records")

COMPONENT = Path("k8s/components/monitoring")
RULES = COMPONENT / "rules"

_HEADER = "# Made of rules/*.yaml by `python -m scripts.monitoring`; change those.\n"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule.

    Attributes:
        name: As it is sent, and the runbook's heading.
        expression: PromQL.
        severity: ``page`` wakes somebody, ``ticket`` waits for the morning.
        annotations: Texts for people.
    """

    name: str
    expression: str
    severity: str
    annotations: dict[str, str]


def groups(root: Path) -> list[dict[str, Any]]:
    """Return every rule group below a repository's root, files in the order of their names.

    Raises:
        ValueError: A file holds something else than groups, or two groups have one name.
    """
    found: list[dict[str, Any]] = []
    for path in sorted((root / RULES).glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) != {"groups"}:
            raise ValueError(f"{path}: expected the key 'groups' and no other.")
        found += content["groups"]
    names = [group["name"] for group in found]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected groups of different names, got {sorted(names)}.")
    return found


def alerts(root: Path) -> list[Alert]:
    """Return every alerting rule."""
    return [
        Alert(rule["alert"], rule["expr"], rule["labels"]["severity"], rule["annotations"])
        for rule in _rules(root)
        if "alert" in rule
    ]


def records(root: Path) -> dict[str, str]:
    """Return the expression of every recording rule by name; of one with labels, the last."""
    return {rule["record"]: rule["expr"] for rule in _rules(root) if "record" in rule}


def _rules(root: Path) -> Iterator[dict[str, Any]]:
    for group in groups(root):
        yield from group["rules"]


def prometheus_rule(root: Path) -> str:
    """Return the manifest that gives the same groups to the Prometheus operator."""
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "hounsfield"},
        "spec": {"groups": groups(root)},
    }
    return _HEADER + yaml.safe_dump(manifest, sort_keys=False, width=100, allow_unicode=True)

"""Scalers and disruption budgets: they find their target, ask what is true, and leave time to end.

ledger's work ▶ streams jobs:stat, jobs:routine ▶ KEDA (XLEN) ▶ replicas of the inference pods
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from client.jobqueue.keys import STREAMS
from scripts.manifests.objects import Finding, Object, Pod, Rendered, kind_of, name_of, subject_of

__all__ = ("Triggers", "check_scaling", "load_triggers")

Triggers = Mapping[str, Mapping[str, Any]]
_SCALERS = ("ScaledObject", "HorizontalPodAutoscaler")
_DEFAULT_GRACE_S = 30


def load_triggers(schemas: Path) -> Triggers:
    """Read which metadata each KEDA trigger takes.

    Args:
        schemas: The folder k8s/schemas.
    """
    listed: Triggers = yaml.safe_load((schemas / "keda-triggers.yaml").read_text())
    return listed


def check_scaling(rendered: Rendered, triggers: Triggers) -> Iterator[Finding]:
    """Check every scaler, and every disruption budget against the fewest replicas there can be."""
    for scaler in rendered.of(*_SCALERS):
        yield from _target(scaler, rendered)
    for scaler in rendered.of("ScaledObject"):
        yield from _keda(scaler, rendered, triggers)
    for budget in rendered.of("PodDisruptionBudget"):
        yield from _budget(budget, rendered)


def _target_pod(scaler: Object, rendered: Rendered) -> Pod | None:
    reference = scaler["spec"].get("scaleTargetRef", {})
    wanted = (reference.get("kind", "Deployment"), reference.get("name"))
    return next((p for p in rendered.pods if (kind_of(p.owner), name_of(p.owner)) == wanted), None)


def _target(scaler: Object, rendered: Rendered) -> Iterator[Finding]:
    pod = _target_pod(scaler, rendered)
    if pod is None:
        wanted = scaler["spec"].get("scaleTargetRef")
        yield Finding("scaler-target", subject_of(scaler), f"nothing is {wanted}")
        return
    if "replicas" in pod.owner["spec"]:
        yield Finding(
            "scaler-replicas",
            pod.subject,
            f"{subject_of(scaler)} sets the replicas; given here, each apply would reset them",
        )
    rivals = [other for other in rendered.of(*_SCALERS) if _target_pod(other, rendered) is pod]
    if len(rivals) > 1:
        names = [subject_of(rival) for rival in rivals]
        yield Finding("scaler-rivals", pod.subject, f"more than one scaler: {names}")


def _keda(scaler: Object, rendered: Rendered, triggers: Triggers) -> Iterator[Finding]:
    spec, subject = scaler["spec"], subject_of(scaler)
    for trigger in spec.get("triggers", ()):
        for problem in _trigger_problems(trigger, triggers):
            yield Finding("scaler-trigger", subject, f"{trigger.get('type')}: {problem}")
        auth = trigger.get("authenticationRef")
        kind = (auth or {}).get("kind", "TriggerAuthentication")
        if auth and rendered.named(kind, auth["name"]) is None:
            yield Finding("scaler-authentication", subject, f"no {kind} {auth['name']!r}")
    yield from _streams(spec, subject)
    if "fallback" not in spec:
        yield Finding("scaler-fallback", subject, "no fallback for when it cannot ask")
    pod = _target_pod(scaler, rendered)
    cooldown = spec.get("cooldownPeriod", 300)
    grace = pod.spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S) if pod else 0
    if isinstance(cooldown, int) and cooldown < grace:
        yield Finding(
            "scaler-cooldown",
            subject,
            f"cooldownPeriod: expected at least the {grace} s a study may take, got {cooldown}",
        )
    kinds = {trigger.get("type") for trigger in spec.get("triggers", ())}
    if not spec.get("minReplicaCount", 0) and "cron" not in kinds:
        yield Finding(
            "scaler-floor", subject, "STAT would wait for a start-up: no cron trigger keeps one pod"
        )


def _trigger_problems(trigger: Object, triggers: Triggers) -> Iterator[str]:
    known = triggers.get(str(trigger.get("type")))
    if known is None:
        yield f"expected one of {sorted(triggers)}"
        return
    given = trigger.get("metadata", {})
    for key in sorted(set(known["required"]) - given.keys()):
        yield f"{key} is missing"
    for group in known.get("one_of", ()):
        if not set(group) & given.keys():
            yield f"expected one of {group}"
    lies: Mapping[str, str] = known.get("refused", {})
    for key, value in given.items():
        if key in lies:
            yield f"{key}: {lies[key]}"
        elif key not in {*known["required"], *known.get("optional", ())}:
            yield f"{key} is no field of it"
        elif not isinstance(value, str):
            yield f"{key}: expected a string, got {value!r}"
        elif value != known.get("values", {}).get(key, value):
            yield f"{key}: expected {known['values'][key]!r}, got {value!r}"


def _streams(spec: Object, subject: str) -> Iterator[Finding]:
    asked = {
        trigger.get("metadata", {}).get("stream")
        for trigger in spec.get("triggers", ())
        if trigger.get("type") == "redis-streams"
    }
    if asked and asked != set(STREAMS.values()):
        yield Finding(
            "scaler-streams", subject, f"expected {sorted(STREAMS.values())}, got {asked}"
        )


def _budget(budget: Object, rendered: Rendered) -> Iterator[Finding]:
    spec, subject = budget["spec"], subject_of(budget)
    pods = rendered.selected(spec.get("selector", {}))
    if not pods:
        yield Finding("budget-selector", subject, f"no pod has {spec.get('selector')}")
    for pod in pods:
        fewest = _fewest(pod, rendered)
        if "minAvailable" in spec:
            left = fewest - _count(spec["minAvailable"], fewest)
        else:
            left = _count(spec.get("maxUnavailable", 0), fewest)
        if left < 1:
            yield Finding(
                "disruption-budget",
                subject,
                f"no node with {pod.subject} could ever be drained: {fewest} replicas at the least",
            )


def _fewest(pod: Pod, rendered: Rendered) -> int:
    """Return the fewest replicas that there are while there are any."""
    for scaler in rendered.of(*_SCALERS):
        if _target_pod(scaler, rendered) is pod:
            spec = scaler["spec"]
            return max(1, int(spec.get("minReplicaCount", spec.get("minReplicas", 0))))
    return int(pod.owner["spec"].get("replicas", 1))


def _count(wanted: int | str, replicas: int) -> int:
    """Resolve a count or percentage as the disruption controller does: upwards."""
    if isinstance(wanted, int):
        return wanted
    return math.ceil(float(wanted.removesuffix("%")) / 100 * replicas)

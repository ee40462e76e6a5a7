"""Rendered Kubernetes objects, and the questions that every check asks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

__all__ = (
    "UNSET_DIGEST",
    "Finding",
    "Object",
    "Pod",
    "Rendered",
    "kind_of",
    "name_of",
    "selects",
    "subject_of",
)

Object = dict[str, Any]

UNSET_DIGEST = "sha256:" + "0" * 64
"""Stands where an operator has to fill in the digest of an image."""

_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod")
_ENDLESS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: The rule's name; a rule has one name and a name one rule.
        subject: The object it was found in, as ``Kind/name``.
        message: What was expected and what came.
    """

    check: str
    subject: str
    message: str


def kind_of(made: Object) -> str:
    """Return an object's kind."""
    return str(made.get("kind", ""))


def name_of(made: Object) -> str:
    """Return an object's name."""
    return str(made.get("metadata", {}).get("name", ""))


def subject_of(made: Object) -> str:
    """Return how findings name an object."""
    return f"{kind_of(made)}/{name_of(made)}"


@dataclass(frozen=True)
class Pod:
    """A pod template and the object that makes pods of it.

    Attributes:
        owner: The Deployment, StatefulSet, Job, … it was taken from.
        labels: The pods' labels.
        spec: The pods' specification.
    """

    owner: Object
    labels: Mapping[str, str]
    spec: Object

    @property
    def subject(self) -> str:
        """How findings name it."""
        return subject_of(self.owner)

    @property
    def endless(self) -> bool:
        """Whether its pods run until somebody stops them."""
        return kind_of(self.owner) in _ENDLESS

    @property
    def containers(self) -> Sequence[Object]:
        """Every container, those that only prepare the pod among them."""
        return [*self.spec.get("initContainers", ()), *self.spec.get("containers", ())]

    @property
    def servers(self) -> Sequence[Object]:
        """The containers that run as long as the pod does, sidecars among them."""
        sidecars = [
            made for made in self.spec.get("initContainers", ()) if made.get("restartPolicy")
        ]
        return [*sidecars, *self.spec.get("containers", ())]

    def port(self, wanted: str | int) -> int | None:
        """Return the number of a container's port, by its name or number; None: there is none."""
        for container in self.servers:
            for port in container.get("ports", ()):
                if wanted in (port.get("name"), port.get("containerPort")):
                    return int(port["containerPort"])
        return None


@dataclass(frozen=True)
class Rendered:
    """What one overlay gives, all of it in one cluster.

    Attributes:
        name: The overlay's or component's name.
        objects: Every object.
        secrets: Names of the Secrets that an operator supplies, and the keys in them.
        since: The oldest Kubernetes that has what it uses, for example ``1.35``.
    """

    name: str
    objects: Sequence[Object]
    secrets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    since: str = ""

    def of(self, *kinds: str) -> Iterator[Object]:
        """Yield the objects of some kinds."""
        return (made for made in self.objects if kind_of(made) in kinds)

    def named(self, kind: str, name: str) -> Object | None:
        """Return one object, or None."""
        return next((made for made in self.of(kind) if name_of(made) == name), None)

    @cached_property
    def pods(self) -> Sequence[Pod]:
        """Every pod template."""
        return [_pod(made) for made in self.of(*_WORKLOADS)]

    def selected(self, selector: Object) -> list[Pod]:
        """Return the pods that a label selector picks; an empty one picks all."""
        return [pod for pod in self.pods if selects(selector, pod.labels)]


def _pod(owner: Object) -> Pod:
    spec = owner.get("spec", {})
    if kind_of(owner) == "Pod":
        return Pod(owner, owner.get("metadata", {}).get("labels", {}), spec)
    if kind_of(owner) == "CronJob":
        spec = spec.get("jobTemplate", {}).get("spec", {})
    template = spec.get("template", {})
    return Pod(owner, template.get("metadata", {}).get("labels", {}), template.get("spec", {}))


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Say whether a label selector picks these labels, as the API server would.

    Source: Kubernetes API, LabelSelector.
    """
    wanted = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _expression_holds(expression, labels) for expression in selector.get("matchExpressions", ())
    )


def _expression_holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", ())
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]

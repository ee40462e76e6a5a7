"""Every object against the schema of its kind: Kubernetes' own, or a custom resource's.

built in ─▶ the strict schemas of kubernetes-validate, once per Kubernetes version
custom ───▶ k8s/schemas/<group>/<kind>_<version>.json, its metadata by Kubernetes' own
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate import utils  # type: ignore[import-untyped]
from referencing import Registry, Resource

from scripts.manifests.objects import Finding, Object, Rendered, kind_of, subject_of

__all__ = ("VERSIONS", "SchemaChecker")

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))
"""The Kubernetes versions that the manifests are held to."""

_FOLDER = "kubernetes-json-schema/v{}.0-local-strict/{}.json"
_GROUPS = (
    "apps",
    "autoscaling",
    "batch",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
)
_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


class SchemaChecker:
    """Validates objects, each distinct one once per version.

    Args:
        schemas: The folder k8s/schemas.
    """

    def __init__(self, schemas: Path) -> None:
        self._schemas = schemas
        self._seen: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def check(self, rendered: Rendered, version: str) -> Iterator[Finding]:
        """Check everything built-in for one Kubernetes version.

        Args:
            rendered: What to check.
            version: For example ``1.35``.
        """
        for made in rendered.objects:
            if _is_built_in(made):
                yield from self._once(made, version)

    def check_custom(self, rendered: Rendered) -> Iterator[Finding]:
        """Check every custom resource against its vendored schema."""
        for made in rendered.objects:
            if not _is_built_in(made):
                yield from self._once(made, "")

    def _once(self, made: Object, version: str) -> Iterator[Finding]:
        key = (json.dumps(made, sort_keys=True), version)
        if key not in self._seen:
            problems = _built_in(made, version) if version else self._custom(made)
            self._seen[key] = list(problems)
        for check, message in self._seen[key]:
            yield Finding(check, subject_of(made), message)

    def _custom(self, made: Object) -> Iterator[tuple[str, str]]:
        group, _, version = str(made.get("apiVersion")).partition("/")
        path = self._schemas / group / f"{kind_of(made).lower()}_{version}.json"
        if not path.exists():
            yield _unknown(made)
            return
        for validator, part in (
            (_custom_validator(path), made),
            (_metadata_validator(), made.get("metadata", {})),
        ):
            for error in validator.iter_errors(part):
                yield "schema", _say(error)


def _is_built_in(made: Object) -> bool:
    group, separator, _ = str(made.get("apiVersion")).partition("/")
    return not separator or group in _GROUPS


def _built_in(made: Object, version: str) -> Iterator[tuple[str, str]]:
    group, _, api_version = str(made.get("apiVersion")).rpartition("/")
    name = "-".join(filter(None, (kind_of(made).lower(), group.partition(".")[0], api_version)))
    try:
        validator = _validator(version, name)
    except FileNotFoundError:
        yield _unknown(made)
        return
    for error in validator.iter_errors(made):
        yield "schema", _say(error)


def _unknown(made: Object) -> tuple[str, str]:
    return "schema-unknown", f"there is no schema for {made.get('apiVersion')} {kind_of(made)}"


def _say(error: ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    return f"{path or 'the object'}: {error.message[:300]}"


@functools.cache
def _definitions(version: str) -> Registry[Any]:
    contents = utils.schema_contents(_FOLDER.format(version, "_definitions"), version)
    return Resource.from_contents(contents) @ Registry[Any]()


@functools.cache
def _validator(version: str, name: str) -> Draft202012Validator:
    schema = utils.schema_contents(_FOLDER.format(version, name), version)
    return Draft202012Validator(schema, registry=_definitions(version))


@functools.cache
def _metadata_validator() -> Draft202012Validator:
    schema = {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/{_METADATA}"}
    return Draft202012Validator(schema, registry=_definitions(VERSIONS[-1]))


@functools.cache
def _custom_validator(path: Path) -> Draft202012Validator:
    return Draft202012Validator(json.loads(path.read_text()))

"""Do the references to ConfigMaps and Secrets resolve, and does the application take the values.

ConfigMap, Secret ──env, volumes──▶ container ──client.settings──▶ Settings
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping

from client.errors import ConfigurationError
from client.secretfiles import SECRETS
from client.settings import Settings, load_settings
from scripts.manifests.objects import Finding, Object, Pod, Rendered, subject_of

__all__ = ("check_configuration", "check_secrets_used", "environment", "keys_of", "settings_of")

_SECRET_NAME = re.compile(r"(_KEY|PASSWORD|PASSWD|_SECRET|CREDENTIALS?|(?<!_)TOKEN|_TOKEN)$")
_SECRET_VALUE = re.compile(r"://[^\s/@:]*:[^\s/@]+@|-----BEGIN [A-Z ]*PRIVATE KEY|requirepass \S")
_CERTIFICATE_KEYS = frozenset({"tls.crt", "tls.key", "ca.crt"})
_FROM_FIELD = "field"
_WHERE = {
    "ConfigMap": "one made here",
    "Secret": "one made by a Certificate, or declared in k8s/secrets.yaml",
}


def check_configuration(rendered: Rendered) -> Iterator[Finding]:
    """Check references, secrets in the open, and every container's settings."""
    for subject, kind, name, keys in _references(rendered):
        yield from _resolve(rendered, subject, kind, name, keys)
    for made in rendered.of("ConfigMap"):
        for key, value in made.get("data", {}).items():
            if _looks_secret(key, value):
                yield Finding("secret-in-open", subject_of(made), f"{key} looks like a secret")
    for made in rendered.of("Secret"):
        yield Finding("secret-in-open", subject_of(made), "a Secret's content lies in these files")
    for pod in rendered.pods:
        for container in pod.containers:
            yield from _environment_secrets(pod, container)
            yield from _settings(rendered, pod, container)


def check_secrets_used(everything: Iterable[Rendered]) -> Iterator[Finding]:
    """Find declared Secrets and keys that no overlay uses."""
    declared: Mapping[str, frozenset[str]] = {}
    used: dict[str, set[str]] = {}
    for rendered in everything:
        declared = rendered.secrets
        for _, kind, name, keys in _references(rendered):
            if kind == "Secret":
                used.setdefault(name, set()).update(keys or declared.get(name, ()))
    for name, listed in declared.items():
        for pattern in sorted(listed):
            if not fnmatch.filter(used.get(name, ()), pattern):
                message = f"nothing uses its key {pattern!r}"
                yield Finding("secret-unused", f"Secret/{name}", message)


def environment(rendered: Rendered, container: Object) -> dict[str, str]:
    """Return the variables a container starts with, those from fields and Secrets as a word."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        made = rendered.named("ConfigMap", source.get("configMapRef", {}).get("name", ""))
        variables |= (made or {}).get("data", {})
    for variable in container.get("env", ()):
        variables[variable["name"]] = _value(rendered, variable)
    return variables


def settings_of(rendered: Rendered, container: Object) -> Settings:
    """Read a container's settings as the application would.

    Raises:
        ConfigurationError: The application would not start.
    """
    variables = environment(rendered, container)
    variables.pop(SECRETS, None)
    return load_settings(variables)


def _value(rendered: Rendered, variable: Object) -> str:
    reference = variable.get("valueFrom", {}).get("configMapKeyRef")
    if reference:
        made = rendered.named("ConfigMap", reference["name"]) or {}
        return str(made.get("data", {}).get(reference["key"], ""))
    return str(variable.get("value", _FROM_FIELD if "valueFrom" in variable else ""))


def _references(rendered: Rendered) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield who names which ConfigMap or Secret, and with which keys (none: all of them)."""
    for pod in rendered.pods:
        for kind, name, keys in _pod_references(pod):
            yield pod.subject, kind, name, keys
    for made in rendered.of("TriggerAuthentication", "ClusterTriggerAuthentication"):
        for target in made["spec"].get("secretTargetRef", ()):
            yield subject_of(made), "Secret", target["name"], [target["key"]]
    for made in rendered.of("Gateway"):
        for listener in made["spec"].get("listeners", ()):
            for reference in listener.get("tls", {}).get("certificateRefs", ()):
                yield subject_of(made), "Secret", reference["name"], []
    for made in rendered.of("Issuer", "ClusterIssuer"):
        authority = made["spec"].get("ca")
        if authority:
            yield subject_of(made), "Secret", authority["secretName"], ["tls.crt", "tls.key"]


def _pod_references(pod: Pod) -> Iterator[tuple[str, str, list[str]]]:
    for reference in pod.spec.get("imagePullSecrets", ()):
        yield "Secret", reference["name"], []
    for volume in pod.spec.get("volumes", ()):
        for source in [volume, *volume.get("projected", {}).get("sources", ())]:
            for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
                if field in source:
                    items = [item["key"] for item in source[field].get("items", ())]
                    name = source[field].get("secretName") or source[field].get("name")
                    yield kind, str(name), items
    for container in pod.containers:
        for source in container.get("envFrom", ()):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"], []
        for variable in container.get("env", ()):
            chosen = variable.get("valueFrom", {})
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in chosen:
                    yield kind, chosen[field]["name"], [chosen[field]["key"]]


def _resolve(
    rendered: Rendered, subject: str, kind: str, name: str, keys: list[str]
) -> Iterator[Finding]:
    check = "config-reference" if kind == "ConfigMap" else "secret-reference"
    there = keys_of(rendered, kind, name)
    if there is None:
        yield Finding(check, subject, f"no {kind} {name!r}: expected {_WHERE[kind]}")
        return
    for key in keys:
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in there):
            yield Finding(check, subject, f"{kind} {name!r} has no key {key!r}")


def keys_of(rendered: Rendered, kind: str, name: str) -> frozenset[str] | None:
    """Return the keys of a ConfigMap or Secret that is made or declared; None: it is not."""
    made = rendered.named(kind, name)
    if made is not None:
        parts = ("data", "binaryData", "stringData")
        return frozenset(key for part in parts for key in made.get(part, {}))
    if kind != "Secret":
        return None
    for certificate in rendered.of("Certificate"):
        if certificate["spec"].get("secretName") == name:
            return _CERTIFICATE_KEYS
    return rendered.secrets.get(name)


def _looks_secret(name: str, value: str) -> bool:
    named = bool(_SECRET_NAME.search(name)) and bool(value)
    return named or bool(_SECRET_VALUE.search(value))


def _environment_secrets(pod: Pod, container: Object) -> Iterator[Finding]:
    def found(what: str) -> Finding:
        return Finding("secret-in-env", pod.subject, f"{container['name']}: {what}")

    for source in container.get("envFrom", ()):
        if "secretRef" in source:
            yield found(f"envFrom Secret {source['secretRef']['name']!r}")
    for variable in container.get("env", ()):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield found(f"{variable['name']} comes from a Secret; mount it as a file")
        elif _looks_secret(variable["name"], str(variable.get("value", ""))):
            yield found(f"{variable['name']} looks like a secret")
    for word in [*container.get("command", ()), *container.get("args", ())]:
        if _SECRET_VALUE.search(word):
            yield found("an argument looks like a secret")


def _settings(rendered: Rendered, pod: Pod, container: Object) -> Iterator[Finding]:
    try:
        settings_of(rendered, container)
    except ConfigurationError as error:
        yield Finding("setting", pod.subject, f"{container['name']}: {error}")

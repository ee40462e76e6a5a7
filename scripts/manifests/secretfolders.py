"""The folders of HOUNSFIELD_SECRETS: mounted, with files that are settings, and none forgotten.

Secret ──volume──▶ folder ─▶ file = variable ─▶ Settings; what is given nowhere would be embedded
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import PurePosixPath

from client.secretfiles import CLOUD_PREFIXES, SECRETS
from client.settings import PREFIX, Settings
from scripts.manifests.configuration import environment, keys_of
from scripts.manifests.objects import Finding, Object, Pod, Rendered

__all__ = ("check_secret_folders",)

_PROCESSES = ("client.ingest.process", "client.worker")
_WANTED = tuple(f"{PREFIX}{name}_URL" for name in ("LEDGER", "QUEUE", "STORE", "VAULT"))
"""Without these a process would keep things inside its pod, and lose them with the pod."""


def check_secret_folders(rendered: Rendered) -> Iterator[Finding]:
    """Check where settings come from as files, and that overlays give every one that must be."""
    for pod in rendered.pods:
        for container in pod.containers:
            files = dict(_mounted(rendered, pod, container))
            yield from _folders(rendered, pod, container, files)
            if rendered.name.startswith("overlays/"):
                yield from _forgotten(rendered, pod, container, files)


def _folders(
    rendered: Rendered, pod: Pod, container: Object, files: dict[str, str]
) -> Iterator[Finding]:
    variables = environment(rendered, container)
    mounts = {mount["mountPath"] for mount in container.get("volumeMounts", ())}
    for folder in filter(None, variables.get(SECRETS, "").split(":")):
        if not mounts & {folder, *map(str, PurePosixPath(folder).parents)}:
            message = f"{container['name']}: nothing is mounted at {folder}"
            yield Finding("secrets-folder", pod.subject, message)
    known = {f"{PREFIX}{f.name.upper()}" for f in fields(Settings)}
    for name, folder in files.items():
        if (name not in known and not name.startswith(CLOUD_PREFIXES)) or name in variables:
            message = f"{container['name']}: {name} in {folder} is no setting, or set twice"
            yield Finding("secrets-folder", pod.subject, message)


def _forgotten(
    rendered: Rendered, pod: Pod, container: Object, files: dict[str, str]
) -> Iterator[Finding]:
    if not set(container.get("command", ())) & set(_PROCESSES):
        return
    for name in _WANTED:
        if name not in files and not environment(rendered, container).get(name):
            message = f"{container['name']}: {name} is neither a variable nor a file"
            yield Finding("setting-missing", pod.subject, message)


def _mounted(rendered: Rendered, pod: Pod, container: Object) -> Iterator[tuple[str, str]]:
    """Yield file name and folder of every Secret's file in the folders."""
    folders = environment(rendered, container).get(SECRETS, "").split(":")
    for mount in container.get("volumeMounts", ()):
        if mount["mountPath"] in folders:
            for name in _files(rendered, pod, mount["name"]):
                yield name, mount["mountPath"]


def _files(rendered: Rendered, pod: Pod, volume_name: str) -> Iterator[str]:
    volume = next(made for made in pod.spec["volumes"] if made["name"] == volume_name)
    for source in [volume, *volume.get("projected", {}).get("sources", ())]:
        if "secret" in source:
            secret = source["secret"]
            name = secret.get("secretName") or secret.get("name")
            keys = keys_of(rendered, "Secret", name) or frozenset()
            paths = [item["path"] for item in secret.get("items", ())] or sorted(keys)
            yield from (path for path in paths if "/" not in path)

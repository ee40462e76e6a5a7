"""A release of the model repository: a list of its files with their hashes, named by its own hash.

repository ─▶ manifest (JSON) ─▶ sha256:…        manifest, sha256:… ─▶ files, or an error
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from client.errors import ConfigurationError

__all__ = ("ReleaseFile", "describe", "name_of", "parse")

SCHEMA = "hounsfield.models/1"
_NAME = re.compile(r"sha256:[0-9a-f]{64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_LEFT_OUT = "__pycache__"


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file.

    Attributes:
        path: Below the repository, with slashes.
        length: Bytes.
        sha256: Of its content, hexadecimal.
    """

    path: str
    length: int
    sha256: str


def describe(repository: Path) -> bytes:
    """Return the manifest of what lies in a folder: the same bytes for the same files.

    Raises:
        ConfigurationError: It is no folder, or has no file.
    """
    found = sorted(path for path in repository.rglob("*") if path.is_file())
    files = [_file(repository, path) for path in found if _LEFT_OUT not in path.parts]
    if not files:
        raise ConfigurationError(f"Expected a model repository in {repository}, found no file.")
    content = {"schema": SCHEMA, "files": [asdict(file) for file in files]}
    return json.dumps(content, indent=1).encode() + b"\n"


def name_of(manifest: bytes) -> str:
    """Return a release's name, ``sha256:`` and the hash of its manifest."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def parse(manifest: bytes, name: str) -> tuple[ReleaseFile, ...]:
    """Return the files of the release of that name.

    Raises:
        ConfigurationError: The manifest is another release's, or is none.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"A release is named sha256:<64 hexadecimal digits>, got {name}.")
    if name_of(manifest) != name:
        raise ConfigurationError(f"Expected release {name}, got {name_of(manifest)}.")
    try:
        content = json.loads(manifest)
        files = tuple(ReleaseFile(**file) for file in content["files"])
        good = content["schema"] == SCHEMA and all(map(_is_good, files))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"Release {name} has no manifest of {SCHEMA}.") from error
    if not good:
        raise ConfigurationError(f"Release {name} names a file that no repository can have.")
    return files


def _is_good(file: ReleaseFile) -> bool:
    path = PurePosixPath(file.path)
    inside = not path.is_absolute() and ".." not in path.parts and str(path) == file.path
    return inside and file.length >= 0 and bool(_HASH.fullmatch(file.sha256))


def _file(repository: Path, path: Path) -> ReleaseFile:
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return ReleaseFile(path.relative_to(repository).as_posix(), path.stat().st_size, sha256)

"""A staged model becomes the newest version in the repository, whole or not at all.

staged ─▶ compare ─▶ network's version ▸ first step ▸ ensemble ▸ versions that are dropped
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from export.errors import PublishError
from export.repository.disk import Disk
from export.repository.layout import PROVENANCE, ModelFolders, file_hashes
from export.repository.options import Step
from export.repository.transaction import Change, ChangeKind, apply_changes, is_pending, recover
from preprocess.errors import SpecError
from preprocess.spec import find_model_specs

__all__ = ("Published", "publish")


@dataclass(frozen=True)
class Published:
    """What publishing did.

    Attributes:
        name: The model.
        version: Version of the network that holds what was staged.
        changed: Whether anything was changed.
        dropped: Older versions that were removed.
    """

    name: str
    version: int
    changed: bool
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Publication:
    """What has to be done, decided before anything is done."""

    published: Published
    changes: tuple[Change, ...]
    contents: dict[str, Path]


def publish(
    staged: Path, repository: Path, *, replace: bool = False, disk: Disk | None = None
) -> Published:
    """Adds a staged model to a repository.

    Contract:
        - The network gets the next version number; where it and all that its versions share are
          what the newest version is already, nothing is done. An ONNX file's metadata (revision,
          recipe) do not count.
        - One description and one first step serve every version of the network. Where what decides
          an answer changed (geometry, intensity, tensors, heads, the segments' codes, what runs the
          steps), versions that are there already would answer wrongly if they were loaded again.
          So this is refused, unless ``replace`` says that they are to go in the same step.
        - A failure leaves the repository byte for byte as it was; what a killed process left half
          done is undone by the next publication.
        - A server serves the new version after it is told to load the model again, while it goes
          on answering. After ``replace`` that is not enough: workers plan with the description they
          began with. Stop them first, and start them again after the server has loaded the model.

    Args:
        staged: Folder that holds the three folders of one model with one version of its network.
        repository: The model repository.
        replace: Whether older versions may be dropped.
        disk: The file system, for tests.

    Raises:
        PublishError: The repository could not be changed, or must not be without ``replace``.
    """
    disk = disk or Disk()
    if not repository.is_dir():
        raise PublishError(f"{repository}: expected a folder, the model repository; make it first")
    try:
        with _locked(repository):
            recover(repository, disk)
            publication = _decide(staged, repository, replace=replace)
            if publication.changes:
                apply_changes(repository, publication.changes, publication.contents, disk)
    except OSError as error:
        what = f"{error.filename or staged}: {error.strerror or error}"
        if is_pending(repository):
            raise PublishError(
                f"{repository} is half changed, and undoing that failed too ({what}); mend the "
                "cause and publish again: that undoes it first"
            ) from error
        raise PublishError(f"{repository} is as it was: {what}") from error
    return publication.published


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Holds the repository against other publications; the lock ends with this process."""
    handle = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PublishError(
                f"{repository}: another publication is under way; publish again when it has ended"
            ) from error
        yield
    finally:
        os.close(handle)


def _decide(staged: Path, repository: Path, *, replace: bool) -> _Publication:
    source = _staged_model(staged)
    target = ModelFolders(repository, source.name)
    fresh = source.version_files(source.versions[0])
    versions = target.versions
    changed_meaning = _changed_meaning(source, target) if versions else []
    if changed_meaning and not replace:
        raise PublishError(
            f"{repository}: {source.name} has {_count(versions)}, which would answer wrongly after "
            f"a change of {', '.join(changed_meaning)}; publish with replace to drop "
            f"{'it' if len(versions) == 1 else 'them'}, or give the model another name"
        )
    newest = versions[-1] if versions else 0
    same = newest and not changed_meaning and _same(fresh, target.version_files(newest))
    version = newest if same else newest + 1
    dropped = versions if changed_meaning else ()
    net = f"{source.name}{Step.NET}"
    contents = {} if same else {f"{net}/{version}/{path}": file for path, file in fresh.items()}
    added = dict.fromkeys(contents, ChangeKind.ADD)
    shared, obsolete = _shared_changes(source, target)
    staged_files = source.shared_files()
    contents |= {path: staged_files[path] for path in shared}
    changes = (
        *_changes(added | shared, repository),
        *(Change(ChangeKind.REMOVE, path) for path in obsolete),
        *(Change(ChangeKind.REMOVE, f"{net}/{old}") for old in dropped),
    )
    published = Published(source.name, version, bool(changes), dropped if changes else ())
    return _Publication(published, changes, contents)


def _staged_model(staged: Path) -> ModelFolders:
    try:
        specs = find_model_specs(staged)
    except SpecError as error:
        raise PublishError(f"{staged}: {error}") from error
    if len(specs) != 1:
        raise PublishError(f"{staged}: expected one staged model, got {len(specs)}")
    model = ModelFolders(staged, specs[0].name)
    if len(model.versions) != 1:
        raise PublishError(f"{model.net}: expected one version, got {[*model.versions]}")
    return model


def _changed_meaning(source: ModelFolders, target: ModelFolders) -> list[str]:
    new = source.meaning()
    try:
        old = target.meaning()
    except PublishError as error:
        return [f"what cannot be read any more ({error})"]
    return [key for key in new if new[key] != old[key]]


def _same(fresh: dict[str, Path], published: dict[str, Path]) -> bool:
    """Whether two versions answer alike: the same files, wherever they say that they come from."""
    kept = [{k: v for k, v in files.items() if k != PROVENANCE} for files in (fresh, published)]
    if kept[0].keys() != kept[1].keys():
        return False
    return all(_content(path) == _content(kept[1][name]) for name, path in kept[0].items())


def _content(path: Path) -> bytes:
    """Hash of a file; of an ONNX file without its metadata, which name revision and recipe."""
    content = path.read_bytes()
    if path.suffix == ".onnx":
        with contextlib.suppress(DecodeError):  # what is no ONNX file counts as it is
            model = onnx.ModelProto.FromString(content)
            model.ClearField("metadata_props")
            content = model.SerializeToString(deterministic=True)
    return sha256(content).digest()


def _shared_changes(
    source: ModelFolders, target: ModelFolders
) -> tuple[dict[str, ChangeKind], list[str]]:
    """Shared files that come in, and those that go.

    Only inside version folders does everything belong to us; beside them an operator may keep a
    configuration or a note of their own.
    """
    new, old = source.shared_files(), target.shared_files()
    hashes, there = file_hashes(new), file_hashes(old)
    comes = {
        path: ChangeKind.REPLACE if path in old else ChangeKind.ADD
        for path in new
        if hashes[path] != there.get(path)
    }
    goes = [path for path in old if path not in new and path.split("/")[1].isdecimal()]
    return comes, goes


def _changes(kinds: dict[str, ChangeKind], repository: Path) -> tuple[Change, ...]:
    """One change for each file that is replaced, and for each topmost path that is added."""
    changes = dict.fromkeys(
        Change(kind, path if kind is ChangeKind.REPLACE else _topmost(path, repository))
        for path, kind in kinds.items()
    )
    return tuple(changes)


def _topmost(path: str, repository: Path) -> str:
    """The highest folder on the way to a new file that is not there yet, or the file."""
    parts = path.split("/")
    ways = ("/".join(parts[:length]) for length in range(1, len(parts)))
    return next((way for way in ways if not (repository / way).exists()), path)


def _count(versions: tuple[int, ...]) -> str:
    return f"version{'' if len(versions) == 1 else 's'} {', '.join(map(str, versions))}"

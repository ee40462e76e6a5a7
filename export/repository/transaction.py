"""Changes to a folder that happen whole or not at all, also when the process is killed.

copies ─▶ journal ─▶ moves ─▶ journal removed (from here on the changes hold) ─▶ tidy up
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from export.repository.disk import Disk

__all__ = ("Change", "ChangeKind", "apply_changes", "is_pending", "recover", "work_folder")

JOURNAL = "journal.json"
NEW, OLD = "new", "old"


class ChangeKind(StrEnum):
    """What happens to a path."""

    ADD = "add"
    REPLACE = "replace"
    REMOVE = "remove"


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        kind: ``add`` a file or folder that is not there, ``replace`` a file, ``remove`` either.
        path: Path in the folder that is changed.
    """

    kind: ChangeKind
    path: str


def work_folder(root: Path) -> Path:
    """Where the changes are prepared: beside the folder, or in it where it is a mount point.

    Moving is one step only within a file system. The name begins with a dot and no digit, so that
    Triton takes it neither for a model that can be asked for nor for a version.
    """
    beside = root.parent.stat().st_dev == root.stat().st_dev and os.access(root.parent, os.W_OK)
    return (root.parent if beside else root) / f".{root.name}.publishing"


def apply_changes(
    root: Path, changes: Iterable[Change], contents: Mapping[str, Path], disk: Disk
) -> None:
    """Makes changes in their order; whatever goes wrong, the folder is as it was.

    Args:
        root: The folder.
        changes: What to do.
        contents: For every file that comes in, its path in the folder and where it lies now.
        disk: The file system.

    Raises:
        OSError: Something went wrong. Where even undoing did, the next ``recover`` does it.
    """
    work, changes = work_folder(root), tuple(changes)
    try:
        _prepare(root, work, changes, contents, disk)
        for change in changes:
            _do(change, root, work, disk)
        for folder in _parents(root, changes):
            disk.flush(folder)
        disk.remove(work / JOURNAL)
    except BaseException:
        recover(root, disk)
        raise
    _tidy(work, disk)


def is_pending(root: Path) -> bool:
    """Whether changes to the folder are half done, under way or interrupted."""
    return (work_folder(root) / JOURNAL).exists()


def recover(root: Path, disk: Disk) -> bool:
    """Undoes what an interrupted process left half done.

    Returns:
        Whether there was something to undo.

    Raises:
        OSError: It could not be undone; it can be tried again.
    """
    work = work_folder(root)
    journal = work / JOURNAL
    undone = journal.exists()
    if undone:
        listed = json.loads(journal.read_text(encoding="utf-8"))
        changes = tuple(Change(ChangeKind(entry["kind"]), entry["path"]) for entry in listed)
        for change in reversed(changes):
            _undo(change, root, work, disk)
        for folder in _parents(root, changes):
            disk.flush(folder)
        disk.remove(journal)
    _tidy(work, disk)
    return undone


def _prepare(
    root: Path,
    work: Path,
    changes: tuple[Change, ...],
    contents: Mapping[str, Path],
    disk: Disk,
) -> None:
    """Everything that needs space on the medium, before anything is changed."""
    for path, source in contents.items():
        disk.make_folder((work / NEW / path).parent)
        disk.copy(source, work / NEW / path)
    for change in changes:
        disk.make_folder((work / OLD / change.path).parent)
        if change.kind is ChangeKind.REPLACE:
            disk.copy(root / change.path, work / OLD / change.path)
    for folder in (path for path in sorted(work.rglob("*")) if path.is_dir()):
        disk.flush(folder)
    # Under another name first: a journal is there whole or not at all.
    draft = work / f"{JOURNAL}.draft"
    disk.write(draft, json.dumps([asdict(change) for change in changes], indent=1))
    disk.move(draft, work / JOURNAL)
    disk.flush(work)


def _do(change: Change, root: Path, work: Path, disk: Disk) -> None:
    target = root / change.path
    if change.kind is ChangeKind.REMOVE:
        disk.move(target, work / OLD / change.path)
    else:
        disk.move(work / NEW / change.path, target)


def _undo(change: Change, root: Path, work: Path, disk: Disk) -> None:
    """Right whether or not the change was made, and whether or not it was undone already."""
    target, new, old = root / change.path, work / NEW / change.path, work / OLD / change.path
    if change.kind is ChangeKind.ADD:
        if target.exists() and not new.exists():
            disk.move(target, new)
    elif old.exists():
        disk.move(old, target)


def _parents(root: Path, changes: tuple[Change, ...]) -> tuple[Path, ...]:
    """Folders in which entries changed and that are there."""
    folders = {(root / change.path).parent for change in changes}
    return tuple(sorted(folder for folder in folders if folder.is_dir()))


def _tidy(work: Path, disk: Disk) -> None:
    """Removes the work folder. What cannot be removed now harms nobody; the next one tries."""
    try:
        if work.exists():
            disk.remove_tree(work)
    except OSError:
        return

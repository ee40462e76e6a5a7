"""What tests of publishing share: a staged model without weights, and disks that fail."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.repository import disk
from export.repository.disk import Disk
from export.repository.options import Serving
from export.repository.publishing import publish
from export.repository.staging import stage
from preprocess.spec import ModelSpec

__all__ = (
    "FailingDisk",
    "WatchedDisk",
    "kill_everywhere",
    "kill_self",
    "raise_no_space",
    "snapshot",
    "stage_model",
)

OPERATIONS = ("make_folder", "copy", "write", "move", "remove", "remove_tree", "flush")
Tree = dict[str, bytes | None]


class WatchedDisk(Disk):
    """Calls ``before(number, name, arguments)`` before each operation; numbers begin with 1."""

    def __init__(self, before: Callable[[int, str, tuple[Path, ...]], None]) -> None:
        self.done: list[str] = []
        self._before = before

    def _tell(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.done.append(name)
        self._before(len(self.done), name, arguments)


def _watched(name: str) -> Callable[..., Any]:
    def method(self: WatchedDisk, *arguments: Any) -> Any:
        self._tell(name, arguments)
        return getattr(Disk, name)(self, *arguments)

    return method


for _name in OPERATIONS:
    setattr(WatchedDisk, _name, _watched(_name))


class FailingDisk(WatchedDisk):
    """A disk that is full at one operation, or from it on.

    Args:
        first: Number of the operation that fails.
        last: Number of the last one that does.
    """

    def __init__(self, first: int, last: int) -> None:
        super().__init__(self._fail)
        self._range = range(first, last + 1)

    def _fail(self, number: int, name: str, arguments: tuple[Path, ...]) -> None:
        if number in self._range:
            raise_no_space(name, arguments)


def raise_no_space(name: str, arguments: tuple[Path, ...]) -> None:
    """Fails as a full disk does: part of a file is written, then there is no space."""
    path = arguments[-1] if name != "write" else arguments[0]
    if name in {"copy", "write"}:
        path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def kill_self() -> None:
    """Ends this process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)


def snapshot(folder: Path) -> Tree:
    """Every path below a folder with its content, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def stage_model(folder: Path, spec: ModelSpec, content: bytes, **changes: Any) -> Path:
    """Stages a model whose network is some bytes."""
    source = folder.with_name(f"{folder.name}.onnx")
    source.write_bytes(content)
    stage(folder, spec, Serving(**changes), {"model.onnx": source}, facts={"recipe": "tests"})
    return folder


def kill_everywhere(staged: Path, repositories: list[Path], *, replace: bool) -> list[str]:
    """Publishes into each repository, killed before the first, second ... operation.

    To be called in a process of its own without threads: it forks. Nothing is flushed, which only
    a power cut would tell.

    Returns:
        Name of the operation before which each publication was killed, "" if it ended first.
    """
    disk._flush = lambda path: None
    return [_killed_at(number, staged, one, replace) for number, one in enumerate(repositories, 1)]


def _killed_at(number: int, staged: Path, repository: Path, replace: bool) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:

        def before(count: int, name: str, arguments: tuple[Path, ...]) -> None:
            if count == number:
                os.write(write, name.encode())
                kill_self()

        publish(staged, repository, replace=replace, disk=WatchedDisk(before))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        name = told.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) != bool(name):
        raise RuntimeError(f"operation {number} {name!r}: status {status}")
    return name

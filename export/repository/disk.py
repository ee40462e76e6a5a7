"""Everything that publishing does to a file system, one method for each operation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ("Disk",)


class Disk:
    """The file system. A test makes single operations fail by overriding them."""

    def make_folder(self, path: Path) -> None:
        """Makes a folder and those above it; it may exist."""
        path.mkdir(parents=True, exist_ok=True)

    def copy(self, source: Path, target: Path) -> None:
        """Copies a file, times included, and flushes it."""
        shutil.copy2(source, target)
        _flush(target)

    def write(self, path: Path, text: str) -> None:
        """Writes a file and flushes it."""
        path.write_text(text, encoding="utf-8")
        _flush(path)

    def move(self, source: Path, target: Path) -> None:
        """Moves a file or folder within the file system, in one step; replaces a file."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Removes a file."""
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        """Removes a folder with all that is in it."""
        shutil.rmtree(path)

    def flush(self, folder: Path) -> None:
        """Writes a folder's entries to the medium, so that they survive a power cut."""
        _flush(folder)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

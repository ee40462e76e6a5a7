"""Closes the shared memory of Triton's Python backend to other users of the machine.

Triton makes the regions through which pixels travel readable for everyone (mode 0644, whatever the
umask says). A model closes its own before its first request.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ("close_regions",)

_MAPS = Path("/proc/self/maps")
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - where Linux keeps them, not a place for files of ours


def close_regions() -> None:
    """Let only the owner use the shared memory regions that this process has open."""
    lines = _MAPS.read_text().splitlines()
    # proc(5): address, permissions, offset, device, inode, path
    paths = {fields[5] for fields in (line.split(maxsplit=5) for line in lines) if len(fields) == 6}
    for path in paths:
        if path.startswith(_SHARED_MEMORY) and not path.endswith(" (deleted)"):
            Path(path).chmod(0o600)

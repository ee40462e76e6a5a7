"""Which named process another process belongs to: itself or the nearest named ancestor."""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ("owner_of",)


def owner_of(pid: int, parents: Mapping[int, int], named: Collection[int]) -> int | None:
    """The nearest named process among a process and its ancestors; None where there is none.

    Args:
        pid: The process.
        parents: Parent of every process.
        named: Process ids.
    """
    while pid not in named:
        if pid not in parents or pid == parents[pid]:
            return None
        pid = parents[pid]
    return pid

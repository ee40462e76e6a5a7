"""What is tried, for a machine: few values, those first that usually matter most."""

from __future__ import annotations

import psutil

from export.tuning.searching import Axis

__all__ = ("cpu_axes", "gpu_axes")


def cpu_axes(cores: int, streams: int) -> tuple[Axis, ...]:
    """The settings of the cpu profile that are tried.

    Args:
        cores: Cores of the machine, see ``available_cores``.
        streams: How many OpenVINO takes by itself.
    """
    physical = min(psutil.cpu_count(logical=False) or cores, cores)
    others = _ascending(1, physical // 2, physical, cores, without=streams)
    more = (streams, 2 * streams, 3 * streams)
    axes = [
        Axis("streams", (None, *others)),
        Axis("requests", (None, *_ascending(*more, without=streams + 1))),
        Axis("pinning", (None, False, True)),
        Axis("single_threads", (None, *_ascending(physical // 2, physical, without=cores))),
        Axis("instances", tuple(dict.fromkeys((1, min(2, cores))))),
    ]
    if physical < cores:
        axes.insert(1, Axis("hyper_threading", (None, False, True)))
    return tuple(axes)


def gpu_axes(batch: tuple[int, int, int]) -> tuple[Axis, ...]:
    """The settings of the gpu profile that are tried.

    Args:
        batch: The recipe's smallest, most frequent and largest batch.
    """
    low, _, high = batch
    powers = (1 << n for n in range(high.bit_length()))
    best = (None, *(size for size in powers if low <= size <= high))
    return (Axis("best_batch", best), Axis("optimisation_level", (None, 4, 5)))


def _ascending(*counts: int, without: int = 0) -> tuple[int, ...]:
    return tuple(sorted({count for count in counts if count >= 1} - {without}))

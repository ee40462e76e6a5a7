"""What is tried, for a machine: few values, those first that usually matter most."""

from __future__ import annotations

import psutil

from export.tuning.searching import Axis

__all__ = ("cpu_axes", "gpu_axes")

DELAYS_US = (0, 500)
LARGER_BATCHES = (2, 4)


def cpu_axes(cores: int, batch: int, streams: int) -> tuple[Axis, ...]:
    """The settings of the cpu profile that are tried.

    Args:
        cores: Cores of the machine, see ``available_cores``.
        batch: The recipe's largest batch. Smaller ones are not tried: they would refuse what
            workers send together.
        streams: How many OpenVINO takes by itself.
    """
    physical = min(psutil.cpu_count(logical=False) or cores, cores)
    others = _ascending(1, physical // 2, physical, cores, without=streams)
    axes = [
        Axis("streams", (None, *others)),
        Axis("requests", (None, *_ascending(streams, 3 * streams, 4 * streams))),
        Axis("pinning", (None, False, True)),
        Axis("single_threads", (None, *_ascending(physical // 2, physical, without=cores))),
        Axis("batch", (None, *(factor * batch for factor in LARGER_BATCHES))),
        Axis("delay_us", DELAYS_US),
        Axis("preferred", ((), tuple(size for size in (batch // 2, batch) if size > 1))),
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

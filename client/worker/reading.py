"""Reads what came from outside, in a process of its own.

bundle ──read_bundle_study──▶ series │ refusals
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from client.dicom.reader import read_study
from client.dicom.series import StudyContent
from client.ingest.bundle import read_bundle
from client.limits import BundleLimits, ReadLimits

__all__ = ("read_bundle_study",)


def read_bundle_study(
    bundle: NDArray[np.uint8],
    room: NDArray[np.uint8],
    bundle_limits: BundleLimits,
    read_limits: ReadLimits,
    modalities: Collection[str],
    *,
    processes: int = 1,
) -> tuple[StudyContent, int]:
    """Read a decrypted bundle into checked series.

    Args:
        bundle: The bundle; what it held is lost. Uncompressed series stay in its memory, if it can
            be written.
        room: Memory to put other pixels into, as long as it lasts.
        bundle_limits: What the bundle may hold.
        read_limits: What its files may ask for.
        modalities: Of series that some model in service takes.
        processes: Cores to decode compressed frames on.

    Returns:
        What was read, and how many bytes of ``room`` were written.

    Raises:
        Rejected: The bundle itself is not one; refusals of single series are in the answer.
    """
    files = read_bundle(bundle.data, bundle_limits)
    memory = _Room(room)
    content = read_study(files, read_limits, modalities, memory.array, bundle, processes=processes)
    return content, memory.used


class _Room:
    """Hands out memory from its beginning to its end, and fresh memory after that."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self._memory = memory
        self.used = 0

    def array(self, shape: tuple[int, ...]) -> NDArray[np.int16]:
        end = self.used + 2 * int(np.prod(shape, dtype=np.int64))
        if end > len(self._memory):
            return np.empty(shape, np.int16)
        taken, self.used = self._memory[self.used : end], end
        return taken.view(np.int16).reshape(shape)

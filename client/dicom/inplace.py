"""Memory for a series' pixels, where its files lie: of uncompressed files hardly more is needed.

    │head│pixels of file 1│head│pixels of file 2│…  ──▶  │file 1│file 2│…  ──▶  slices in order

Every frame moves to the left, or stays: taken one after the other, none reaches what is still to
be read. A series takes the memory of its own files only, and only if no file of another one lies
between them, so that it can still be refused when others were moved, and others can be read after
it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.dicom.parsing import Instance
from client.dicom.pixels import NATIVE_SYNTAXES, PixelLayout
from client.dicom.plain import PlainAttributes

__all__ = ("FileMemory",)

Key = TypeVar("Key", bound=Hashable)

_ALIGNMENT_BYTES = 64
_Span = tuple[int, int]
"""Addresses of the first byte, and of the one behind the last."""


class FileMemory(Generic[Key]):
    """The memory that the files of a study lie in.

    Args:
        memory: Where they lie. What cannot be written is left as it is.
        groups: The instances of each series that may still be read.
    """

    def __init__(self, memory: NDArray[np.uint8], groups: Mapping[Key, Sequence[Instance]]) -> None:
        self._memory = memory
        self._whole = _span(memory.data)
        hulls = {key: _hull(instances) for key, instances in groups.items()}
        self._apart = _apart(hulls) if memory.flags.writeable else frozenset()

    def room(
        self, key: Key, instances: Sequence[Instance], layouts: Sequence[PixelLayout]
    ) -> NDArray[np.int16] | None:
        """Memory of a series' files that takes its frames in the order in which they came.

        Each frame is to be put to its place before the next instance's is. From the first one on
        nothing else can be read from the files of the series.

        Args:
            key: Of its group.
            instances: Those of the group that are used.
            layouts: Theirs, of one matrix size.

        Returns:
            [frames, rows, columns]; None where it would not do: compressed or 8-bit pixels, files
            of other series in between, files in another order than that of their addresses.
        """
        movable = all(map(_is_movable, instances, layouts))
        if not movable or key not in self._apart:
            return None
        begin, end = _hull(instances)
        start = behind = -(-begin // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        for instance, layout in zip(instances, layouts, strict=True):
            first, last = _span(instance.pixels)
            if first < behind or last - first < layout.decoded_bytes:
                return None
            behind = first + layout.decoded_bytes
        if not self._whole[0] <= begin <= behind <= end <= self._whole[1]:
            return None
        length = sum(layout.decoded_bytes for layout in layouts)
        place = start - self._whole[0]
        room = self._memory[place : place + length].view(np.int16)
        return room.reshape(-1, layouts[0].rows, layouts[0].columns)


def _is_movable(instance: Instance, layout: PixelLayout) -> bool:
    """Whether the pixels come straight from the file, two bytes each, and the header does not."""
    return (
        layout.allocated_bytes == 2
        and instance.transfer_syntax in NATIVE_SYNTAXES
        and isinstance(instance.dataset, PlainAttributes)
    )


def _apart(hulls: Mapping[Key, _Span]) -> frozenset[Key]:
    """Groups between whose files no file of another group lies."""
    ranked = sorted(hulls.items(), key=lambda entry: entry[1])
    found: set[Key] = set()
    behind = 0
    for number, (key, (begin, end)) in enumerate(ranked, start=1):
        following = ranked[number][1][0] if number < len(ranked) else end
        if behind <= begin and end <= following:
            found.add(key)
        behind = max(behind, end)
    return frozenset(found)


def _hull(instances: Sequence[Instance]) -> _Span:
    spans = [_span(instance.content) for instance in instances]
    return min(begin for begin, _ in spans), max(end for _, end in spans)


def _span(data: bytes | memoryview | None) -> _Span:
    array = np.frombuffer(data or b"", np.uint8)
    begin = int(array.__array_interface__["data"][0])
    return begin, begin + len(array)

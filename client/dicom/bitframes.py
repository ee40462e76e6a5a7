"""Packs structures as frames of single bits, one after the other without a gap.

mask + tally ──which frames, where their bits begin──▶ pixel data (PS3.5 8.1.1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.dicom.tally import Tally

__all__ = ("BitFrame", "pack_frames", "packed_bytes")


@dataclass(frozen=True)
class BitFrame:
    """One frame: the voxels of a structure in a slice.

    Attributes:
        value: The structure's value in the mask.
        slice_index: The slice.
        rank: Its place among the slices that have frames, from 1, in the order of the frames.
    """

    value: int
    slice_index: int
    rank: int


def packed_bytes(frames: int, shape: tuple[int, int]) -> int:
    """Bytes of pixel data: the bits of all frames, filled up to an even number of bytes."""
    return -(-frames * shape[0] * shape[1] // 16) * 2


def pack_frames(
    mask: NDArray[np.uint8], frames: Sequence[BitFrame], tally: Tally, out: NDArray[np.uint8]
) -> None:
    """Sets the frames' bits: first pixel in the lowest bit, each frame right behind the last.

    Args:
        mask: Classes [slices, rows, columns], C-contiguous.
        frames: What to pack, in the order of the frames.
        tally: Where it lies.
        out: Where to, ``packed_bytes`` long and all 0.
    """
    rows, columns = mask.shape[1:]
    scratch = np.zeros(rows * columns + 8, dtype=np.bool_)
    # Slice by slice, so that each is read from memory once.
    for number, frame in sorted(enumerate(frames), key=lambda entry: entry[1].slice_index):
        place = frame.slice_index, frame.value
        first, last = int(tally.first_row[place]), int(tally.last_row[place])
        if first < 0:
            continue
        labels = mask[frame.slice_index, first : last + 1].reshape(-1)
        start = (number * rows + first) * columns
        lead = start % 8
        bits = scratch[: lead + len(labels)]
        bits[:lead] = False
        np.equal(labels, frame.value, out=bits[lead:])
        packed = np.packbits(bits, bitorder="little")
        # The frames before and behind may have bits in the first and the last byte.
        out[start // 8 : start // 8 + len(packed)] |= packed

"""Packs structures as frames of single bits, one after the other without a gap.

mask + tally ──which frames, where their bits begin──▶ pixel data (PS3.5 8.1.1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from client.dicom.tally import Tally
from preprocess.foldedmask import FoldedMask

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
    mask: FoldedMask, frames: Sequence[BitFrame], tally: Tally, out: NDArray[np.uint8]
) -> None:
    """Sets the frames' bits: first pixel in the lowest bit, each frame right behind the last.

    Args:
        mask: Classes [slices, rows, columns].
        frames: What to pack, in the order of the frames.
        tally: Where it lies.
        out: Where to, ``packed_bytes`` long and all 0.
    """
    rows, columns = mask.grid
    line_of_row, bar_of_column = mask.line_of_row(), mask.bar_of_column()
    # Slice by slice, so that each is expanded once.
    order = sorted(enumerate(frames), key=lambda entry: entry[1].slice_index)
    for index, group in groupby(order, key=lambda entry: entry[1].slice_index):
        found = np.flatnonzero(tally.voxels[index])
        if len(found) == 0:
            continue
        lines = slice(
            int(line_of_row[tally.first_row[index, found].min()]),
            int(line_of_row[tally.last_row[index, found].max()]) + 1,
        )
        bars = slice(
            int(bar_of_column[tally.first_column[index, found].min()]),
            int(bar_of_column[tally.last_column[index, found].max()]) + 1,
        )
        wide = mask.wide(index, lines, bars)
        for number, frame in group:
            top, bottom = tally.first_row[index, frame.value], tally.last_row[index, frame.value]
            line = line_of_row[top : bottom + 1] - lines.start
            voxels = wide[line[0] : line[-1] + 1] == frame.value
            _set_bits(voxels, line - line[0], (number * rows + int(top)) * columns, out)


def _set_bits(
    voxels: NDArray[np.bool_], line: NDArray[np.intp], start: int, out: NDArray[np.uint8]
) -> None:
    """Sets the bits of rows, each one of the lines, from bit ``start`` on."""
    columns = voxels.shape[1]
    if columns % 8 == 0:
        packed = np.packbits(voxels, axis=1, bitorder="little")
        target = out[start // 8 : (start + len(line) * columns) // 8].reshape(len(line), -1)
        np.take(packed, line, axis=0, out=target, mode="clip")
        return
    lead = start % 8
    bits = np.zeros(lead + len(line) * columns, dtype=np.bool_)
    bits[lead:] = voxels[line].reshape(-1)
    packed = np.packbits(bits, bitorder="little")
    # The frames before and behind may have bits in the first and the last byte.
    out[start // 8 : start // 8 + len(packed)] |= packed

"""Volumes of single bits: 64 voxels of a row in a word, so that one operation moves them all.

voxels ─▶ pack ─▶ eroded │ grown │ Parts (connected through faces) ─▶ unpack ─▶ voxels
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ("Bits", "Parts", "eroded", "grown", "pack", "unpack")

Bits = NDArray[np.uint64]
"""uint64 [slices, rows, words]; voxel (slice, row, column) is bit ``column % 64`` of word
``column // 64``. Bits beyond the last column are 0."""

Run = tuple[NDArray[np.intp], Bits]
"""Word (flat index) and lowest bit of runs, at most one run of each word."""

ONE, TOP = np.uint64(1), np.uint64(63)


def pack(voxels: NDArray[np.bool_]) -> Bits:
    """Packs [slices, rows, columns]."""
    slices, rows, columns = voxels.shape
    packed = np.zeros((slices, rows, -(-columns // 64) * 8), dtype=np.uint8)
    packed[..., : -(-columns // 8)] = np.packbits(voxels, axis=-1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def unpack(bits: Bits, columns: int) -> NDArray[np.bool_]:
    """The voxels [slices, rows, columns] of ``pack``."""
    packed = bits.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(packed, axis=-1, count=columns, bitorder="little").view(np.bool_)


def eroded(bits: Bits, columns: int, steps: int, *, across: bool) -> Bits:
    """Takes the outermost layer off ``steps`` times; what lies beyond the volume counts as set.

    Args:
        bits: The volume.
        columns: Its number of columns.
        steps: Layers, at least 1.
        across: Whether neighbouring slices are neighbours; else each slice is by itself.
    """
    beyond = ~pack(np.ones((1, 1, columns), dtype=np.bool_))
    out = bits | beyond
    for _ in range(steps):
        before, out = out, out.copy()
        out &= _towards_high(before, ONE)
        out &= _towards_low(before, ONE << TOP)
        out[:, 1:] &= before[:, :-1]
        out[:, :-1] &= before[:, 1:]
        if across:
            out[1:] &= before[:-1]
            out[:-1] &= before[1:]
        out |= beyond
    return out & ~beyond


def grown(bits: Bits, within: Bits, steps: int, *, across: bool) -> Bits:
    """Adds the voxels of ``within`` that touch a face, ``steps`` times.

    Args:
        bits: The volume, a part of ``within``.
        within: Where it may grow.
        steps: Layers.
        across: Whether neighbouring slices are neighbours.
    """
    zero, out = np.uint64(0), bits
    for _ in range(steps):
        before, out = out, out.copy()
        out |= _towards_high(before, zero)
        out |= _towards_low(before, zero)
        out[:, 1:] |= before[:, :-1]
        out[:, :-1] |= before[:, 1:]
        if across:
            out[1:] |= before[:-1]
            out[:-1] |= before[1:]
        out &= within
    return out


class Parts:
    """The parts of a volume that hang together through faces, in 3D.

    Runs of set bits within one word are the vertices of a graph, their contacts its edges, so that
    the cost grows with the surface of the parts and not with their volume.
    """

    def __init__(self, bits: Bits) -> None:
        self._bits = bits
        self._starts = bits & ~(bits << ONE)
        count = np.bitwise_count(self._starts).ravel().astype(np.intp)
        self._first = np.cumsum(count) - count
        edges = [*self._contacts(0), *self._contacts(1), self._contacts_of_words(count)]
        one, other = (np.concatenate([edge[side] for edge in edges]) for side in (0, 1))
        runs = int(count.sum())
        graph = coo_array((np.ones(len(one), np.uint8), (one, other)), shape=(runs, runs))
        self._count, self._part = connected_components(graph, directed=False)

    def sizes(self) -> NDArray[np.int64]:
        """Number of voxels of each part."""
        sizes = np.zeros(self._count, dtype=np.int64)
        words = self._bits.ravel()
        for place, low in _runs(self._starts):
            word = words[place]
            length = np.bitwise_count(word & ~(word + low))
            sizes += np.bincount(self._part[self._run(place, low)], length, self._count).astype(
                np.int64
            )
        return sizes

    def touched(self, seeds: Bits) -> NDArray[np.bool_]:
        """Which parts hold a voxel of ``seeds``, a part of the volume."""
        found = np.zeros(self._count, dtype=np.bool_)
        for place, low in _runs(seeds & ~(seeds << ONE)):
            found[self._part[self._run(place, low)]] = True
        return found

    def select(self, chosen: NDArray[np.bool_]) -> Bits:
        """The chosen parts as a volume."""
        starts = np.zeros_like(self._bits)
        flat = starts.ravel()
        for place, low in _runs(self._starts):
            flat[place] |= np.where(chosen[self._part[self._run(place, low)]], low, np.uint64(0))
        # Adding its lowest bit to a run clears it, and leaves the word's other runs as they are.
        return self._bits & ~(self._bits + starts)

    def _run(self, place: NDArray[np.intp], low: Bits) -> NDArray[np.intp]:
        """Number of the run that the bit ``low`` of word ``place`` lies in."""
        upto = self._starts.ravel()[place] & (low | (low - ONE))
        return self._first[place] + np.bitwise_count(upto) - 1

    def _contacts(self, axis: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Pairs of runs that touch in neighbouring slices (axis 0) or rows (axis 1)."""
        ahead = self._bits.strides[axis] // self._bits.itemsize
        both = self._bits.copy()
        (both[:-1] if axis == 0 else both[:, :-1])[...] &= (
            self._bits[1:] if axis == 0 else self._bits[:, 1:]
        )
        (both[-1:] if axis == 0 else both[:, -1:])[...] = 0
        for place, low in _runs(both & ~(both << ONE)):
            yield self._run(place, low), self._run(place + ahead, low)

    def _contacts_of_words(
        self, count: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of runs that are one, cut by the border of two words of a row."""
        met = np.zeros(self._bits.shape, dtype=np.bool_)
        met[..., :-1] = ((self._bits[..., :-1] >> TOP) & self._bits[..., 1:]) != 0
        place = np.flatnonzero(met)
        return self._first[place] + count[place] - 1, self._first[place + 1]


def _towards_high(bits: Bits, entering: np.uint64) -> Bits:
    """Every voxel moved to the next column; ``entering`` (bit 0) comes in at the first."""
    out = bits << ONE
    out[..., 1:] |= bits[..., :-1] >> TOP
    out[..., 0] |= entering
    return out


def _towards_low(bits: Bits, entering: np.uint64) -> Bits:
    """Every voxel moved to the column before; ``entering`` (bit 63) comes in at the last."""
    out = bits >> ONE
    out[..., :-1] |= bits[..., 1:] << TOP
    out[..., -1] |= entering
    return out


def _runs(starts: Bits) -> Iterator[Run]:
    """Every set bit once, the lowest of all words first."""
    place = np.flatnonzero(starts)
    left = starts.ravel()[place]
    while len(place):
        low = left & (~left + ONE)
        yield place, low
        left ^= low
        more = left != 0
        place, left = place[more], left[more]

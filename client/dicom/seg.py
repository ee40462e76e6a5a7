"""Writes a mask as a DICOM Segmentation that lies exactly on its source images.

Series + ModelSpec ──highdicom──▶ header of one frame ─┐
mask ─▶ tally ─▶ frames ─▶ functional groups, bits ────┴─▶ Part 10 bytes
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from highdicom.spatial import get_volume_positions
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian

from client.dicom.bitframes import BitFrame, pack_frames, packed_bytes
from client.dicom.encoding import element, elements, items, joined, padded, sequence
from client.dicom.framegroups import encode_groups, image_reference
from client.dicom.provenance import Provenance
from client.dicom.segheader import encode_model
from client.dicom.series import Series
from client.dicom.tally import Tally, take_tally
from preprocess.foldedmask import FoldedMask, fold
from preprocess.spec import ModelSpec

__all__ = ("build_segmentation", "place_segmentation")

PREAMBLE_BYTES = 132
GROUP_LENGTH, GROUP_LENGTH_BYTES, TRANSFER_SYNTAX = 0x00020000, 12, 0x00020010
REFERENCED_SERIES, REFERENCED_INSTANCE, SOURCE_IMAGE = 0x00081115, 0x0008114A, 0x00082112
DIMENSION_ORGANIZATION_TYPE, NUMBER_OF_FRAMES = 0x00209311, 0x00280008
PER_FRAME_GROUPS, PIXEL_DATA = 0x52009230, 0x7FE00010


def build_segmentation(
    series: Series,
    mask: NDArray[np.uint8] | FoldedMask,
    spec: ModelSpec,
    provenance: Provenance,
    tally: Tally | None = None,
    *,
    deflated: bool = False,
) -> bytes:
    """Encodes a mask as a BINARY Segmentation Storage instance (PS3.3 A.51).

    Every segment of the model is described, so that a segment number always means the same; only
    frames with voxels are stored. A mask without any voxel is stored as the empty frames of its
    middle slice, since an instance without frames may not be.

    Args:
        series: The source; each frame refers to its source instance or frame.
        mask: uint8 [slices, rows, columns], 0 or the value of a segment.
        spec: Segments, codes, colours and the algorithm's identity.
        provenance: What made the mask.
        tally: What ``take_tally`` found in the mask; None to take it here.
        deflated: Whether to compress it: a small part of the size, for more time and fewer readers.

    Returns:
        A Part 10 file in Explicit VR Little Endian, or in Deflated Explicit VR Little Endian.

    Raises:
        ValueError: The mask is not on the series' grid, or holds a value without a segment, or the
            file would be larger than the format allows.
    """
    _on_grid(series, mask)
    tally = tally or take_tally(series.stored, mask, len(spec.segments) + 1)
    file = place_segmentation(series, mask, spec, provenance, tally).tobytes()
    return _deflated(file) if deflated else file


def place_segmentation(
    series: Series,
    mask: NDArray[np.uint8] | FoldedMask,
    spec: ModelSpec,
    provenance: Provenance,
    tally: Tally,
    *,
    room: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The same file, uncompressed, put where there is memory for it.

    highdicom builds the instance for a single frame. The other frames, their pixels and the
    references to all source images are filled in as bytes.

    Args:
        series: The source; its stored values are not read, so that they may be ``room``.
        mask: uint8 [slices, rows, columns], 0 or the value of a segment.
        spec: Segments, codes, colours and the algorithm's identity.
        provenance: What made the mask.
        tally: What ``take_tally`` found in the mask.
        room: Memory that is overwritten by the file, if it fits; None for fresh memory.

    Returns:
        The file: the beginning of ``room``, or fresh memory.

    Raises:
        ValueError: As for ``build_segmentation``.
    """
    _on_grid(series, mask)
    frames = _frames(series, tally)
    parts = elements(encode_model(series, spec, provenance)[PREAMBLE_BYTES:])
    (model,) = items(parts[PER_FRAME_GROUPS])
    groups = b"".join(encode_groups(model, series, frames))
    parts[PER_FRAME_GROUPS] = element(PER_FRAME_GROUPS, b"SQ", groups)
    _refer(parts, series)
    parts[NUMBER_OF_FRAMES] = element(NUMBER_OF_FRAMES, b"IS", padded(str(len(frames)), b" "))
    if len(spec.segments) == 1 and _evenly_spaced(series, frames):
        parts[DIMENSION_ORGANIZATION_TYPE] = element(DIMENSION_ORGANIZATION_TYPE, b"CS", b"3D")
    size = packed_bytes(len(frames), series.stored.shape[1:])
    parts[PIXEL_DATA] = element(PIXEL_DATA, b"OB", b"", size)
    head = bytes(PREAMBLE_BYTES - 4) + b"DICM" + joined(parts)
    if room is None or len(room) < len(head) + size:
        room = np.empty(len(head) + size, dtype=np.uint8)
    file = room[: len(head) + size]
    file[: len(head)] = np.frombuffer(head, np.uint8)
    file[len(head) :] = 0
    pack_frames(fold(mask), frames, tally, file[len(head) :])
    return file


def _on_grid(series: Series, mask: NDArray[np.uint8] | FoldedMask) -> None:
    if mask.shape != series.stored.shape:
        raise ValueError(f"expected a mask of {series.stored.shape}, got {mask.shape}")


def _frames(series: Series, tally: Tally) -> list[BitFrame]:
    """The frames by segment, then along the normal that makes (slice, row, column) right-handed."""
    found = tally.voxels > 0
    empty = not found.any()
    if empty:
        found[len(found) // 2, 1:] = True
    across, down = series.geometry.directions
    positions = np.array([frame.position_mm for frame in series.frames])
    order = np.argsort(positions @ np.cross(down, across), kind="stable")
    order = order[found[order].any(axis=1)]
    return [
        BitFrame(value, int(index), rank)
        for value in range(1, found.shape[1])
        for rank, index in enumerate(order, 1)
        if found[index, value]
    ]


def _refer(parts: dict[int, bytes], series: Series) -> None:
    """Refers to all source instances (PS3.3 C.12.2 and C.7.6.1), in the order of the slices."""
    several = series.frames[0].frame_number is None
    frames = series.frames if several else series.frames[:1]
    references = [image_reference(series, frame) for frame in frames]
    parts[SOURCE_IMAGE] = sequence(SOURCE_IMAGE, references)
    (content,) = items(parts[REFERENCED_SERIES])
    inner = elements(content)
    inner[REFERENCED_INSTANCE] = sequence(REFERENCED_INSTANCE, references)
    parts[REFERENCED_SERIES] = sequence(REFERENCED_SERIES, [joined(inner)])


def _evenly_spaced(series: Series, frames: Sequence[BitFrame]) -> bool:
    """Whether a single segment's frames make a volume, in the order that their sources have."""
    sources = [series.frames[index] for index in sorted(frame.slice_index for frame in frames)]
    sources.sort(key=lambda source: source.frame_number or 0)
    positions = [source.position_mm for source in sources]
    spacing, _ = get_volume_positions(positions, series.geometry.orientation, sort=False)
    return len(sources) > 1 and spacing is not None and spacing > 0


def _deflated(file: bytes) -> bytes:
    """The same file with its data set deflated (PS3.5 A.5); its meta information never is."""
    length = elements(file[PREAMBLE_BYTES : PREAMBLE_BYTES + GROUP_LENGTH_BYTES])[GROUP_LENGTH]
    start = PREAMBLE_BYTES + GROUP_LENGTH_BYTES + struct.unpack("<I", length[-4:])[0]
    meta = elements(file[PREAMBLE_BYTES + GROUP_LENGTH_BYTES : start])
    syntax = padded(DeflatedExplicitVRLittleEndian, b"\0")
    meta[TRANSFER_SYNTAX] = element(TRANSFER_SYNTAX, b"UI", syntax)
    length = element(GROUP_LENGTH, b"UL", struct.pack("<I", len(joined(meta))))
    body = zlib.compress(memoryview(file)[start:], level=1, wbits=-zlib.MAX_WBITS)
    return b"".join((file[:PREAMBLE_BYTES], length, joined(meta), body, b"\0" * (len(body) % 2)))

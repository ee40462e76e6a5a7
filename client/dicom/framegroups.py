"""Per-frame functional groups (PS3.3 C.7.6.16.2) as bytes, after the model of a single one.

highdicom's group of one frame ──taken apart once──▶ the group of every other frame
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pydicom.valuerep import format_number_as_ds

from client.dicom.bitframes import BitFrame
from client.dicom.encoding import element, elements, item, items, joined, padded, sequence
from client.dicom.series import Series, SourceFrame

__all__ = ("encode_groups", "image_reference")

DERIVATION_IMAGE, SOURCE_IMAGE = 0x00089124, 0x00082112
SOP_CLASS, SOP_INSTANCE, FRAME_NUMBER = 0x00081150, 0x00081155, 0x00081160
FRAME_CONTENT, DIMENSION_INDEX = 0x00209111, 0x00209157
PLANE_POSITION, IMAGE_POSITION = 0x00209113, 0x00200032
SEGMENT_IDENTIFICATION, SEGMENT_NUMBER = 0x0062000A, 0x0062000B


def image_reference(series: Series, frame: SourceFrame) -> bytes:
    """SOP Class and Instance of a source image (PS3.3 table 10-11)."""
    return element(SOP_CLASS, b"UI", padded(series.sop_class_uid, b"\0")) + element(
        SOP_INSTANCE, b"UI", padded(frame.sop_instance_uid, b"\0")
    )


def encode_groups(model: bytes, series: Series, frames: Sequence[BitFrame]) -> list[bytes]:
    """The items of the Per-Frame Functional Groups Sequence.

    Args:
        model: The data set of one such item, as highdicom made it for any frame of this series.
        series: The source.
        frames: What the frames are.

    Returns:
        One item for each frame. What differs between frames is exchanged: source image, position,
        dimension index values and segment; everything else is as in ``model``.
    """
    parts = elements(model)
    (derivation,) = items(parts[DERIVATION_IMAGE])
    slices = {
        index: _slice_groups(derivation, series, index) for index in {f.slice_index for f in frames}
    }
    # What differs between the frames of a slice has a fixed length, and stands last.
    index = sequence(FRAME_CONTENT, [element(DIMENSION_INDEX, b"UL", bytes(8))])[:-8]
    number = b""
    if SEGMENT_IDENTIFICATION in parts:
        number = sequence(SEGMENT_IDENTIFICATION, [element(SEGMENT_NUMBER, b"US", bytes(2))])[:-2]
    groups = []
    for frame in frames:
        derivation, position = slices[frame.slice_index]
        value = struct.pack("<H", frame.value) if number else b""
        place = struct.pack("<II", frame.value, frame.rank)
        groups.append(item(b"".join((derivation, index, place, position, number, value))))
    return groups


def _slice_groups(derivation: bytes, series: Series, index: int) -> tuple[bytes, bytes]:
    """Derivation Image and Plane Position Sequence, the same for all frames of a slice."""
    frame = series.frames[index]
    parts = elements(derivation)
    (source,) = items(parts[SOURCE_IMAGE])
    reference = elements(source) | elements(image_reference(series, frame))
    if frame.frame_number is not None:
        number = element(FRAME_NUMBER, b"IS", padded(str(frame.frame_number), b" "))
        reference[FRAME_NUMBER] = number
    parts[SOURCE_IMAGE] = sequence(SOURCE_IMAGE, [joined(reference)])
    text = "\\".join(map(format_number_as_ds, frame.position_mm))
    position = element(IMAGE_POSITION, b"DS", padded(text, b" "))
    return (
        sequence(DERIVATION_IMAGE, [joined(parts)]),
        sequence(PLANE_POSITION, [position]),
    )

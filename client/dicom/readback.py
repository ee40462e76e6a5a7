"""Reads a DICOM SEG back onto the grid of the series it was made from.

SEG bytes + Series ──source instance and frame of each SEG frame──▶ mask
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from client.dicom.series import Series

__all__ = ("read_mask", "source_series_uid")


def source_series_uid(segmentation: bytes) -> str:
    """Series Instance UID of the images that a SEG was made from."""
    dataset = dcmread(BytesIO(segmentation), specific_tags=["ReferencedSeriesSequence"])
    return str(dataset.ReferencedSeriesSequence[0].SeriesInstanceUID)


def read_mask(segmentation: bytes, series: Series) -> NDArray[np.uint8]:
    """Reads the segments of a BINARY SEG as one label map.

    Args:
        segmentation: Part 10 bytes as ``build_segmentation`` writes them.
        series: The series it refers to.

    Returns:
        Segment number of every voxel, 0 outside, uint8 [slices, rows, columns].

    Raises:
        ValueError: A frame refers to an image that is not in the series.
    """
    dataset = dcmread(BytesIO(segmentation))
    places = {
        (frame.sop_instance_uid, frame.frame_number): index
        for index, frame in enumerate(series.frames)
    }
    mask = np.zeros(series.stored.shape, dtype=np.uint8)
    pixels = dataset.pixel_array.reshape(-1, *mask.shape[1:])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for plane, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        index = places.get(_source(group))
        if index is None:
            raise ValueError("expected a segmentation of this series, got one of other images")
        mask[index][plane > 0] = _segment(group, shared)
    return mask


def _source(group: Dataset) -> tuple[str, int | None]:
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    number = source.get("ReferencedFrameNumber")
    return str(source.ReferencedSOPInstanceUID), None if number is None else int(number)


def _segment(group: Dataset, shared: Dataset) -> int:
    """Number of the frame's segment, which all frames share where there is only one."""
    holder = group if "SegmentIdentificationSequence" in group else shared
    return int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)

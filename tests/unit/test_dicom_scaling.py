"""Slices come to one scale in their places as they would one by one, and without copies."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.dicom.parsing import Inflation, parse_instance
from client.dicom.pixels import check_pixels, decode_pixels
from client.dicom.plain import Conversions
from client.dicom.quiet import quiet
from client.dicom.reader import read_study
from client.dicom.rescaling import SliceStack, replace_padding
from client.errors import RefusalCode
from client.ingest.bundle import read_bundle, study_bundle
from client.limits import BundleLimits, ReadLimits
from tests.dicom_factory import Recipe, classic_files, classic_instances, to_bytes

pytestmark = pytest.mark.unit

LIMITS = ReadLimits()
KINDS = ("<i2", "<u2", "i1", "u1")


def slices(kind: str) -> st.SearchStrategy[NDArray[Any]]:
    return arrays.arrays(np.dtype(kind), (2, 3))


def plainly(
    parts: Sequence[NDArray[Any]], slopes: Sequence[float], intercepts: Sequence[float]
) -> tuple[NDArray[np.int16], float, float]:
    """The common scale, all slices held beside the result."""
    slope, intercept = slopes[0], intercepts[0]
    shifts = [(other - intercept) / slope for other in intercepts]
    whole = all(abs(shift - round(shift)) <= 1e-6 and abs(shift) <= 65535 for shift in shifts)
    if whole and all(other == slope for other in slopes):
        moved = np.stack(
            [
                part.astype(np.int64) + round(shift)
                for part, shift in zip(parts, shifts, strict=True)
            ]
        )
        low, high = int(moved.min()), int(moved.max())
        if high - low <= 65535:
            move = 0
            if high > 32767 or low < -32768:
                move = 32768 if low >= 0 else low + 32768
            return (moved - move).astype(np.int16), slope, intercept + move * slope
    ends = [
        float(end) * k + d
        for part, k, d in zip(parts, slopes, intercepts, strict=True)
        for end in (part.min(), part.max())
    ]
    low_value, step = min(ends), (max(ends) - min(ends)) / 65535 or 1.0
    levels = [
        np.clip(np.round((part * k + (d - low_value)) / step), 0, 65535) - 32768
        for part, k, d in zip(parts, slopes, intercepts, strict=True)
    ]
    return np.stack(levels).astype(np.int16), step, low_value + 32768 * step


@settings(max_examples=300)
@given(
    parts=st.lists(st.sampled_from(KINDS).flatmap(slices), min_size=1, max_size=4),
    slope=st.sampled_from([1.0, 0.5, -2.0, 0.1]),
    other=st.sampled_from([1.0, 1.0, 1.0, 3.0]),
    steps=st.lists(st.sampled_from([0, 0, 1, -7, 40000, -65535, 70000]), min_size=4, max_size=4),
    fraction=st.sampled_from([0.0, 0.0, 0.3]),
)
def test_slices_come_to_one_scale_in_their_places(
    parts: list[NDArray[Any]], slope: float, other: float, steps: list[int], fraction: float
) -> None:
    slopes = [slope, *[slope * other] * 3][: len(parts)]
    intercepts = [-1024.0, *(-1024.0 + (step + fraction) * slope for step in steps[1:])]
    intercepts = intercepts[: len(parts)]
    room = np.full((len(parts), 2, 3), 99, dtype=np.int16)
    stack = SliceStack(room, slopes, intercepts)
    for index in reversed(range(len(parts))):
        stack.put(index, parts[index])
    scale = stack.to_common_scale()
    expected = plainly(parts, slopes, intercepts)
    assert scale.stored is room
    np.testing.assert_array_equal(scale.stored, expected[0])
    assert (scale.slope, scale.intercept) == expected[1:]


def test_tables_of_more_than_16_bits_come_to_scale_too() -> None:
    parts = [np.array([[0, 1 << 20]], dtype=np.uint32), np.array([[5, 6]], dtype=np.uint32)]
    for chosen, slopes in ((parts, [1.0, 1.0]), (parts[1:] * 2, [1.0, 1.0])):
        stack = SliceStack(np.empty((2, 1, 2), np.int16), slopes, [0.0, 0.0])
        for index, part in enumerate(chosen):
            stack.put(index, part)
        scale = stack.to_common_scale()
        expected = plainly(chosen, slopes, [0.0, 0.0])
        np.testing.assert_array_equal(scale.stored, expected[0])
        assert (scale.slope, scale.intercept) == expected[1:]


@given(
    pixels=st.sampled_from(KINDS).flatmap(slices),
    ends=st.lists(st.integers(-300, 300) | st.just(65535), min_size=1, max_size=2),
    inverted=st.booleans(),
)
def test_padding_becomes_the_darkest_value_of_the_image(
    pixels: NDArray[Any], ends: list[int], inverted: bool
) -> None:
    dataset = Dataset()
    dataset.add_new("PixelPaddingValue", "SS" if ends[0] < 0 else "US", ends[0])
    if len(ends) > 1:
        dataset.add_new("PixelPaddingRangeLimit", "SS" if ends[1] < 0 else "US", ends[1])
    values = pixels.astype(np.int64)
    padding = (values >= min(ends)) & (values <= max(ends))
    expected = values.copy()
    if padding.any() and not padding.all():
        image = values[~padding]
        expected[padding] = image.max() if inverted else image.min()
    found = replace_padding(pixels, dataset, inverted=inverted)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.sampled_from(["<i2", "<u2", "u1", "i1"]).flatmap(
        lambda kind: arrays.arrays(np.dtype(kind), (3, 5))
    ),
    unused=st.integers(0, 7),
    implicit=st.booleans(),
    tail=st.integers(0, 6).map(lambda half: 2 * half),
)
def test_native_pixels_are_what_pydicom_decodes(
    pixels: NDArray[Any], unused: int, implicit: bool, tail: int
) -> None:
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    (dataset,) = classic_instances(Recipe(pixels[np.newaxis]))
    dataset.BitsStored = dataset.BitsAllocated - unused
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData += bytes(tail + len(dataset.PixelData) % 2)
    content = to_bytes(dataset, syntax)
    with quiet():
        instance = parse_instance(content, LIMITS, Inflation(LIMITS), Conversions())
        assert not isinstance(instance.dataset, Dataset)
        found = decode_pixels(instance, check_pixels(instance, LIMITS))
        read = dcmread(DicomBytesIO(content))
        expected, _ = get_decoder(syntax).as_array(read, raw=True)
    np.testing.assert_array_equal(found[0], expected.reshape(3, 5))


def test_pixel_data_of_one_frame_too_many_is_refused() -> None:
    (dataset,) = classic_instances(Recipe(np.ones((1, 3, 4), dtype=np.int16)))
    dataset.PixelData *= 2
    (refusal,) = read_study([("1", to_bytes(dataset))], LIMITS).refusals
    assert refusal.code == RefusalCode.UNDECODABLE


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_series_takes_its_own_size_beside_the_bundle(syntax: str) -> None:
    volume = np.random.default_rng(0).integers(0, 60000, (24, 256, 256)).astype(np.uint16)
    files = classic_files(Recipe(volume, order=[*range(12, 24), *range(12)], syntax=syntax))
    bundle = bytearray(b"".join(study_bundle([content for _, content in files]).chunks()))
    read_study(read_bundle(bundle, BundleLimits()), LIMITS)
    tracemalloc.start()
    try:
        (series,) = read_study(read_bundle(bundle, BundleLimits()), LIMITS).series
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.25 * series.stored.nbytes
    np.testing.assert_array_equal(series.stored, volume.astype(np.int32) - 32768)


def test_the_stack_lies_where_the_caller_says() -> None:
    rooms: list[NDArray[np.int16]] = []

    def allocate(shape: tuple[int, int, int]) -> NDArray[np.int16]:
        rooms.append(np.full(shape, -1, dtype=np.int16))
        return rooms[-1]

    volume = np.arange(60, dtype=np.uint16).reshape(3, 4, 5) * 1000
    files = classic_files(Recipe(volume)) + classic_files(Recipe(volume, series=2))
    files += classic_files(replace(Recipe(volume[:1], series=3), spacing_mm=(0.0, 0.0)))
    content = read_study(files, LIMITS, allocate=allocate)
    assert [series.stored is room for series, room in zip(content.series, rooms, strict=True)] == [
        True,
        True,
    ]
    assert len(content.refusals) == 1

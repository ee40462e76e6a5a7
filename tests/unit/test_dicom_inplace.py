"""Pixels that stay where their files lie are those of a reading that copies them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from client.dicom.reader import read_study
from client.dicom.rescaling import SliceStack
from client.dicom.series import StudyContent
from client.errors import RefusalCode
from client.ingest.bundle import read_bundle, study_bundle
from client.limits import BundleLimits, ReadLimits
from tests.dicom_factory import Edit, Recipe, classic_files, enhanced_file
from tests.readings import content_of, damaged

pytestmark = pytest.mark.unit

LIMITS = ReadLimits()
Files = Sequence[tuple[str, bytes]]


def bundled(files: Files) -> NDArray[np.uint8]:
    stream = b"".join(study_bundle([content for _, content in files]).chunks())
    return np.frombuffer(bytearray(stream), np.uint8)


def both(files: Files) -> tuple[StudyContent, NDArray[np.uint8]]:
    """Reads twice, and compares; what was read in place, and the memory."""
    bundle, copied = bundled(files), bundled(files)
    expected = read_study(read_bundle(copied.data, BundleLimits()), LIMITS)
    found = read_study(read_bundle(bundle.data, BundleLimits()), LIMITS, memory=bundle)
    assert content_of(found) == content_of(expected)
    np.testing.assert_array_equal(copied, bundled(files))
    return found, bundle


def lie_in(memory: NDArray[np.uint8], content: StudyContent) -> list[bool]:
    return [bool(np.shares_memory(one.stored, memory)) for one in content.series]


def volume(slices: int, rows: int, columns: int, kind: type, seed: int) -> NDArray[Any]:
    ends = np.iinfo(kind)
    draw = np.random.default_rng(seed)
    return draw.integers(ends.min, ends.max, (slices, rows, columns), kind, endpoint=True)


def with_headers_that_differ(draw: random.Random) -> Edit:
    """Comments of many lengths; now and then bytes behind the pixels."""

    def edit(dataset: Dataset, _index: int) -> None:
        dataset.ImageComments = "x" * draw.choice((0, 1, 7, 100, 3000))
        if draw.random() < 0.3:
            dataset.PixelData += bytes(draw.choice((0, 2, 6)))
        if draw.random() < 0.3:
            dataset.add_new(0xFFFCFFFC, "OB", bytes(draw.choice((2, 500))))

    return edit


@st.composite
def recipes(draw: st.DrawFn, series: int) -> list[tuple[str, bytes]]:
    slices = draw(st.integers(1, 7))
    rows, columns = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    kind = draw(st.sampled_from([np.int16, np.uint16, np.uint16, np.uint8]))
    order = draw(
        st.sampled_from([list(range(slices)), list(range(slices))[::-1]])
        | st.permutations(range(slices))
    )
    padding = {"PixelPaddingValue": 0} if draw(st.booleans()) and kind is not np.int16 else {}
    recipe = Recipe(
        volume(slices, rows, columns, kind, draw(st.integers(0, 99)))
        // draw(st.sampled_from([1, 9])),
        order=order,
        series=series,
        bits_stored=draw(st.sampled_from([16, 16, 12])) if kind is not np.uint8 else 16,
        slope=draw(st.sampled_from([None, 1.0, 0.5, -2.0])),
        intercept=-3.0,
        photometric=draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
        syntax=draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])),
        attributes=padding,
    )
    seed, own = draw(st.integers(0, 99)), draw(st.sampled_from(["one", "intercepts", "slopes"]))
    further = with_headers_that_differ(random.Random(seed))

    def edit(dataset: Dataset, index: int) -> None:
        if recipe.syntax != RLELossless:
            further(dataset, index)
        if own == "intercepts":
            dataset.RescaleSlope, dataset.RescaleIntercept = 2, 4 * index
        if own == "slopes":
            dataset.RescaleSlope, dataset.RescaleIntercept = 1 + index, 0

    files = classic_files(recipe, edit)
    if draw(st.integers(0, 9)) == 0:
        files.insert(draw(st.integers(0, len(files))), files[draw(st.integers(0, slices - 1))])
    if draw(st.integers(0, 9)) == 0:
        files = [(name, damaged(content, random.Random(seed))) for name, content in files]
    return files


@settings(max_examples=100, deadline=None)
@given(st.tuples(recipes(1), recipes(2), recipes(3)), st.sampled_from(["apart", "mixed", "dealt"]))
def test_any_study_is_read_the_same_in_place(
    series: tuple[Files, Files, Files], arrangement: str
) -> None:
    files = [file for one in series for file in one]
    if arrangement == "mixed":
        random.Random(len(files)).shuffle(files)
    elif arrangement == "dealt":
        files = [one[n] for n in range(12) for one in series if n < len(one)]
    both(files)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("order", [range(9), range(8, -1, -1), [3, 0, 8, 1, 7, 5, 6, 2, 4]])
def test_uncompressed_pixels_stay_where_they_came(
    kind: type, syntax: str, order: Sequence[int]
) -> None:
    recipe = Recipe(volume(9, 40, 30, kind, 1), order=list(order), syntax=syntax)
    files = classic_files(recipe, with_headers_that_differ(random.Random(1)))
    content, bundle = both(files)
    assert lie_in(bundle, content) == [True]
    assert content.series[0].stored.flags.aligned
    assert content.series[0].stored.flags.c_contiguous


def test_series_that_lie_apart_stay_and_mixed_ones_do_not() -> None:
    recipe = Recipe(volume(5, 20, 20, np.uint16, 1), order=[4, 2, 0, 1, 3])
    one, two = classic_files(recipe), classic_files(replace(recipe, series=2))
    content, bundle = both([*two, *one])
    assert lie_in(bundle, content) == [True, True]
    content, bundle = both([*one[:3], *two, *one[3:]])
    assert lie_in(bundle, content) == [False, False]
    third = classic_files(replace(recipe, series=3))
    content, bundle = both([*one[:3], *two, *one[3:], *third])
    assert lie_in(bundle, content) == [False, False, True]


@pytest.mark.parametrize(
    "files",
    [
        classic_files(Recipe(volume(3, 20, 20, np.uint8, 1))),
        classic_files(Recipe(volume(3, 20, 20, np.uint16, 1), syntax=RLELossless)),
        enhanced_file(Recipe(volume(3, 20, 20, np.uint16, 1))),
    ],
    ids=["8 bit", "compressed", "enhanced"],
)
def test_what_must_be_converted_goes_to_other_memory(files: Files) -> None:
    content, bundle = both(files)
    assert lie_in(bundle, content) == [False]


def test_a_series_that_is_refused_while_its_pixels_move_harms_no_other_one() -> None:
    def with_wrong_padding(dataset: Dataset, index: int) -> None:
        dataset.PixelPaddingValue = [1, 2] if index == 2 else 1

    recipe = Recipe(volume(5, 20, 20, np.uint16, 1), order=[4, 3, 0, 1, 2])
    series = [
        classic_files(replace(recipe, series=1)),
        classic_files(replace(recipe, series=2), with_wrong_padding),
        classic_files(replace(recipe, series=3)),
    ]
    content, bundle = both([file for one in series for file in one])
    assert [refusal.code for refusal in content.refusals] == [RefusalCode.INVALID_ATTRIBUTE]
    assert lie_in(bundle, content) == [True, True]


def test_files_that_came_twice_or_broken_are_in_nobodys_way() -> None:
    files = classic_files(Recipe(volume(5, 20, 20, np.int16, 1), order=[4, 3, 0, 1, 2]))
    content, bundle = both([files[1], *files, ("x", b"broken" * 99), *files[:2]])
    assert lie_in(bundle, content) == [True]
    assert [refusal.code for refusal in content.refusals] == [RefusalCode.NOT_DICOM]


def test_views_that_overlap_or_lie_in_another_order_are_copied() -> None:
    """No bundle has such files; whoever makes them gets the pixels that they show."""
    files = classic_files(Recipe(volume(4, 20, 20, np.int16, 1)))
    for order in ([1, 0, 2, 3], [3, 2, 1, 0]):
        memory = bundled(files)
        views = list(read_bundle(memory.data, BundleLimits()))
        content = read_study([views[place] for place in order], LIMITS, memory=memory)
        assert lie_in(memory, content) == [False]
        expected = read_study([files[place] for place in order], LIMITS)
        assert content_of(content) == content_of(expected)


def test_memory_that_is_read_only_or_another_one_is_left_alone() -> None:
    files = classic_files(Recipe(volume(4, 20, 20, np.int16, 1)))
    bundle, other = bundled(files), bundled(files)
    locked = bundle.view()
    locked.flags.writeable = False
    for memory in (locked, other):
        content = read_study(read_bundle(bundle.data, BundleLimits()), LIMITS, memory=memory)
        assert lie_in(memory, content) == [False]
    np.testing.assert_array_equal(bundle, bundled(files))
    np.testing.assert_array_equal(other, bundled(files))


@settings(deadline=None)
@given(st.permutations(range(9)), st.booleans())
@example(list(range(9)), True)
@example(list(range(8, -1, -1)), False)
def test_slices_come_from_any_place_to_their_own(places: list[int], unsigned: bool) -> None:
    values = np.arange(9 * 6).reshape(9, 2, 3).astype(np.uint16 if unsigned else np.int16)
    room = np.full((9, 2, 3), -1, np.int16)
    stack = SliceStack(room, [1.0] * 9, [0.0] * 9, places)
    for index in sorted(range(9), key=lambda index: places[index]):
        stack.put(index, values[index])
    scale = stack.to_common_scale()
    assert scale.stored is room
    np.testing.assert_array_equal(scale.stored, values)

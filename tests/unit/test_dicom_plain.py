"""Plain files are read in one walk, and exactly as the parser would read them."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache
from io import BytesIO
from struct import pack
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from client.dicom.attributes import numbers, text
from client.dicom.plain import Conversions, PlainAttributes, PlainFile, once, read_plain
from client.dicom.quiet import quiet
from client.limits import ReadLimits
from tests.dicom_factory import (
    Recipe,
    classic_files,
    enhanced_file,
    numbered_volume,
)
from tests.fuzz.seeds import dicom_seeds
from tests.readings import assert_same_both_ways, damaged

pytestmark = pytest.mark.unit

LIMITS = ReadLimits()
RECIPE = Recipe(numbered_volume(3, 4, 6), order=[2, 0, 1], slope=2.0, intercept=-3.0)
TIGHT = replace(LIMITS, max_elements=45, max_text_bytes=24, max_private_groups=1, max_fragments=1)


def plain(content: bytes, limits: ReadLimits = LIMITS) -> PlainFile | None:
    with quiet():
        return read_plain(memoryview(content), limits, Conversions())


def one(**changes: Any) -> bytes:
    return classic_files(replace(RECIPE, **changes))[0][1]


def with_sequences(dataset: Dataset, index: int) -> None:
    """Public and private, nested, of defined and undefined length, and private groups."""
    inner, outer = Dataset(), Dataset()
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = "1.2.3", f"1.2.{index}"
    outer.ReferencedImageSequence, outer.StudyDescription = [inner], "a scan"
    dataset.ReferencedImageSequence = [inner]
    dataset.RequestAttributesSequence = [outer, Dataset()]
    dataset["RequestAttributesSequence"].is_undefined_length = bool(index % 2)
    outer.is_undefined_length_sequence_item = True
    dataset.private_block(0x0013, "MAKER", create=True).add_new(1, "UN", b"abcd")


def with_umlauts(dataset: Dataset, index: int) -> None:
    dataset.SpecificCharacterSet = ["ISO_IR 192", "ISO_IR 100", ""][index]
    dataset.PatientName, dataset.SeriesDescription = "Müller^Jörg", "schräg"


def with_a_lossy_slice(dataset: Dataset, index: int) -> None:
    if index == 1:
        dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", "4"


def with_slopes_of_their_own(dataset: Dataset, index: int) -> None:
    dataset.RescaleSlope = 1 + index


def with_intercepts_of_their_own(dataset: Dataset, index: int) -> None:
    dataset.RescaleIntercept = 4 * index


def with_spilled_bits(dataset: Dataset, _index: int) -> None:
    spilled = np.frombuffer(dataset.PixelData, np.uint16) | np.uint16(0xA000)
    dataset.PixelData = spilled.tobytes()


@cache
def studies() -> dict[str, list[tuple[str, bytes]]]:
    """Series whose files are plain, and some whose are not."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    volume = (np.arange(3 * 32 * 32) % 251).reshape(3, 32, 32)
    syntaxes = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, *syntaxes):
        for kind in (np.int16, np.uint16, np.uint8):
            made = replace(RECIPE, volume=volume.astype(kind), syntax=syntax)
            found[f"{syntax} {kind.__name__}"] = classic_files(made)
    large = replace(RECIPE, volume=(volume * 250).astype(np.uint16))
    found["beyond int16"] = classic_files(large)
    found["several slopes"] = classic_files(large, with_slopes_of_their_own)
    found["several intercepts"] = classic_files(large, with_intercepts_of_their_own)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        for edit in (with_sequences, with_umlauts, with_a_lossy_slice):
            found[f"{syntax} {edit.__name__}"] = classic_files(replace(RECIPE, syntax=syntax), edit)
        for padding in (
            {"PixelPaddingValue": 5},
            {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 9},
        ):
            for photometric in ("MONOCHROME1", "MONOCHROME2"):
                made = replace(RECIPE, syntax=syntax, photometric=photometric, attributes=padding)
                found[f"{syntax} {photometric} {padding}"] = classic_files(made)
    for kind in (np.int16, np.uint16):
        made = replace(RECIPE, volume=RECIPE.volume.astype(kind), bits_stored=12)
        found[f"spilled {kind.__name__}"] = classic_files(made, with_spilled_bits)
    found["enhanced"] = enhanced_file(RECIPE)
    found["twice"] = [*classic_files(RECIPE), *classic_files(RECIPE)]
    found["two series"] = [*classic_files(RECIPE), *classic_files(replace(RECIPE, series=2))]
    return found


@pytest.mark.parametrize("name", studies())
def test_a_study_is_read_the_same_both_ways(name: str) -> None:
    assert_same_both_ways(studies()[name])
    assert_same_both_ways(studies()[name], TIGHT)


def test_seeds_of_the_fuzzer_are_read_the_same_both_ways() -> None:
    for content in dicom_seeds():
        assert_same_both_ways([("1.dcm", content)])
        assert_same_both_ways([("1.dcm", content)], TIGHT)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32))
def test_damaged_files_are_read_the_same_both_ways(seed: int) -> None:
    draw = random.Random(seed)
    files = list(studies()[draw.choice(list(studies()))])
    if draw.random() < 0.3:
        files = [("1.dcm", draw.choice([seed for seed in dicom_seeds() if len(seed) > 200]))]
    place = draw.randrange(len(files))
    files[place] = ("1.dcm", damaged(files[place][1], draw))
    assert_same_both_ways(files)


@pytest.mark.parametrize(
    "content",
    [
        one(),
        one(syntax=ImplicitVRLittleEndian),
        one(syntax=RLELossless),
        one(attributes={"PixelPaddingValue": 3}),
        *(content for _, content in classic_files(RECIPE, with_sequences)),
        *(content for _, content in classic_files(RECIPE, with_umlauts)),
        classic_files(replace(RECIPE, syntax=ImplicitVRLittleEndian), with_sequences)[0][1],
        one() + pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 4) + bytes(4),
    ],
)
def test_ordinary_files_are_plain(content: bytes) -> None:
    found = plain(content)
    assert found is not None
    assert found.pixels is not None
    assert np.shares_memory(np.frombuffer(found.pixels, "u1"), np.frombuffer(content, "u1"))


def swapped(content: bytes) -> bytes:
    """Study date and time in the wrong order."""
    date = re.search(rb"\x08\x00\x20\x00DA\x08\x00.{8}", content)
    time = re.search(rb"\x08\x00\x30\x00TM\x06\x00.{6}", content)
    assert date
    assert time
    return content.replace(date[0] + time[0], time[0] + date[0])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        one()[:200],
        one()[:-1],
        one() + b"\x00",
        swapped(one()),
        one().replace(b"\x18\x00\x50\x00DS", b"\x18\x00\x50\x00ZZ"),
        one().replace(b"\x18\x00\x50\x00DS", b"\x18\x00\x50\x00UN"),
        one().replace(b"DICM", b"DICN"),
        one(syntax=ExplicitVRBigEndian),
        enhanced_file(RECIPE)[0][1],
    ],
)
def test_unusual_files_are_the_parsers(content: bytes) -> None:
    assert plain(content) is None


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("max_elements", 20),
        ("max_depth", 1),
        ("max_private_groups", 0),
        ("max_text_bytes", 10),
    ],
)
def test_files_beyond_a_limit_are_the_parsers(name: str, limit: int) -> None:
    content = classic_files(RECIPE, with_sequences)[0][1]
    assert plain(content) is not None
    assert plain(content, replace(LIMITS, **{name: limit})) is None


def test_fragments_beyond_the_limit_are_the_parsers() -> None:
    content = one(syntax=RLELossless)
    assert plain(content, replace(LIMITS, max_fragments=1)) is not None
    assert plain(content, replace(LIMITS, max_fragments=0)) is None


def attributes_of(element: bytes, keyword: str) -> tuple[PlainAttributes, Dataset]:
    context = Conversions().context(implicit=False, character_set=b"", representation=b"")
    return PlainAttributes({keyword: element}, context), read_dataset(BytesIO(element), False, True)


@given(st.from_regex(r"[0-9. \x00]{0,12}", fullmatch=True) | st.text(max_size=12))
@example("1.2.840.10008\x00")
@example("1.2\x00\x00")
def test_uids_are_what_pydicom_makes_of_them(uid: str) -> None:
    raw = uid.encode("utf-8")
    element = pack("<HH2sH", 8, 0x18, b"UI", len(raw)) + raw
    mine, theirs = attributes_of(element, "SOPInstanceUID")
    with quiet():
        assert text(mine, "SOPInstanceUID") == text(theirs, "SOPInstanceUID")


_NUMBERS = st.from_regex(r"[+-]?[0-9]{0,4}\.?[0-9]{0,3}([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@given(st.lists(_NUMBERS | st.text("0123456789.eE+- \x00\n_", max_size=8), min_size=1, max_size=4))
@example(["1.", "-0", "+3e2 "])
@example(["1e999", "2", "3"])
@example(["1", "2", "3\x00"])
def test_positions_are_what_pydicom_makes_of_them(parts: list[str]) -> None:
    raw = "\\".join(parts).encode()
    element = pack("<HH2sH", 0x20, 0x32, b"DS", len(raw)) + raw
    mine, theirs = attributes_of(element, "ImagePositionPatient")
    with quiet():
        assert outcome(mine) == outcome(theirs)


def outcome(attributes: Any) -> object:
    try:
        return repr(numbers(attributes, "ImagePositionPatient", 3))
    except Exception as error:
        return type(error), str(error)


def test_values_that_repeat_are_made_once() -> None:
    made: list[str] = []

    def make(dataset: Any) -> str:
        made.append(text(dataset, "Modality"))
        return made[-1]

    conversions, files = Conversions(), classic_files(RECIPE)
    files += classic_files(replace(RECIPE, modality="CT"))
    for _, content in files:
        with quiet():
            found = read_plain(memoryview(content), LIMITS, conversions)
            assert found is not None
            assert once(found.attributes, ("Modality",), make) == text(found.attributes, "Modality")
    assert made == ["MR", "CT"]

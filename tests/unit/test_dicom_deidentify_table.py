"""Every row of PS3.15 table E.1-1, at every nesting level, through files and back."""

from __future__ import annotations

from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from dicomanonymizer.dicom_anonymization_databases import (  # type: ignore[import-untyped]
    dicomfields_2026c,
)
from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    XRayAngiographicImageStorage,
)

from client.dicom.deidentify import Profile, deidentify
from client.dicom.deidentify_files import deidentify_file
from client.dicom.deidentify_identities import Identities
from client.dicom.deidentify_table import Action, Row, basic_action, table
from client.dicom.quiet import quiet

pytestmark = pytest.mark.unit

SECRET = b"s" * 32
PROFILE = Profile(SECRET)
IDENTITIES = Identities(SECRET)
PATIENT = (0x00100010, 0x00100020)
UNKNOWN_CLASS = "1.2.3.4"
LEVELS = ("top", "in a sequence", "in a sequence of a sequence")
CARRIER = 0x00081199
"""Referenced SOP Sequence: no row names it, so that its items are cleaned and kept."""
ROWS = tuple(row for row in table().values() if row.tag >> 16 >= 8)
"""Command and directory attributes have tests of their own: no data set may hold them."""
_VALUES: dict[str, Any] = {
    "AS": "047Y",
    "DA": "19470823",
    "DT": "19470823134759.47114",
    "TM": "134759.47114",
    "DS": "47114.711",
    "IS": "4711471",
    "US": 47114,
    "SL": 47114711,
    "FD": 4711.4711,
}


def original(row: Row) -> Any:
    """A value that, where its VR has room, is found nowhere else."""
    if row.vr == "SQ":
        item = Dataset()
        item.PatientName, item.CodeMeaning = f"N{row.tag:08X}", f"M{row.tag:08X}"
        item.ReferencedSOPInstanceUID = f"1.2.826.0.1.3680043.9.{row.tag}"
        return [item]
    if row.vr in {"OB", "UN"}:
        return f"B{row.tag:08X}B".encode()
    unique = {"UI": f"1.2.826.0.1.3680043.8.{row.tag}", "UR": f"https://x.example/{row.tag:08X}"}
    return _VALUES.get(row.vr) or unique.get(row.vr, f"C{row.tag:08X}")


def instance(level: int, sop_class: str = UNKNOWN_CLASS) -> Dataset:
    """Every row's attribute at one level."""
    carrier = Dataset()
    for row in ROWS:
        carrier.add(DataElement(row.tag, row.vr or "LO", original(row)))
    carrier.SliceThickness = "47.25"
    for _ in range(level):
        outer = Dataset()
        outer.add(DataElement(CARRIER, "SQ", [carrier]))
        carrier = outer
    carrier.SOPClassUID = sop_class
    if level:
        carrier.SOPInstanceUID = "1.2.3.4.5"
    return carrier


def innermost(dataset: Dataset, level: int) -> Dataset:
    for _ in range(level):
        dataset = dataset[CARRIER].value[0]
    return dataset


def through_file(dataset: Dataset, profile: Profile = PROFILE) -> tuple[Dataset, bytes]:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = BytesIO()
    with quiet():
        dataset.save_as(stream, enforce_file_format=True)
    content = deidentify_file(stream.getvalue(), profile).content
    return dcmread(BytesIO(content)), content


def outcomes(row: Row) -> set[str]:
    return {code.removesuffix("*") for code in row.basic.split("/")}


def fault_of(row: Row, after: Dataset) -> str:
    """What is wrong with an attribute after the rule, "" if nothing."""
    if row.tag not in after:
        return "" if "X" in outcomes(row) else "gone"
    value = after[row.tag].value
    if row.vr == "UI" and outcomes(row) & {"U", "D"}:
        return "" if value == IDENTITIES.uid(original(row)) else "another UID"
    if value is None or len(value) == 0:
        return "" if "Z" in outcomes(row) else "empty"
    if row.vr == "SQ" and "U" in outcomes(row):
        before = original(row)[0].ReferencedSOPInstanceUID
        inside = value[0].ReferencedSOPInstanceUID
        return "" if inside == IDENTITIES.uid(before) else "another UID inside"
    if row.tag in PATIENT:
        return "" if str(value).startswith("HF") else "no pseudonym"
    if "D" not in outcomes(row):
        return "not empty"
    return "the original" if value == original(row) else ""


def needles(row: Row) -> list[bytes]:
    """Bytes that must not be in the file."""
    if row.vr == "SQ":  # where its UIDs are replaced, what no row names stays in its items
        item = original(row)[0]
        kept = [] if "U" in outcomes(row) else [item.CodeMeaning]
        return [str(v).encode() for v in (item.PatientName, item.ReferencedSOPInstanceUID, *kept)]
    value = original(row)
    if isinstance(value, int | float):
        return []
    return [value if isinstance(value, bytes) else value.encode()]


def test_the_table_is_the_one_of_a_maintained_library_in_full() -> None:
    lists = {"X_Z_U_STAR_TAGS": "X/Z/U*"}
    expected = {
        (tag[0] << 16 | tag[1]): lists.get(name, name.removesuffix("_TAGS").replace("_", "/"))
        for name in dir(dicomfields_2026c)
        if name.endswith("_TAGS") and name != "ALL_TAGS"
        for tag in getattr(dicomfields_2026c, name)
        if len(tag) == 2
    }
    assert {row.tag: row.basic for row in table().values()} == expected
    assert len(expected) == 652


@pytest.mark.parametrize("sop_class", [UNKNOWN_CLASS, CTImageStorage, EnhancedMRImageStorage])
@pytest.mark.parametrize("level", range(len(LEVELS)), ids=LEVELS)
def test_every_row_does_what_its_code_says_at_every_level(level: int, sop_class: str) -> None:
    after, content = through_file(instance(level, sop_class))
    inner = innermost(after, level)
    wrong = {f"{row.tag:08X} {row.name} {row.basic}": fault_of(row, inner) for row in ROWS}
    assert {name: fault for name, fault in wrong.items() if fault} == {}
    assert [row.name for row in ROWS if any(n in content for n in needles(row))] == []
    assert inner.SliceThickness == 47.25, "no row names it, so it stays"


def test_command_and_directory_attributes_go_whatever_their_code() -> None:
    dataset = instance(1)
    inner = innermost(dataset, 1)
    rows = [row for row in table().values() if row.tag >> 16 < 8]
    for row in rows:
        inner.add(DataElement(row.tag, row.vr, original(row)))
    after = innermost(deidentify(dataset, PROFILE), 1)
    assert [row.name for row in rows if row.tag in after] == []
    assert len(rows) >= 3


@pytest.mark.parametrize(
    ("keyword", "sop_class", "nested", "expected"),
    [
        # X/Z/D: General Equipment 3 in CT, Enhanced General Equipment 1 in Enhanced MR
        ("DeviceSerialNumber", CTImageStorage, False, Action.REMOVE),
        ("DeviceSerialNumber", EnhancedMRImageStorage, False, Action.DUMMY),
        ("DeviceSerialNumber", CTImageStorage, True, Action.DUMMY),
        ("DeviceSerialNumber", UNKNOWN_CLASS, False, Action.DUMMY),
        # Z/D: General Image 2C in CT, Enhanced MR Image 1
        ("ContentDate", CTImageStorage, False, Action.EMPTY),
        ("ContentDate", EnhancedMRImageStorage, False, Action.DUMMY),
        # X/Z: General Acquisition 3 in CT; Acquisition Context 2 in Enhanced MR
        ("AcquisitionDate", CTImageStorage, False, Action.REMOVE),
        ("AcquisitionContextSequence", EnhancedMRImageStorage, False, Action.EMPTY),
        # X/Z/U*: General Image 3 in CT, X-Ray Image 1C in XA
        ("SourceImageSequence", CTImageStorage, False, Action.REMOVE),
        ("ReferencedImageSequence", XRayAngiographicImageStorage, False, Action.UIDS),
        # single codes need no type
        ("StudyDate", CTImageStorage, False, Action.EMPTY),
        ("PatientBirthName", EnhancedMRImageStorage, True, Action.REMOVE),
    ],
)
def test_joined_codes_are_resolved_by_the_type_in_the_iod(
    keyword: str, sop_class: str, nested: bool, expected: Action
) -> None:
    row = table()[tag_for_keyword(keyword) or 0]
    assert basic_action(row, sop_class, nested=nested) is expected


@pytest.mark.parametrize("level", range(len(LEVELS)), ids=LEVELS)
def test_dates_move_only_where_the_option_says_so(level: int) -> None:
    dataset = instance(level)
    dataset.PatientID = "4711"
    subject = (dataset.PatientID, dataset.get("IssuerOfPatientID", ""))
    moved = datetime(1947, 8, 23) - timedelta(days=IDENTITIES.days(*subject))
    expected = {"DA": f"{moved:%Y%m%d}", "DT": f"{moved:%Y%m%d}134759.47114", "TM": "134759.47114"}
    after = innermost(through_file(dataset, Profile(SECRET, shift_dates=True))[0], level)
    rows = [row for row in ROWS if row.vr in expected]
    kept = {
        row.name for row in rows if after.get(row.tag) and after[row.tag].value == expected[row.vr]
    }
    assert kept == {row.name for row in rows if row.dates}
    assert "Study Date" in kept
    assert "Patient's Birth Date" not in kept
    assert {
        row.name: fault_of(row, after) for row in rows if not row.dates and fault_of(row, after)
    } == {}


@pytest.mark.parametrize(
    ("option", "count", "example"),
    [("keep_device", 40, "DeviceSerialNumber"), ("keep_characteristics", 8, "PatientWeight")],
)
def test_an_option_keeps_what_its_column_says_and_nothing_more(
    option: str, count: int, example: str
) -> None:
    column = option.removeprefix("keep_")
    options = {option: True}
    after, _ = through_file(instance(0), Profile(SECRET, **options))
    rows = [row for row in ROWS if row.vr not in {"", "SQ"}]
    kept = {row.name for row in rows if row.tag in after and after[row.tag].value == original(row)}
    assert kept == {row.name for row in rows if getattr(row, column) == "K"}
    assert len(kept) >= count
    assert table()[tag_for_keyword(example) or 0].name in kept

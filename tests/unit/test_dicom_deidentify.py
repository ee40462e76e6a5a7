"""De-identified files: who it was is gone, what is seen stays, and nothing is claimed in vain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)
from typer.testing import CliRunner

from client.cli.main import app
from client.crypto.keydirectory import create_key_directory
from client.dicom.attributes import text
from client.dicom.deidentify import Profile, deidentify
from client.dicom.deidentify_dates import shifted
from client.dicom.deidentify_files import deidentify_file
from client.dicom.deidentify_identities import Identities
from client.dicom.deidentify_table import table
from client.dicom.quiet import quiet
from client.dicom.reader import read_study
from client.errors import RefusalCode, Rejected
from client.limits import ReadLimits
from tests.corpus import corpus
from tests.dicom_factory import (
    Recipe,
    classic_files,
    classic_instances,
    enhanced_file,
    numbered_volume,
    to_bytes,
)

pytestmark = pytest.mark.unit

SECRET = b"s" * 32
PROFILE = Profile(SECRET)
LENIENT = Profile(SECRET, accept_burned_in_text=True)
ALL_OPTIONS = Profile(
    SECRET,
    shift_dates=True,
    keep_characteristics=True,
    keep_device=True,
    accept_burned_in_text=True,
)
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
)
SAMPLES = Path(__file__).parents[2] / "samples"
VOLUME = numbered_volume(3, 16, 12)


def one(
    edit: Callable[[Dataset], None] | None = None, syntax: str = ExplicitVRLittleEndian
) -> bytes:
    """One small CT instance."""

    def change(dataset: Dataset, _index: int) -> None:
        if edit is not None:
            edit(dataset)

    recipe = Recipe(VOLUME[:1], modality="CT", syntax=syntax)
    with quiet():
        return to_bytes(classic_instances(recipe, change)[0], syntax)


def after(content: bytes, profile: Profile = PROFILE) -> Dataset:
    return dcmread(BytesIO(deidentify_file(content, profile).content))


def refusal(content: bytes, profile: Profile = PROFILE) -> RefusalCode:
    with pytest.raises(Rejected) as error:
        deidentify_file(content, profile)
    return error.value.code


# What stays


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: UID(uid).name[:24])
def test_pixels_are_the_same_bytes_in_every_transfer_syntax(syntax: str) -> None:
    content = one(syntax=syntax)
    before, result = dcmread(BytesIO(content)), after(content)
    assert result.PixelData == before.PixelData
    assert result.file_meta.TransferSyntaxUID == syntax
    assert result["PixelData"].is_undefined_length == before["PixelData"].is_undefined_length
    assert np.array_equal(result.pixel_array, before.pixel_array)


@pytest.mark.parametrize("make", [classic_files, enhanced_file], ids=["classic", "enhanced"])
def test_our_reader_and_highdicom_see_the_same_volume(make: Callable[[Recipe], Any]) -> None:
    files = make(Recipe(VOLUME, slope=2.0, intercept=-5.0, spacing_mm=(0.7, 0.8)))
    results = [
        (str(n), deidentify_file(data, PROFILE).content) for n, (_, data) in enumerate(files)
    ]
    first, second = (read_study(f, ReadLimits()).series[0] for f in (files, results))
    assert np.array_equal(first.stored, second.stored)
    assert (first.geometry, first.origin_mm, first.slice_step_mm, first.slope, first.intercept) == (
        second.geometry,
        second.origin_mm,
        second.slice_step_mm,
        second.slope,
        second.intercept,
    )
    for (_, data), (_, result) in zip(files, results, strict=True):
        a, b = (highdicom.imread(BytesIO(content)) for content in (data, result))
        assert np.array_equal(a.get_frame(1), b.get_frame(1))


def test_the_original_is_not_changed_and_shares_nothing() -> None:
    content = one()
    dataset = dcmread(BytesIO(content))
    modality = dataset.Modality
    result = deidentify(dataset, PROFILE)
    result.Modality, result.Rows = "XX", 1
    assert (dataset.Modality, dataset.Rows) == (modality, 16)
    assert dataset == dcmread(BytesIO(content))


# What goes


def test_private_groups_curves_overlays_and_the_unknown_go_at_every_level() -> None:
    def edit(dataset: Dataset) -> None:
        item = Dataset()
        for place in (dataset, item):
            place.private_block(0x0029, "CANARY CREATOR", create=True).add_new(1, "LO", "CANARY A")
            place.add_new(0x50000010, "US", 2)
            place.add_new(0x50002500, "LO", "CANARY B")
            place.add_new(0x60001500, "LO", "CANARY C")
            place.add_new(0x60003000, "OW", b"CANARY D")
            place.add_new(0x0008FFF0, "LO", "CANARY E")
            place.add_new(0x40080100, "PN", "CANARY F")
            place.EncryptedAttributesSequence = [Dataset()]
            place.EncryptedAttributesSequence[0].EncryptedContent = b"CANARY G"
        dataset.ReferencedSOPSequence = [item]

    content = deidentify_file(one(edit), PROFILE).content
    assert b"CANARY" in one(edit)
    assert b"CANARY" not in content
    dataset = dcmread(BytesIO(content))
    for place in (dataset, dataset.ReferencedSOPSequence[0]):
        groups = {element.tag.group for element in place}
        assert groups.isdisjoint({0x0029, 0x5000, 0x6000, 0x0400, 0x4008})


def test_preamble_and_file_meta_information_are_new() -> None:
    dataset = dcmread(BytesIO(one()))
    meta = dataset.file_meta
    for keyword in ("Source", "Sending", "Receiving"):
        setattr(meta, f"{keyword}ApplicationEntityTitle", "CANARY")
        setattr(meta, f"{keyword}PresentationAddress", "https://CANARY.example")
    meta.ImplementationVersionName = "CANARY"
    meta.PrivateInformationCreatorUID = UID("1.2.3")
    meta.PrivateInformation = b"CANARY"
    dataset.preamble = b"CANARY".ljust(128, b"\0")
    stream = BytesIO()
    dataset.save_as(stream)
    assert stream.getvalue().count(b"CANARY") == 9
    result = deidentify_file(stream.getvalue(), PROFILE)
    assert b"CANARY" not in result.content
    assert result.content[:128] == bytes(128)
    read = dcmread(BytesIO(result.content))
    assert (
        read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == result.sop_instance_uid
    )


def test_a_sequence_under_another_vr_is_not_passed_on() -> None:
    def hide(dataset: Dataset) -> None:
        dataset.add_new(0x00081199, "OB", b"CANARY" * 4)  # a sequence by the dictionary
        item = Dataset()
        item.PatientName = "CANARY"
        dataset.add(DataElement(0x00180015, "SQ", [item]))  # text by the dictionary

    assert b"CANARY" not in deidentify_file(one(hide), PROFILE).content


def test_the_file_says_what_was_done() -> None:
    basic, full = after(one()), after(one(), ALL_OPTIONS)
    assert basic.PatientIdentityRemoved == "YES"
    assert "PS3.15 2026c" in basic.DeidentificationMethod
    codes = [
        [(c.CodeValue, c.CodingSchemeDesignator) for c in d.DeidentificationMethodCodeSequence]
        for d in (basic, full)
    ]
    assert codes[0] == [("113100", "DCM")]
    assert codes[1] == [(code, "DCM") for code in ("113100", "113107", "113108", "113109")]
    assert basic.LongitudinalTemporalInformationModified == "REMOVED"
    assert full.LongitudinalTemporalInformationModified == "MODIFIED"


# Identities


def test_uids_are_the_same_in_every_file_of_a_study_and_its_references() -> None:
    def refer(dataset: Dataset, index: int) -> None:
        item = Dataset()
        item.ReferencedSOPClassUID = CTImageStorage
        item.ReferencedSOPInstanceUID = "1.2.826.0.1.77.1.1"
        dataset.ReferencedInstanceSequence = [item]
        dataset.SOPInstanceUIDOfConcatenationSource = "1.2.826.0.1.77.1.2"

    files = classic_files(Recipe(VOLUME, modality="CT"), refer)
    results = [after(data) for _, data in files]
    assert (
        len({r.StudyInstanceUID for r in results})
        == len({r.SeriesInstanceUID for r in results})
        == 1
    )
    uids = [r.SOPInstanceUID for r in results]
    assert len(set(uids)) == 3
    for result in results:
        reference = result.ReferencedInstanceSequence[0]
        assert reference.ReferencedSOPClassUID == CTImageStorage
        assert reference.ReferencedSOPInstanceUID == uids[0]
        assert result.SOPInstanceUIDOfConcatenationSource == uids[1]
        assert result.FrameOfReferenceUID == Identities(SECRET).uid("1.2.826.0.1.77.0")
    other = after(files[0][1], Profile(b"t" * 32))
    assert other.SOPInstanceUID not in uids
    assert other.PatientID != results[0].PatientID


UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(
    lambda parts: "1.2." + ".".join(map(str, parts))
)


@given(UIDS, UIDS)
def test_a_new_uid_is_valid_stable_and_tells_nothing(first: str, second: str) -> None:
    names = Identities(SECRET)
    new = names.uid(first)
    assert UID(new).is_valid
    assert new.startswith("2.25.")
    assert int(new[5:]) >> 76 & 0xF == 8  # RFC 9562, version
    assert int(new[5:]) >> 62 & 0x3 == 2  # and variant
    assert names.uid(first + "\0") == new == names.uid(new)
    assert (names.uid(second) == new) == (first == second)
    assert Identities(b"t" * 32).uid(first) != new


def test_uids_that_dicom_registered_or_that_only_look_like_ours_are_told_apart() -> None:
    names = Identities(SECRET)
    assert names.uid(CTImageStorage) == CTImageStorage
    ours = names.uid("1.2.3")
    forged = f"2.25.{int(ours[5:]) ^ 1}"
    assert names.uid(forged) not in {forged, ours}
    assert Identities(b"t" * 32).uid(ours) != ours
    patient = names.patient("4711", "HOSPITAL")
    assert names.patient(patient) == patient
    assert (
        names.patient(f"HF{int(patient[2:], 16) ^ 1:032X}") != f"HF{int(patient[2:], 16) ^ 1:032X}"
    )
    assert names.patient("4711", "CLINIC") != patient == names.patient(" 4711 ", "HOSPITAL")
    assert names.patient("") == ""


def test_a_patient_is_one_pseudonym_and_one_shift_in_all_studies() -> None:
    def visit(day: str, patient: str) -> bytes:
        def edit(dataset: Dataset) -> None:
            dataset.PatientID, dataset.StudyDate = patient, day
            dataset.StudyInstanceUID = f"1.2.{day}"
            dataset.AcquisitionDateTime = f"{day}101112.5+0100"

        return one(edit)

    profile = Profile(SECRET, shift_dates=True)
    first, later, other = (
        after(content, profile)
        for content in (visit("20200228", "A"), visit("20200301", "A"), visit("20200228", "B"))
    )
    days = [datetime.strptime(d.StudyDate, "%Y%m%d").date() for d in (first, later, other)]
    assert (days[1] - days[0]).days == 2  # over the leap day
    assert days[0] != days[2]
    assert first.AcquisitionDateTime == f"{first.StudyDate}101112.5+0100"
    assert first.PatientID == later.PatientID != other.PatientID
    assert str(first.PatientName) == first.PatientID
    assert first.PatientBirthDate == ""


@pytest.mark.parametrize(
    ("value", "vr", "expected"),
    [
        ("20200301", "DA", "20200229"),
        ("2020.03.01", "DA", "20200229"),
        ("20200230", "DA", None),
        ("202003", "DA", None),
        ("20200301-20200302", "DA", None),
        ("00010101", "DA", None),
        ("SMITH", "DA", None),
        ("20200301", "DT", "20200229"),
        ("20200301101112.123456+0100", "DT", "20200229101112.123456+0100"),
        ("2020", "DT", None),
        ("20200301101112 SMITH", "DT", None),
        ("101112.5", "TM", "101112.5"),
        ("10:11", "TM", "10:11"),
        ("SMITH", "TM", None),
        ("٢٠٢٠٠٣٠١", "DA", None),
    ],
)
def test_only_whole_dates_and_times_move(value: str, vr: str, expected: str | None) -> None:
    assert shifted(value, vr, 1) == expected


def test_a_date_that_is_none_gets_the_basic_action() -> None:
    def edit(dataset: Dataset) -> None:
        dataset.StudyDate, dataset.SeriesDate = "ABOUT MAY", "CANARY"

    result = after(one(edit), Profile(SECRET, shift_dates=True))
    assert result.StudyDate == ""  # Z
    assert "SeriesDate" not in result  # X/D, type 3


def test_ages_above_89_are_told_as_90_where_ages_are_kept() -> None:
    ages = {}
    for age in ("089Y", "090Y", "104Y", "011M"):
        content = one(lambda d, age=age: setattr(d, "PatientAge", age))  # type: ignore[misc]
        ages[age] = after(content, Profile(SECRET, keep_characteristics=True)).PatientAge
        assert "PatientAge" not in after(content)
    assert ages == {"089Y": "089Y", "090Y": "090Y", "104Y": "090Y", "011M": "011M"}


# What is refused


@pytest.mark.parametrize(
    ("edit", "refused"),
    [
        ({}, False),
        ({"BurnedInAnnotation": "YES"}, True),
        ({"BurnedInAnnotation": "NO"}, False),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}, False),
        ({"SOPClassUID": UltrasoundImageStorage}, True),
        ({"SOPClassUID": UltrasoundImageStorage, "BurnedInAnnotation": ""}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.2"}, True),  # Enhanced US Volume
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4"}, True),  # VL Photographic
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.1"}, True),  # Ophthalmic Photography
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, True),
        ({"ConversionType": "DF"}, True),
    ],
)
def test_pixels_that_may_show_a_name_are_refused(edit: dict[str, Any], refused: bool) -> None:
    def change(dataset: Dataset) -> None:
        for keyword, value in edit.items():
            setattr(dataset, keyword, value)

    content = one(change)
    if refused:
        assert refusal(content) is RefusalCode.BURNED_IN_TEXT
        after(content, LENIENT)
    else:
        after(content)


def test_an_overlay_in_unused_bits_of_the_pixels_is_refused() -> None:
    def edit(dataset: Dataset) -> None:
        dataset.add_new(0x60020100, "US", 16)
        dataset.add_new(0x60020102, "US", 12)
        dataset.BurnedInAnnotation = "NO"

    assert refusal(one(edit)) is RefusalCode.BURNED_IN_TEXT


def test_what_is_no_instance_is_refused() -> None:
    assert refusal(b"no DICOM") is RefusalCode.NOT_DICOM
    assert refusal(one()[:200]) in {RefusalCode.NOT_DICOM, RefusalCode.INVALID_ATTRIBUTE}
    directory = next(p for s in corpus() for p in s.paths if p.name == "DICOMDIR")
    assert refusal(directory.read_bytes()) is RefusalCode.NO_IMAGES


def test_sequences_without_end_are_refused() -> None:
    nested = b""
    for _ in range(400):
        item = b"\xfe\xff\x00\xe0" + len(nested).to_bytes(4, "little") + nested
        nested = b"\x08\x00\x99\x11SQ\0\0" + len(item).to_bytes(4, "little") + item
    content = one(lambda d: d.__setitem__(0x00081198, DataElement(0x00081198, "SQ", [])))
    head = content.index(b"\x08\x00\x98\x11SQ")
    assert refusal(content[:head] + nested + content[head + 12 :]) is RefusalCode.NOT_DICOM


# The corpus


def _values(dataset: Dataset) -> Iterator[tuple[bool, bytes]]:
    """Whether a value must go, and its bytes, for every element at every level."""
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:
            continue
        goes = tag.is_private or tag in table() or tag.group >> 8 in {0x50, 0x60}
        if element.VR == "SQ":
            goes = goes and not (tag in table() and "U" in table()[tag].basic)  # items are kept
            for item in element.value:
                yield from ((goes or below, value) for below, value in _values(item))
        else:
            values = element.value if element.VM > 1 else [element.value]
            for value in values:
                yield goes, value if isinstance(value, bytes) else str(value).strip().encode()


def _accepted(profile: Profile) -> Iterator[tuple[str, bytes, bytes]]:
    paths = [s.paths[0] for s in corpus() if len(s.paths) == 1]
    for path in [*paths, *sorted(SAMPLES.rglob("*.dcm"))[::20]]:
        content = path.read_bytes()
        try:
            yield path.name, content, deidentify_file(content, profile).content
        except Rejected:
            continue


def _inflated(content: bytes) -> bytes:
    dataset = dcmread(BytesIO(content))
    if not dataset.file_meta.TransferSyntaxUID.is_deflated:
        return content
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_no_value_that_must_go_is_anywhere_in_a_file_of_the_corpus() -> None:
    """Values of five bytes and more; where kept attributes say the same, as often as they do."""
    leaks, files, searched = [], 0, 0
    for name, content, deidentified in _accepted(LENIENT):
        files += 1
        with quiet():
            values = list(_values(dcmread(BytesIO(content))))
            result = _inflated(deidentified)
        kept = b"\0".join(value for goes, value in values if not goes)
        for value in {value for goes, value in values if goes and len(value) >= 5}:
            if len(set(value)) == 1 or value == b"CONTAINS":
                continue  # nothing but zeros; what the stand-in of a report's content says
            searched += 1
            if UID(value.decode("latin-1"), IGNORE).name.encode("latin-1") != value:
                continue  # a UID that DICOM registered names no one
            if result.count(value) > kept.count(value):
                leaks.append((name, value[:40]))
    assert leaks == []
    assert files > 200
    assert searched > 3000


@pytest.mark.parametrize("profile", [LENIENT, ALL_OPTIONS], ids=["basic", "every option"])
def test_doing_it_again_changes_nothing(profile: Profile) -> None:
    changed = [
        name
        for name, _, result in _accepted(profile)
        if deidentify_file(result, profile).content != result
    ]
    assert changed == []


def test_pixels_and_geometry_of_the_corpus_are_untouched() -> None:
    keywords = [
        *("PixelData", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient"),
        *("ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "SliceThickness"),
    ]
    for name, content, result in _accepted(LENIENT):
        with quiet():
            before, now = dcmread(BytesIO(content)), dcmread(BytesIO(result))
            for keyword in keywords:
                assert before.get(keyword) == now.get(keyword), (name, keyword)


# The command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path))
    create_key_directory(tmp_path / "keys", "local")
    return tmp_path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["deidentify", *map(str, arguments)])


def test_the_command_writes_files_named_by_their_new_uids(home: Path) -> None:
    source, out = home / "DOE_JANE", home / "out"
    source.mkdir()
    for name, data in classic_files(Recipe(VOLUME, modality="CT")):
        (source / f"DOE_JANE_{name}").write_bytes(data)
    (source / "screenshot.dcm").write_bytes(
        one(lambda d: setattr(d, "SOPClassUID", SecondaryCaptureImageStorage))
    )
    outcome = run(source, "--out", out, "--json")
    answer = json.loads(outcome.stdout)
    assert outcome.exit_code == 4
    assert answer["written"] == 3
    assert [(r["file"], r["code"]) for r in answer["refused"]] == [
        ("screenshot.dcm", "BURNED_IN_TEXT")
    ]
    for path in out.iterdir():
        dataset = dcmread(path)
        assert path.name == f"{dataset.SOPInstanceUID}.dcm"
        assert text(dataset, "PatientIdentityRemoved") == "YES"
        assert b"Factory" not in path.read_bytes()
    assert len(list(out.iterdir())) == 3
    (source / "screenshot.dcm").unlink()
    assert run(source, "--out", out).exit_code == 0, "the same again is the same files"
    assert len(list(out.iterdir())) == 3


def test_the_command_mixes_no_two_versions_of_an_instance(home: Path) -> None:
    (home / "one.dcm").write_bytes(one())
    assert run(home / "one.dcm", "--out", home / "out").exit_code == 0
    outcome = run(home / "one.dcm", "--out", home / "out", "--keep-dates-shifted", "--json")
    assert outcome.exit_code == 4
    assert json.loads(outcome.stdout)["refused"][0]["code"] == "DUPLICATE_SLICE"
    outcome = run(home / "one.dcm", "--out", home / "new", "--keep-dates-shifted")
    assert outcome.exit_code == 0


def test_the_command_does_not_write_among_the_originals(home: Path) -> None:
    (home / "in").mkdir()
    (home / "in" / "one.dcm").write_bytes(one())
    outcome = run(home / "in", "--out", home / "in" / "out")
    assert "lies inside the folder of the originals" in str(outcome.exception)
    assert not (home / "in" / "out").exists()

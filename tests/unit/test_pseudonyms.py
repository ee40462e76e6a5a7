"""A patient's pseudonym and a study's label: what they say to the sender, and to nobody else."""

from __future__ import annotations

import hashlib
import hmac
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.crypto.keydirectory import KeyDirectory, create_key_directory
from client.crypto.keyring import Keyring, PublicKey
from client.crypto.labels import StudyLabel, open_label, seal_label
from client.crypto.pseudonyms import PseudonymKey
from client.errors import ConfigurationError
from client.ingest.patients import StudyPatient, patient_of
from tests.dicom_factory import Recipe, classic_files, numbered_volume

pytestmark = pytest.mark.unit

KEY = PseudonymKey(bytes(range(32)))
UPLOAD = "11111111-2222-3333-4444-555555555555"
LABEL = StudyLabel("Märker^Ünal", "0815", "20260102")


def dicom(**attributes: object) -> bytes:
    return classic_files(Recipe(numbered_volume(1, 4, 4), attributes=dict(attributes)))[0][1]


def test_a_pseudonym_is_the_documented_hash() -> None:
    fields = (b"hounsfield/patient/v1", b"HOSP", b"4711")
    encoded = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert (
        KEY.pseudonym("4711", "HOSP") == hmac.new(KEY.secret, encoded, hashlib.sha256).hexdigest()
    )


def test_padding_does_not_count_and_everything_else_does() -> None:
    known = KEY.pseudonym("Pat 1", "HOSP")
    assert KEY.pseudonym(" Pat 1 \0", " HOSP \0") == known
    assert KEY.pseudonym("Pat 1") == KEY.pseudonym("Pat 1", "")
    others = (
        ("pat 1", "HOSP"),
        ("Pat 1", ""),
        ("Pat1", "HOSP"),
        ("HOSP", "Pat 1"),
        ("Pat 1H", "OSP"),
    )
    assert len({known, *(KEY.pseudonym(*other) for other in others)}) == 1 + len(others)
    assert PseudonymKey(bytes(32)).pseudonym("Pat 1", "HOSP") != known
    assert KEY.pseudonym(" ", "HOSP") == ""


def test_each_tenant_gets_a_private_key_once(tmp_path: Path) -> None:
    create_key_directory(tmp_path, "radiology")
    keys = KeyDirectory(tmp_path)
    path = keys.pseudonym_key("radiology")
    first = PseudonymKey.load(path)
    assert path.stat().st_mode & 0o777 == 0o600
    create_key_directory(tmp_path, "radiology")
    create_key_directory(tmp_path, "cardiology")
    assert PseudonymKey.load(path) == first
    assert PseudonymKey.load(keys.pseudonym_key("cardiology")) != first
    assert first.secret.hex() not in repr(first)
    assert repr(first.secret) not in repr(first)


def test_a_damaged_or_open_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pseudonym.key"
    PseudonymKey.create(path)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="every user may use it"):
        PseudonymKey.load(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="expected 32 bytes, got 5"):
        PseudonymKey.load(path)


def test_a_label_opens_for_its_sender_and_its_upload_only(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "mine")
    key = ring.create()
    sealed = seal_label(LABEL, key, KEY, UPLOAD)
    assert open_label(sealed, ring, KEY, UPLOAD) == LABEL
    stranger = Keyring(tmp_path / "other")
    stranger.create()
    assert open_label(sealed, stranger, KEY, UPLOAD) is None
    assert open_label(sealed, ring, KEY, UPLOAD.replace("1", "2")) is None
    assert open_label(b"", ring, KEY, UPLOAD) is None
    for bit in range(0, 8 * len(sealed), 7):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        assert open_label(bytes(changed), ring, KEY, UPLOAD) is None


def test_who_knows_only_the_public_key_cannot_make_a_label(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    key = ring.create()
    public = PublicKey(key.key_id, key.keyset, datetime.now(UTC))
    forged = seal_label(LABEL, public, PseudonymKey(bytes(32)), UPLOAD)
    assert open_label(forged, ring, KEY, UPLOAD) is None


def test_every_label_has_the_same_length_within_the_protocols_limit(tmp_path: Path) -> None:
    key = Keyring(tmp_path).create()
    labels = (
        StudyLabel(),
        LABEL,
        StudyLabel("\U0001f9e0" * 99, "\U0001f9e0" * 99, "\U0001f9e0" * 99),
        StudyLabel('"\\\n\0' * 40, '"\\' * 99, "2026"),
    )
    lengths = {len(seal_label(label, key, KEY, UPLOAD)) for label in labels}
    assert len(lengths) == 1
    assert lengths.pop() <= 1024


def test_a_studys_patient_is_read_from_its_headers() -> None:
    file = dicom(
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Märker^Ünal=X^Y",
        PatientID=" 0815 ",
        IssuerOfPatientID="HOSP",
    )
    assert patient_of([file]) == StudyPatient("0815", "HOSP", "Märker^Ünal", "20260102")
    assert patient_of([file]).label == StudyLabel("Märker^Ünal", "0815", "20260102")


def test_files_without_an_id_say_nothing() -> None:
    named, blank = dicom(PatientID="A"), dicom(PatientID="", PatientName="Somebody")
    junk = b"not DICOM"
    assert patient_of([junk, blank, named, blank]).patient_id == "A"
    assert patient_of([blank, junk]) == StudyPatient("", "", "Somebody", "20260102")
    assert patient_of([junk]) == StudyPatient()
    assert patient_of([dicom()[:300]]).patient_id == ""


def test_an_id_that_is_no_text_names_nobody() -> None:
    file = dicom(SpecificCharacterSet="ISO_IR 192", PatientID="ABCD")
    broken = file.replace(b"ABCD", b"\xff\xfe\xfdA")
    assert patient_of([broken]).patient_id == ""


@pytest.mark.parametrize(
    "other", [{"PatientID": "Secret2"}, {"PatientID": "Secret1", "IssuerOfPatientID": "Else"}]
)
def test_two_patients_in_one_submission_are_refused_without_naming_them(
    other: dict[str, str], tmp_path: Path
) -> None:
    first, second = tmp_path / "1.dcm", tmp_path / "2.dcm"
    first.write_bytes(dicom(PatientID="Secret1", PatientName="Hidden"))
    second.write_bytes(dicom(PatientName="Hidden", **other))
    with pytest.raises(ConfigurationError, match=r"file 2 .*submission of its own") as caught:
        patient_of([first, second])
    told = "".join(traceback.format_exception(caught.value))
    assert not any(word in told for word in ("Secret", "Hidden", "Else"))


def test_what_holds_a_patient_does_not_show_it_in_a_repr() -> None:
    assert "0815" not in repr(LABEL)
    assert "0815" not in repr(StudyPatient("0815", "HOSP", "Name", "20260102"))


def test_the_protocols_page_gives_the_right_examples() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    for example in (KEY.pseudonym("4711", "HOSP"), KEY.label_binding(UPLOAD).hex()):
        assert example[:32] in page
        assert example[32:] in page

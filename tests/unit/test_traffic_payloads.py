"""The studies that a load test sends: valid DICOM, of nobody, each with ids of its own."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from client.dicom.reader import read_study
from client.dicom.routing import route
from client.dicom.series import StudyContent
from client.errors import ConfigurationError, RefusalCode
from client.jobs import Priority
from client.limits import ReadLimits
from loadtest.traffic.arrivals import Arrival
from loadtest.traffic.payloads import Payloads
from preprocess.spec import ModelSpec

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def payloads() -> Payloads:
    return Payloads(5, ("mr_head", "ct", "xray"))


def study(number: int, kind: str, slices: int) -> Arrival:
    return Arrival(number, 0.0, kind, Priority.ROUTINE, slices)


def read(files: list[bytes], modalities: tuple[str, ...] | None = None) -> StudyContent:
    named = [(f"{place}.dcm", content) for place, content in enumerate(files)]
    return read_study(named, ReadLimits(), modalities)


def datasets(files: list[bytes]) -> list[Dataset]:
    return [dcmread(BytesIO(content), stop_before_pixels=True) for content in files]


def test_a_head_mr_is_one_series_that_the_model_takes(
    payloads: Payloads, brain_mr: ModelSpec
) -> None:
    content = read(payloads.files(study(1, "mr_head", 24)))
    (series,) = content.series
    assert (content.refusals, len(series.stored)) == ((), 24)
    assert route(series, [brain_mr]) is brain_mr


@pytest.mark.parametrize(("kind", "slices"), [("ct", 16), ("xray", 2)])
def test_ct_and_xray_have_no_model(payloads: Payloads, kind: str, slices: int) -> None:
    content = read(payloads.files(study(1, kind, slices)), ("MR",))
    assert content.series == ()
    assert {refusal.code for refusal in content.refusals} == {RefusalCode.NO_MODEL}


def test_a_synthetic_ct_is_a_volume_in_hounsfield_units(payloads: Payloads) -> None:
    (series,) = read(payloads.files(study(1, "ct", 16))).series
    assert series.stored.shape == (16, 512, 512)
    assert series.slice_distance_mm == pytest.approx(2.0)
    units = series.stored * series.slope + series.intercept
    assert units[:, 0, 0].mean() == pytest.approx(-1000, abs=15)
    assert units[:, 150, 256].mean() == pytest.approx(40, abs=15)


@pytest.mark.parametrize(("kind", "slices"), [("mr_head", 3), ("ct", 3), ("xray", 2)])
def test_ids_are_valid_and_of_one_study_only(payloads: Payloads, kind: str, slices: int) -> None:
    first = datasets(payloads.files(study(1, kind, slices)))
    second = datasets(payloads.files(study(2, kind, slices)))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
        values = [{str(one[keyword].value) for one in each} for each in (first, second)]
        assert [len(each) for each in values] == [1, 1]
        assert values[0] != values[1]
    instances = [one.SOPInstanceUID for one in (*first, *second)]
    assert len(set(instances)) == 2 * slices
    assert all(UID(one).is_valid and int(one.split(".")[2]) < 2**128 for one in instances)
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in first)


def test_the_seed_decides_every_byte(payloads: Payloads) -> None:
    arrival = study(3, "ct", 2)
    assert Payloads(5, ("ct",)).files(arrival) == payloads.files(arrival)
    assert Payloads(6, ("ct",)).files(arrival) != payloads.files(arrival)


def test_what_is_not_there_is_told(payloads: Payloads, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at most 181 slices"):
        payloads.files(study(1, "mr_head", 182))
    with pytest.raises(ConfigurationError, match="series of DICOM files"):
        Payloads(1, ("mr_head",), tmp_path)

"""A series goes to the model whose rules it fits; otherwise every model says why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.dicom.reader import read_study
from client.dicom.routing import route
from client.dicom.series import Series
from client.errors import RefusalCode, Rejected
from client.limits import ReadLimits
from preprocess.spec import ModelSpec, Plane
from tests.dicom_factory import ORIENTATIONS, Recipe, classic_files

pytestmark = pytest.mark.unit


def series_of(**attributes: Any) -> Series:
    recipe = Recipe(np.zeros((4, 8, 8), np.int16), attributes=attributes)
    return read_study(classic_files(recipe), ReadLimits()).series[0]


HEAD = series_of(BodyPartExamined="HEAD", SeriesDescription="T1 3D")


def reason(series: Series, *specs: ModelSpec, requested: str = "") -> str:
    with pytest.raises(Rejected) as caught:
        route(series, specs, requested)
    assert caught.value.code is RefusalCode.NO_MODEL
    return caught.value.reason


def with_rules(spec: ModelSpec, **rules: Any) -> ModelSpec:
    return replace(spec, route=replace(spec.route, **rules))


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": "HEAD"},
        {"BodyPartExamined": "brain".upper(), "SeriesDescription": "t2 sag"},
        {"SeriesDescription": "t1_mprage_sag_p2_iso"},
        {"ProtocolName": "Brain routine"},
        {"SeriesDescription": "AX T2", "StudyDescription": "MRI BRAIN W/O CONTRAST"},
        {"SeriesDescription": "SCHÄDEL T1", "SpecificCharacterSet": "ISO_IR 100"},
    ],
)
def test_heads_go_to_brain_mr(brain_mr: ModelSpec, attributes: dict[str, str]) -> None:
    assert route(series_of(**attributes), [brain_mr]) is brain_mr


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"BodyPartExamined": "KNEE", "SeriesDescription": "brain"},
        {"BodyPartExamined": "HEAD", "SeriesDescription": "localizer"},
        {"BodyPartExamined": "HEAD", "SeriesDescription": "ep2d_diff_ADC"},
        {"BodyPartExamined": "HEAD", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SeriesDescription": "T2 SAG", "StudyDescription": "MRI brain and cervical spine"},
        {"SeriesDescription": "cardiac"},
    ],
)
def test_other_series_do_not(brain_mr: ModelSpec, attributes: dict[str, str]) -> None:
    series = series_of(**attributes)
    assert "brain_mr expects" in reason(series, brain_mr)
    assert route(series, [brain_mr], "brain_mr") is brain_mr


def test_secondary_images_are_not_excluded_for_being_derived(brain_mr: ModelSpec) -> None:
    derived = series_of(BodyPartExamined="HEAD", ImageType=["DERIVED", "SECONDARY", "MPR"])
    assert route(derived, [brain_mr]) is brain_mr


@pytest.mark.parametrize("requested", ["", "brain_mr"])
def test_limits_hold_even_on_request(brain_mr: ModelSpec, requested: str) -> None:
    thick = replace(HEAD, slice_step_mm=(0.0, 0.0, 12.0))
    assert "at most 8 mm apart (12.0 mm came)" in reason(thick, brain_mr, requested=requested)
    few = replace(HEAD, stored=HEAD.stored[:2])
    assert "at least 3 slices (2 came)" in reason(few, brain_mr, requested=requested)
    ct = replace(HEAD, modality="CT", sop_class_uid="1.2.840.10008.5.1.4.1.1.2")
    assert "modality MR (CT came)" in reason(ct, brain_mr, requested=requested)
    capture = replace(HEAD, sop_class_uid="1.2.840.10008.5.1.4.1.1.7")
    assert "Enhanced MR Image Storage (Secondary Capture Image Storage came)" in reason(
        capture, brain_mr, requested=requested
    )
    axial_only = with_rules(brain_mr, planes=(Plane.CORONAL,))
    assert "coronal slices (axial ones came)" in reason(HEAD, axial_only, requested=requested)


def test_the_better_evidence_wins_then_the_first(brain_mr: ModelSpec) -> None:
    by_words = replace(with_rules(brain_mr, body_parts=("NECK",)), name="by_words")
    anything = replace(with_rules(brain_mr, body_parts=()), name="anything")
    twin = replace(brain_mr, name="twin")
    assert route(HEAD, [by_words, brain_mr, twin]).name == "brain_mr"
    assert route(HEAD, [twin, brain_mr]).name == "twin"
    nameless = series_of(SeriesDescription="brain t1")
    assert route(nameless, [by_words, anything]).name == "anything"
    assert route(HEAD, [twin, brain_mr], "brain_mr").name == "brain_mr"


def test_reasons_name_every_model_and_no_patient_data(brain_mr: ModelSpec) -> None:
    series = series_of(BodyPartExamined="KNEE", SeriesDescription="Jane Doe knee")
    other = replace(with_rules(brain_mr, modalities=("CT",)), name="organs_ct")
    why = reason(series, brain_mr, other)
    assert "brain_mr expects" in why
    assert "organs_ct expects modality CT (MR came)" in why
    assert "Jane" not in why
    named = replace(series, modality="JANE DOE")
    assert "JANE" not in reason(named, brain_mr)


def test_unknown_models_and_no_models(brain_mr: ModelSpec) -> None:
    assert "not in service" in reason(HEAD, brain_mr, requested="liver_ct")
    assert "no model is in service" in reason(HEAD)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_plane_of_the_head_is_taken(brain_mr: ModelSpec, orientation: str) -> None:
    recipe = Recipe(
        np.zeros((4, 8, 8), np.int16),
        orientation=ORIENTATIONS[orientation],
        attributes={"BodyPartExamined": "HEAD"},
    )
    series = read_study(classic_files(recipe), ReadLimits()).series[0]
    assert route(series, [brain_mr]) is brain_mr

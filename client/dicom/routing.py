"""Chooses the model for a series by the rules in the models' descriptions.

Series + ModelSpec.route … ──▶ ModelSpec │ Rejected(NO_MODEL: why each model declined)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum

from pydicom.uid import UID

from client.dicom.series import Series
from client.errors import RefusalCode, Rejected
from preprocess.spec import ModelSpec, RouteSpec

__all__ = ("route",)


class Evidence(IntEnum):
    """How a series shows that it images what a model is for, the better the higher."""

    NONE = 0
    STUDY = 1
    DESCRIPTION = 2
    BODY_PART = 3


def route(series: Series, specs: Sequence[ModelSpec], requested: str = "") -> ModelSpec:
    """Finds the model for a series.

    A model takes a series whose modality, SOP class, plane, slice distance and slice count fit,
    that is not excluded by its description, and whose body part is listed; where the body part is
    absent, its description, or else the study's, must match a pattern. Of several models the one
    with the better evidence is taken, then the first.

    Args:
        series: What is to be segmented.
        specs: The models in service.
        requested: Name of the model the sender asked for: body part and descriptions are then not
            looked at, everything else is. "" for routing by rules.

    Raises:
        Rejected: ``NO_MODEL``, with each model's reasons.
    """
    if requested:
        specs = [spec for spec in specs if spec.name == requested]
        if not specs:
            raise Rejected(
                RefusalCode.NO_MODEL,
                "The model that was asked for is not in service; ask for one that is, or for none "
                "to be routed by rules.",
            )
    declined: list[str] = []
    candidates: list[tuple[Evidence, ModelSpec]] = []
    for spec in specs:
        reasons = _misfits(series, spec.route)
        evidence = Evidence.BODY_PART if requested else _evidence(series, spec.route)
        if not requested:
            reasons += _doubts(series, spec.route, evidence)
        if reasons:
            declined.append(f"{spec.name} expects {', '.join(reasons)}")
        else:
            candidates.append((evidence, spec))
    if not candidates:
        why = "; ".join(declined) or "no model is in service"
        raise Rejected(
            RefusalCode.NO_MODEL,
            f"No model takes this series: {why}. Send a series that fits, or name the model if "
            "only its description is unclear.",
        )
    return max(candidates, key=lambda candidate: candidate[0])[1]


def _misfits(series: Series, rules: RouteSpec) -> list[str]:
    """What no request can overrule."""
    found: list[str] = []
    if series.modality not in rules.modalities:
        found.append(f"modality {_any(rules.modalities)} ({_shown(series.modality)} came)")
    elif rules.sop_classes and series.sop_class_uid not in rules.sop_classes:
        names = _any([UID(uid).name for uid in rules.sop_classes])
        found.append(f"{names} ({UID(series.sop_class_uid).name} came)")
    if series.geometry.plane not in rules.planes:
        found.append(f"{_any(rules.planes)} slices ({series.geometry.plane} ones came)")
    if series.slice_distance_mm > rules.max_slice_spacing_mm:
        found.append(
            f"slices at most {rules.max_slice_spacing_mm:g} mm apart "
            f"({series.slice_distance_mm:.1f} mm came)"
        )
    if len(series.stored) < rules.min_slices:
        found.append(f"at least {rules.min_slices} slices ({len(series.stored)} came)")
    return found


def _doubts(series: Series, rules: RouteSpec, evidence: Evidence) -> list[str]:
    """What the words in the header speak against."""
    if _matches(rules.exclude_patterns, f"{series.description} {series.image_type}"):
        return ["no series of the kind that its description or Image Type names"]
    if evidence is Evidence.NONE:
        came = "another came" if series.body_part else "none came, nor a telling description"
        return [f"body part {_any(rules.body_parts)} ({came})"]
    return []


def _evidence(series: Series, rules: RouteSpec) -> Evidence:
    if not rules.body_parts or series.body_part in rules.body_parts:
        return Evidence.BODY_PART
    if series.body_part:
        return Evidence.NONE
    if _matches(rules.description_patterns, series.description):
        return Evidence.DESCRIPTION
    if _matches(rules.description_patterns, series.study_description) and not _matches(
        rules.exclude_patterns, series.study_description
    ):
        return Evidence.STUDY
    return Evidence.NONE


def _any(names: Sequence[str]) -> str:
    return " or ".join(names)


def _matches(patterns: Sequence[str], words: str) -> bool:
    return any(re.search(pattern, words, re.IGNORECASE) for pattern in patterns)


def _shown(modality: str) -> str:
    """The modality if it looks like one; anything else in the attribute may be patient data."""
    return modality if re.fullmatch(r"[A-Z0-9]{2,16}", modality) else "an unknown one"

"""Values that are valid and say nothing, for attributes that must stay but lose their value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydicom import Dataset

__all__ = ("REMOVED", "dummy_items", "dummy_value")

REMOVED = "REMOVED"
_DATE, _TIME = "19000101", "000000"
_BY_VR: Mapping[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), REMOVED),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL"), 0.0),
    **dict.fromkeys(("AT", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), bytes(8)),
    "AS": "000Y",
    "DA": _DATE,
    "DT": _DATE + _TIME,
    "TM": _TIME,
    "UR": "https://removed.invalid",
}


def dummy_value(vr: str) -> Any:
    """Return a value of length above zero that any attribute of this VR may have.

    Raises:
        KeyError: UI and SQ have none: a UID stands for another one, and a sequence needs items.
    """
    return _BY_VR[vr]


def dummy_items(keyword: str, original: list[Dataset], uid: str) -> list[Dataset]:
    """Return the items that stand in for those of a sequence that the table says D for.

    Args:
        keyword: The sequence's keyword.
        original: Its items; only what no row of the table names is taken over.
        uid: What UIDs of the items are set to.
    """
    return [_ITEMS[keyword](original, uid)]


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _code(_original: object = None, _uid: object = None) -> Dataset:
    """Code Sequence macro (PS3.3, 8.8)."""
    return _item(CodeValue=REMOVED, CodingSchemeDesignator="99REMOVED", CodeMeaning=REMOVED)


def _person(_original: object, _uid: object) -> Dataset:
    """Person Identification macro (PS3.3, table 10-1)."""
    return _item(PersonIdentificationCodeSequence=[_code()], InstitutionName=REMOVED)


def _observer(_original: object, _uid: object) -> Dataset:
    """Verifying Observer Sequence (PS3.3, C.17.2)."""
    return _item(
        VerifyingObserverName=REMOVED,
        VerifyingObserverIdentificationCodeSequence=[],
        VerifyingOrganization=REMOVED,
        VerificationDateTime=_DATE + _TIME,
    )


def _content(_original: object, _uid: object) -> Dataset:
    """A comment as the only content of a report (PS3.3, C.17.3)."""
    concept = _item(CodeValue="121106", CodingSchemeDesignator="DCM", CodeMeaning="Comment")
    return _item(
        RelationshipType="CONTAINS",
        ValueType="TEXT",
        ConceptNameCodeSequence=[concept],
        TextValue=REMOVED,
    )


def _graphic(original: list[Dataset], _uid: object) -> Dataset:
    """A word at the image's corner (PS3.3, C.10.5), on a layer that the file defines."""
    text = _item(
        AnchorPointAnnotationUnits="PIXEL",
        UnformattedTextValue=REMOVED,
        AnchorPoint=[1.0, 1.0],
        AnchorPointVisibility="N",
    )
    layer = original[0].get("GraphicLayer", REMOVED) if original else REMOVED
    return _item(GraphicLayer=layer, TextObjectSequence=[text])


def _step(_original: object, uid: str) -> Dataset:
    """A reference to a Modality Performed Procedure Step (PS3.3, C.7.3.1)."""
    return _item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.3", ReferencedSOPInstanceUID=uid)


_ITEMS: Mapping[str, Callable[[list[Dataset], str], Dataset]] = {
    "ContentSequence": _content,
    "FlowIdentifierSequence": lambda _original, _uid: _item(FlowIdentifier=bytes(8)),
    "GraphicAnnotationSequence": _graphic,
    "InstitutionCodeSequence": _code,
    "OperatorIdentificationSequence": _person,
    "PersonIdentificationCodeSequence": _code,
    "ReferencedPerformedProcedureStepSequence": _step,
    "VerifyingObserverSequence": _observer,
    "WaveformAnnotationSequence": lambda _original, _uid: _item(
        UnformattedTextValue=REMOVED, ReferencedWaveformChannels=[1, 0]
    ),
}

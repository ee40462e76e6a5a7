"""De-identifies a data set: DICOM PS3.15 Annex E, Basic Application Level Confidentiality Profile.

    data set ──pixels may show a name?──▶ refused
        └──every attribute, at every level──▶ table E.1-1 ▶ D, Z, X, U, K or C ──▶ new data set

What no row names is kept, except for private groups, curves, overlays, and what cannot be judged:
attributes that DICOM's dictionary lacks, names and dates outside the table, sequences that are not
readable as such. docs/deidentification.md says what is claimed, and what is not.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import MediaStorageDirectoryStorage

from client.dicom.attributes import invalid, text
from client.dicom.deidentify_dates import shifted
from client.dicom.deidentify_dummies import dummy_items, dummy_value
from client.dicom.deidentify_identities import Identities
from client.dicom.deidentify_pixels import refuse_burned_in_text
from client.dicom.deidentify_table import EDITION, Action, Row, basic_action, table
from client.dicom.quiet import quiet
from client.errors import RefusalCode, Rejected

__all__ = ("Profile", "deidentify")

_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020
_CLASS_UIDS = re.compile(r"SOPClass|TransferSyntax|CodingSchemeUID|ContextUID|MappingResource")
"""UI attributes that name a kind of thing, not a thing."""
_BEYOND_THE_TABLE = frozenset(
    (
        0x00080300,  # Private Data Element Characteristics Sequence: there are none any more
        0x00420015,  # Encapsulated Document Length: the document is a dummy
        0x04000500,  # Encrypted Attributes Sequence: who has its key can read the originals
    )
)
_OLDEST = "090Y"
"""Ages above 89 years are told as 90: 45 CFR 164.514(b)(2)(i)(C)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is done beside the Basic Profile, and under whose key.

    Attributes:
        secret: The tenant's key of 32 bytes: the same key gives the same UIDs, pseudonyms and
            date shifts.
        shift_dates: Retain Longitudinal Temporal Information With Modified Dates Option: dates
            move by one number of days per patient (per study where no id is) instead of being
            removed.
        keep_characteristics: Retain Patient Characteristics Option: sex, age, size, weight and the
            like stay; free text among them goes all the same.
        keep_device: Retain Device Identity Option: serial numbers and the like stay.
        accept_burned_in_text: Somebody looked at the images: do not refuse any for its pixels.
    """

    secret: bytes = field(repr=False)
    shift_dates: bool = False
    keep_characteristics: bool = False
    keep_device: bool = False
    accept_burned_in_text: bool = False

    def methods(self) -> tuple[tuple[str, str], ...]:
        """Return codes and meanings of what is done (PS3.16 CID 7050)."""
        options = (
            (True, "113100", "Basic Application Confidentiality Profile"),
            (
                self.shift_dates,
                "113107",
                "Retain Longitudinal Temporal Information Modified Dates Option",
            ),
            (self.keep_characteristics, "113108", "Retain Patient Characteristics Option"),
            (self.keep_device, "113109", "Retain Device Identity Option"),
        )
        return tuple((code, meaning) for chosen, code, meaning in options if chosen)

    def action(self, row: Row, sop_class_uid: str, *, nested: bool) -> Action:
        """Return what is done to an attribute; an option that only says "clean" is not taken."""
        if self.shift_dates and row.dates and row.vr in {"DA", "DT", "TM"}:
            return Action.CLEAN
        if self.keep_device and row.device == "K":
            return Action.KEEP
        if self.keep_characteristics and row.characteristics == "K":
            return Action.KEEP
        return basic_action(row, sop_class_uid, nested=nested)


def deidentify(dataset: Dataset, profile: Profile) -> Dataset:
    """Return a de-identified copy; the original is not changed.

    Pixel data, geometry and everything else that no rule touches are the same bytes. Doing it
    again with the same key and options changes nothing. It has no file meta information:
    ``deidentify_file`` makes a new one.

    Raises:
        Rejected: ``BURNED_IN_TEXT``: see ``refuse_burned_in_text``; ``NO_IMAGES``: a DICOMDIR;
            ``INVALID_ATTRIBUTE``: no SOP Class or SOP Instance UID.
    """
    with quiet():
        sop_class_uid = text(dataset, "SOPClassUID")
        if sop_class_uid == MediaStorageDirectoryStorage or "DirectoryRecordSequence" in dataset:
            raise Rejected(
                RefusalCode.NO_IMAGES,
                "An instance was expected, but this is a DICOMDIR, whose entries would point to "
                "nothing; leave it out and make a new one.",
            )
        for keyword in ("SOPClassUID", "SOPInstanceUID"):
            if not text(dataset, keyword):
                raise invalid(keyword, "one UID")
        if not profile.accept_burned_in_text:
            refuse_burned_in_text(dataset)
        result = _Rules(profile, dataset, sop_class_uid).clean(dataset, nested=False)
        _state(result, profile)
        return result


class _Rules:
    """The profile, applied to one instance."""

    def __init__(self, profile: Profile, instance: Dataset, sop_class_uid: str) -> None:
        self._profile = profile
        self._class = sop_class_uid
        self._identities = Identities(profile.secret)
        self._issuer = text(instance, "IssuerOfPatientID")
        patient, study = text(instance, "PatientID"), text(instance, "StudyInstanceUID")
        self._days = (
            self._identities.days(patient, self._issuer)
            if patient
            else self._identities.days(study)
            if study
            else None
        )
        self._pseudonym = self._identities.patient(patient, self._issuer)

    def clean(self, dataset: Dataset, *, nested: bool) -> Dataset:
        """Return a copy of a data set or an item with the action of every attribute done."""
        result = Dataset()
        implicit, little = dataset.original_encoding
        result.set_original_encoding(implicit, little, dataset.original_character_set)
        for tag in sorted(dataset.keys()):
            if not _goes_unseen(tag):
                for element in self._cleaned(dataset, tag, nested=nested):
                    result[tag] = element
        return result

    def _cleaned(self, dataset: Dataset, tag: BaseTag, *, nested: bool) -> Iterator[DataElement]:
        row = table().get(tag)
        if row is None:
            yield from self._unlisted(dataset, tag, dictionary_VR(tag))
            return
        vr = row.vr
        match self._profile.action(row, self._class, nested=nested):
            case Action.KEEP:
                yield from self._kept(dataset, tag, vr)
            case Action.CLEAN:
                yield from self._moved(dataset, tag, vr, row, nested=nested)
            case action:
                yield from self._basic(dataset, tag, vr, action)

    def _unlisted(self, dataset: Dataset, tag: BaseTag, vr: str) -> Iterator[DataElement]:
        if vr == "UI" and not _CLASS_UIDS.search(dictionary_keyword(tag)):
            yield from self._basic(dataset, tag, vr, Action.UIDS)
        elif vr not in {"PN", "DA", "DT", "TM"}:
            yield from self._kept(dataset, tag, vr)

    def _basic(
        self, dataset: Dataset, tag: BaseTag, vr: str, action: Action
    ) -> Iterator[DataElement]:
        if action is Action.UIDS and vr == "SQ":
            yield from self._kept(dataset, tag, vr)
        elif action is Action.UIDS or (action is Action.DUMMY and vr == "UI"):
            yield DataElement(tag, vr, self._uids(dataset, tag))
        elif tag in (_PATIENT_NAME, _PATIENT_ID):
            yield DataElement(tag, vr, self._patient(dataset, tag))
        elif action is Action.EMPTY:
            yield DataElement(tag, vr, [] if vr == "SQ" else None)
        elif action is Action.DUMMY and vr == "SQ":
            keyword, uid = dictionary_keyword(tag), self._identities.uid("")
            yield DataElement(tag, vr, dummy_items(keyword, _items(dataset, tag), uid))
        elif action is Action.DUMMY:
            yield DataElement(tag, vr, dummy_value(vr))

    def _kept(self, dataset: Dataset, tag: BaseTag, vr: str) -> Iterator[DataElement]:
        """The element as it is, its bytes not even decoded, or its items cleaned."""
        raw = dataset.get_item(tag)
        if vr == "SQ" or raw.VR in {"SQ", "UN"}:
            try:
                element = dataset[tag]
            except RecursionError:
                raise
            except Exception:  # pydicom names no error classes
                return
            if element.VR == "SQ":
                items = [self.clean(item, nested=True) for item in element.value]
                yield DataElement(tag, "SQ", items)
            elif vr != "SQ" and element.VR != "UN":
                yield copy.copy(element)
        elif vr == "AS" and _is_old(dataset, tag):
            yield DataElement(tag, vr, _OLDEST)
        else:
            yield copy.copy(raw)

    def _moved(
        self, dataset: Dataset, tag: BaseTag, vr: str, row: Row, *, nested: bool
    ) -> Iterator[DataElement]:
        days = self._days
        values = [] if days is None else _texts(dataset, tag)
        moved = [shifted(value, vr, days or 0) for value in values]
        if values and None not in moved:
            yield DataElement(tag, vr, moved if len(moved) > 1 else moved[0])
        else:
            yield from self._basic(dataset, tag, vr, basic_action(row, self._class, nested=nested))

    def _uids(self, dataset: Dataset, tag: BaseTag) -> list[str] | str:
        uids = [self._identities.uid(uid) for uid in _texts(dataset, tag)]
        return uids if len(uids) > 1 else uids[0] if uids else ""

    def _patient(self, dataset: Dataset, tag: BaseTag) -> str:
        if tag == _PATIENT_NAME:
            return self._pseudonym
        own = " ".join(_texts(dataset, tag))
        issuer = text(dataset, "IssuerOfPatientID") or self._issuer
        return self._identities.patient(own, issuer)


def _goes_unseen(tag: BaseTag) -> bool:
    """Whether an attribute goes whatever it says: no rule could judge it."""
    return (
        tag.is_private
        or tag.group < 8
        or tag.element == 0  # group lengths (PS3.5, 7.2) would be wrong
        or 0x5000 <= tag.group < 0x5100
        or 0x6000 <= tag.group < 0x6100
        or tag in _BEYOND_THE_TABLE
        or not (dictionary_has_tag(tag) or tag in table())
    )


def _texts(dataset: Dataset, tag: BaseTag) -> list[str]:
    """An attribute's values as text, none where it is empty or not readable."""
    try:
        found = dataset[tag].value
    except Exception:  # pydicom names no error classes
        return []
    values = found if isinstance(found, list | MultiValue) else [found]
    return [str(value) for value in values if value not in (None, "")]


def _items(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    try:
        element = dataset[tag]
    except Exception:  # pydicom names no error classes
        return []
    return list(element.value) if element.VR == "SQ" else []


def _is_old(dataset: Dataset, tag: BaseTag) -> bool:
    ages = [re.fullmatch(r"(\d{3})Y", age) for age in _texts(dataset, tag)]
    return any(age is not None and int(age[1]) > 89 for age in ages)


def _state(result: Dataset, profile: Profile) -> None:
    """Say in the data set what was done (PS3.15, E.1.1; PS3.3, C.7.1.1 and C.12.1)."""
    items = []
    for code, meaning in profile.methods():
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
        items.append(item)
    result.PatientIdentityRemoved = "YES"
    result.DeidentificationMethod = f"DICOM PS3.15 {EDITION} Annex E Basic Profile, Hounsfield"
    result.DeidentificationMethodCodeSequence = items
    result.LongitudinalTemporalInformationModified = (
        "MODIFIED" if profile.shift_dates else "REMOVED"
    )

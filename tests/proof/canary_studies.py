"""Studies full of canaries: every value that names a patient is unique, and so is a row of pixels.

number ──Marks──▶ names, ids, UIDs, texts, private tags, pixels ──▶ files + how they must end
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from client.errors import RefusalCode
from tests.dicom_factory import ORIENTATIONS, Edit, Recipe, classic_files, numbered_volume
from tests.proof.traces import Secret

__all__ = ("BROKEN", "CanaryStudy", "Marks", "canary_studies", "slow_study")

_SLICES, _ROWS, _COLUMNS = 8, 64, 72
_MARKED_ROW = 31
_WINDOW_PIXELS = 12
_SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless)
_TEXTS = {
    "PatientComments": "comment",
    "PatientAddress": "address",
    "InstitutionName": "institution",
    "ReferringPhysicianName": "physician",
    "StudyDescription": "study description",
    "SeriesDescription": "series description",
    "ProtocolName": "protocol",
    "ImageComments": "image comment",
    "StationName": "station",
    "OtherPatientIDs": "other id",
    "StudyID": "study id",
    "AccessionNumber": "accession number",
    "PatientID": "patient id",
    "IssuerOfPatientID": "issuer",
}
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class Marks:
    """The canaries of one study."""

    number: int
    names: tuple[str, ...]
    texts: dict[str, str]
    uids: dict[str, str]
    instances: str
    private: str
    nested: str
    row: NDArray[np.int16] = field(repr=False)

    @classmethod
    def of(cls, number: int, rng: random.Random) -> Marks:
        """Draw the canaries of a study."""

        def word() -> str:
            return "".join(rng.choices(string.ascii_uppercase, k=14))

        def digits() -> str:
            return f"{rng.randrange(10**17, 10**18)}"

        return cls(
            number=number,
            names=(word(), word(), word()),
            texts={keyword: word() for keyword in _TEXTS},
            uids={keyword: digits() for keyword in _UIDS},
            instances=digits(),
            private=word(),
            nested=word(),
            row=np.array([rng.randrange(700) for _ in range(_COLUMNS)], dtype=np.int16),
        )

    @property
    def patient_name(self) -> str:
        """Family, given and middle name."""
        return "^".join(self.names)

    def secrets(self) -> Iterator[Secret]:
        """Yield everything that must not be found anywhere."""
        yield from (Secret(self.number, "patient name", name) for name in self.names)
        for keyword, text in self.texts.items():
            yield Secret(self.number, _TEXTS[keyword], text)
        for keyword, digits in self.uids.items():
            yield Secret(self.number, keyword, digits)
        yield Secret(self.number, "SOPInstanceUID", self.instances)
        yield Secret(self.number, "private tag", self.private)
        yield Secret(self.number, "nested sequence", self.nested)
        last = _COLUMNS - _WINDOW_PIXELS
        for start in (0, last // 2, last):
            window = self.row[start : start + _WINDOW_PIXELS]
            for kind in ("<i2", ">i2", "<f4"):
                yield Secret(self.number, f"pixels as {kind}", window.astype(kind).tobytes())

    def write(self, instance: Dataset, index: int) -> None:
        """Put the canaries into one instance."""
        instance.PatientName = self.patient_name
        for keyword, text in self.texts.items():
            setattr(instance, keyword, text)
        for keyword, digits in self.uids.items():
            setattr(instance, keyword, f"1.2.826.0.1.{digits}")
        instance.SOPInstanceUID = f"1.2.826.0.1.{self.instances}.{index + 1}"
        instance.private_block(0x0011, "HOUNSFIELD PROOF", create=True).add_new(
            0x10, "LO", self.private
        )
        step = Dataset()
        step.ScheduledProcedureStepDescription = self.nested
        instance.RequestAttributesSequence = [step]


@dataclass(frozen=True)
class CanaryStudy:
    """One study to send.

    Attributes:
        marks: What must not be found.
        files: What to send.
        expected: The code it is refused with, "" when it is segmented.
    """

    marks: Marks
    files: list[bytes] = field(repr=False)
    expected: str


Break = Callable[[Marks, Recipe], list[bytes]]


def _plain(marks: Marks, recipe: Recipe, edit: Edit | None = None) -> list[bytes]:
    def both(instance: Dataset, index: int) -> None:
        marks.write(instance, index)
        if edit is not None:
            edit(instance, index)

    return [content for _, content in classic_files(recipe, both)]


def _setting(keyword: str, value: Any, only: int | None = None) -> Break:
    def edit(instance: Dataset, index: int) -> None:
        if only is None or index == only:
            setattr(instance, keyword, value)

    return lambda marks, recipe: _plain(marks, recipe, edit)


def _text_for_a_number(marks: Marks, recipe: Recipe) -> list[bytes]:
    files = _plain(marks, replace(recipe, spacing_mm=(1.25, 1.25)))
    name = marks.names[0][:9].encode()  # the parser stumbles over a piece of the patient's name
    return [content.replace(b"1.25\\1.25", name) for content in files]


def _tilted(marks: Marks, recipe: Recipe) -> list[bytes]:
    def edit(instance: Dataset, index: int) -> None:
        x, y, z = map(float, instance.ImagePositionPatient)
        instance.ImagePositionPatient = [f"{x:.4f}", f"{y + index:.4f}", f"{z:.4f}"]

    return _plain(marks, replace(recipe, orientation=ORIENTATIONS["axial"]), edit)


def _turned(marks: Marks, recipe: Recipe) -> list[bytes]:
    def edit(instance: Dataset, index: int) -> None:
        instance.ImageOrientationPatient = list(ORIENTATIONS[("axial", "coronal")[index % 2]])

    return _plain(marks, recipe, edit)


def _echoes(marks: Marks, recipe: Recipe) -> list[bytes]:
    def edit(instance: Dataset, index: int) -> None:
        instance.SOPInstanceUID += ".2"
        instance.EchoTime = "80"

    return _plain(marks, recipe) + _plain(marks, recipe, edit)


def _broken_stream(marks: Marks, recipe: Recipe) -> list[bytes]:
    files = _plain(marks, replace(recipe, syntax=RLELossless))
    return [content.replace(RLELossless.encode(), b"1.2.840.10008.9.9.9") for content in files[:1]]


def _junk(marks: Marks, _recipe: Recipe) -> list[bytes]:
    return [f"{secret.value!r}\n".encode() for secret in marks.secrets()]


BROKEN: dict[RefusalCode, Break] = {
    RefusalCode.NOT_DICOM: _junk,
    RefusalCode.INVALID_ATTRIBUTE: _text_for_a_number,
    RefusalCode.COLOUR: _setting("PhotometricInterpretation", "PALETTE COLOR"),
    RefusalCode.NO_MODEL: _setting("Modality", "CR"),
    RefusalCode.NO_GEOMETRY: _setting("PixelSpacing", ""),
    RefusalCode.MIXED_SPACING: _setting("PixelSpacing", ["1.3", "1"], only=4),
    RefusalCode.MISSING_SLICE: lambda marks, recipe: _drop(_plain(marks, recipe), 3),
    RefusalCode.DUPLICATE_SLICE: lambda marks, recipe: (
        _plain(marks, recipe)
        + _plain(marks, recipe, lambda instance, _: setattr(instance, "ImageComments", "again"))
    ),
    RefusalCode.MIXED_ORIENTATION: _turned,
    RefusalCode.GANTRY_TILT: _tilted,
    RefusalCode.MULTIPLE_VOLUMES: _echoes,
    RefusalCode.UNDECODABLE: _broken_stream,
    RefusalCode.NO_PIXELS: _setting("PixelData", b""),
    RefusalCode.TRUNCATED_PIXELS: lambda marks, recipe: [_plain(marks, recipe)[0][:-100]],
}
"""How a study is broken so that it is refused with a code."""


def _drop(files: list[bytes], index: int) -> list[bytes]:
    return files[:index] + files[index + 1 :]


def canary_studies(count: int, rng: random.Random) -> list[CanaryStudy]:
    """Make studies; one in four is broken on purpose, each kind in turn."""
    kinds = list(BROKEN.items())
    studies = []
    for number in range(count):
        marks = Marks.of(number, rng)
        if number % 4 == 3:
            code, broken = kinds[number // 4 % len(kinds)]
            files = broken(marks, _recipe(marks, ExplicitVRLittleEndian))
            studies.append(CanaryStudy(marks, files, code))
        else:
            recipe = _recipe(marks, _SYNTAXES[(number - number // 4) % len(_SYNTAXES)])
            studies.append(CanaryStudy(marks, _plain(marks, recipe), ""))
    return studies


def slow_study(number: int, rng: random.Random) -> CanaryStudy:
    """Make a study whose reading takes long enough to be killed meanwhile."""
    marks = Marks.of(number, rng)
    wide = np.tile(numbered_volume(40, 512, _COLUMNS) % 700, (1, 1, 7))
    wide[:, _MARKED_ROW, :_COLUMNS] = marks.row
    recipe = replace(_recipe(marks, JPEG2000Lossless), volume=wide.astype(np.int16))
    return CanaryStudy(marks, _plain(marks, recipe), RefusalCode.DECODER_CRASHED)


def _recipe(marks: Marks, syntax: str) -> Recipe:
    volume = (numbered_volume(_SLICES, _ROWS, _COLUMNS) % 700).astype(np.int16)
    volume[:, _MARKED_ROW] = marks.row
    names = list(ORIENTATIONS)
    return Recipe(
        volume=volume,
        orientation=ORIENTATIONS[names[marks.number % len(names)]],
        distance_mm=4.0,
        attributes={"BodyPartExamined": "HEAD"},
        syntax=syntax,
    )

"""Refuses files whose pixels may show who the patient is: pixels are not cleaned here."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.uid import UID

from client.dicom.attributes import text, value
from client.errors import RefusalCode, Rejected

__all__ = ("refuse_burned_in_text", "shows_text_often")

_CLASS_WORDS = (
    "Secondary Capture",
    "Ultrasound",
    "US Volume",
    "VL ",
    "Video ",
    "Photograph",
    "Hardcopy",
)
_IMAGE_TYPES = ("SCREEN SAVE", "SCREEN_SAVE", "SCREENSAVE", "DOSE_INFO")
_OVERLAYS = range(0x6000, 0x6020, 2)


def shows_text_often(sop_class_uid: str) -> bool:
    """Whether images of a class often have the patient's name in their pixels.

    Secondary captures (screenshots, dose sheets, scanned paper), ultrasound, photographs, video
    and hardcopies (PS3.15, E.3.1; PS3.3, C.7.6.1.1.1 on Burned In Annotation).
    """
    name = UID(sop_class_uid).name  # the UID itself where it is not registered
    return "Waveform" not in name and any(word in name for word in _CLASS_WORDS)


def refuse_burned_in_text(dataset: Dataset) -> None:
    """Raise unless the file's header lets us take its pixels for free of text.

    Raises:
        Rejected: ``BURNED_IN_TEXT``: Burned In Annotation (0028,0301) is YES, the image's class
            or type often shows text and nothing says NO, or an overlay lies in unused bits of the
            pixels.
    """
    stated = text(dataset, "BurnedInAnnotation").upper()
    if stated == "YES":
        raise _refusal("Burned In Annotation (0028,0301) says that text is burned in")
    if any(_lies_in_pixels(dataset, group) for group in _OVERLAYS):
        raise _refusal("an overlay (60xx) lies in unused bits of the pixel data")
    if stated == "NO":
        return
    if shows_text_often(text(dataset, "SOPClassUID")):
        raise _refusal("images of its SOP class often show names, and nothing says they do not")
    kinds = text(dataset, "ImageType").upper()
    if any(kind in kinds for kind in _IMAGE_TYPES) or value(dataset, "ConversionType"):
        raise _refusal("it is a capture of a screen or of film, and nothing says it shows no names")


def _lies_in_pixels(dataset: Dataset, group: int) -> bool:
    """Whether a group describes an overlay without having its data (retired, PS3.3 C.9.2)."""
    return (group, 0x0102) in dataset and (group, 0x3000) not in dataset


def _refusal(what: str) -> Rejected:
    return Rejected(
        RefusalCode.BURNED_IN_TEXT,
        f"An image without readable text was expected, but {what}. Pixels are not cleaned here: "
        "look at the image, and accept it explicitly only if it shows no identity.",
    )

"""Which attributes of an instance are read at all, and which stay in its header."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

__all__ = (
    "ALL_TAGS",
    "HEADER_KEYWORDS",
    "LOSSY_KEYWORDS",
    "PATIENT_AND_STUDY",
    "PIXEL_KEYWORDS",
    "header_of",
)

PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
)
"""Patient, clinical trial subject, study and patient study (PS3.3 C.7.1 and C.7.2): a result takes
them over as they came, so that it files with its study."""

LOSSY_KEYWORDS = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""That pixels were changed on their way (PS3.3 C.7.6.1.1.5), which their results must say too."""

HEADER_KEYWORDS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "ImageType",
    *PATIENT_AND_STUDY,
    # Series, equipment, frame of reference (C.7.3.1, C.7.5.1, C.7.4.1)
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "ProtocolName",
    "Modality",
    "BodyPartExamined",
    "Laterality",
    "PatientPosition",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "InstitutionName",
    "StationName",
    "ContentDate",
    "ContentTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "AcquisitionNumber",
    "InstanceNumber",
    # Image grid and history (C.7.6.1 to C.7.6.3)
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PhotometricInterpretation",
    *LOSSY_KEYWORDS,
    "BurnedInAnnotation",
)
"""What ``Series.header`` keeps: public, small, none of them a sequence."""

PIXEL_KEYWORDS = (
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelPresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""What is read to place, decode and scale the pixels, and then dropped. Extended offset tables stay
unread: with them each frame is one fragment (PS3.5 A.4), so they say nothing new, but may lie."""

ALL_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in (*HEADER_KEYWORDS, *PIXEL_KEYWORDS)]
"""The parser skips every other attribute, private ones among them."""


def header_of(dataset: Dataset) -> Dataset:
    """A copy with the header attributes only; one that can't be decoded is left out."""
    header = Dataset()
    for keyword in HEADER_KEYWORDS:
        try:
            if keyword in dataset:
                header.add(dataset[keyword])
        except Exception:  # noqa: S112 - what the result needs has been checked before
            continue
    return header

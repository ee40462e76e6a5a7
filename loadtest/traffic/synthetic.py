"""Makes CT and X-ray studies from a seed: valid DICOM of nobody, shaped like a body, with noise.

seed ──▶ pixels ──JPEG-LS──▶ Part 10 files
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
)

__all__ = ("CT_SLICES", "XRAY_IMAGES", "ct_series", "encoded", "xray_images")

CT_SLICES = 64
XRAY_IMAGES = 2
_DRAWN = 16
"""CT images that are drawn and compressed; the slices repeat them, which only a picture shows."""
_CT_SIDE = 512
_CT_NOISE_HU = 12.0
_CT_INTERCEPT = -1024
_XRAY_ROWS, _XRAY_COLUMNS = 2048, 1792
_XRAY_NOISE = 14.0
_XRAY_BITS = 12


def ct_series(rng: np.random.Generator) -> Iterator[Dataset]:
    """Yield ``CT_SLICES`` slices of an abdomen of one millimetre pixels, 2 mm apart, in place."""
    images = [_compressed(_ct_image(rng, place), CTImageStorage, 16) for place in range(_DRAWN)]
    for index in range(CT_SLICES):
        slice_ = _with_patient(images[index % _DRAWN], "CT", "ABDOMEN", index)
        slice_.ImagePositionPatient = ["-250.0", "-250.0", f"{2.0 * index:.1f}"]
        slice_.ImageOrientationPatient = ["1.0", "0.0", "0.0", "0.0", "1.0", "0.0"]
        slice_.PixelSpacing, slice_.SliceThickness = ["0.98", "0.98"], "2.0"
        slice_.RescaleSlope, slice_.RescaleIntercept = "1.0", str(float(_CT_INTERCEPT))
        slice_.RescaleType = "HU"
        yield slice_


def xray_images(rng: np.random.Generator) -> Iterator[Dataset]:
    """Yield ``XRAY_IMAGES`` digital X-ray images of a chest."""
    for index in range(XRAY_IMAGES):
        pixels = _xray_image(rng)
        bare = _compressed(pixels, DigitalXRayImageStorageForPresentation, _XRAY_BITS)
        image = _with_patient(bare, "DX", "CHEST", index)
        image.ImagerPixelSpacing, image.PresentationIntentType = ["0.2", "0.2"], "FOR PRESENTATION"
        image.PresentationLUTShape, image.PixelIntensityRelationship = "IDENTITY", "LOG"
        yield image


def encoded(instance: Dataset) -> bytes:
    """Write an instance as a Part 10 file."""
    stream = BytesIO()
    instance.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _ct_image(rng: np.random.Generator, place: int) -> NDArray[np.uint16]:
    """Stored values: air, a body of soft tissue, a spine, two soft organs."""
    shape = (_CT_SIDE, _CT_SIDE)
    body: NDArray[np.float64] = np.where(_ellipse(shape, (0.5, 0.5), (0.30, 0.42)), 40.0, -1000.0)
    body[_ellipse(shape, (0.68, 0.5), (0.05, 0.05))] = 600.0
    body[_ellipse(shape, (0.46, 0.36), (0.14 + 0.004 * place, 0.16))] = 110.0
    body[_ellipse(shape, (0.48, 0.68), (0.08, 0.07))] = 160.0
    noisy = body + rng.normal(0.0, _CT_NOISE_HU, body.shape)
    stored: NDArray[np.uint16] = (np.rint(noisy) - _CT_INTERCEPT).clip(0, 4095).astype(np.uint16)
    return stored


def _xray_image(rng: np.random.Generator) -> NDArray[np.uint16]:
    shape = (_XRAY_ROWS, _XRAY_COLUMNS)
    chest = np.where(_ellipse(shape, (0.55, 0.5), (0.5, 0.46)), 1500.0, 3600.0)
    for side in (0.3, 0.7):
        chest[_ellipse(shape, (0.5, side), (0.32, 0.15))] = 2600.0
    noisy = chest + rng.normal(0.0, _XRAY_NOISE, chest.shape)
    return np.clip(np.rint(noisy), 0, 2**_XRAY_BITS - 1).astype(np.uint16)


def _ellipse(
    shape: tuple[int, int], middle: tuple[float, float], half_axes: tuple[float, float]
) -> NDArray[np.bool_]:
    """Where an ellipse lies; its measures, down and across, are parts of the image."""
    down, across = np.ogrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    distance = ((down - middle[0]) / half_axes[0]) ** 2 + ((across - middle[1]) / half_axes[1]) ** 2
    inside: NDArray[np.bool_] = distance <= 1
    return inside


def _compressed(pixels: NDArray[np.uint16], sop_class: UID, bits: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class
    image.SOPInstanceUID = "2.25.1"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = 0
    image.PixelData = pixels.tobytes()
    image["PixelData"].VR = "OW"
    image.compress(JPEGLSLossless, generate_instance_uid=False)
    return image


def _with_patient(bare: Dataset, modality: str, body_part: str, index: int) -> Dataset:
    """A copy that shares the pixels, with what every image says; ids are given study by study."""
    image = Dataset(bare)
    image.file_meta = FileMetaDataset()
    image.file_meta.update(bare.file_meta)
    image.PatientName, image.PatientBirthDate, image.PatientSex = "Load^Synthetic", "", "O"
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "made by a program"
    image.StudyDate, image.StudyTime, image.StudyID = "20260102", "101112", "1"
    image.AccessionNumber, image.ReferringPhysicianName = "", ""
    image.Modality, image.BodyPartExamined = modality, body_part
    image.SeriesNumber, image.InstanceNumber = 1, index + 1
    image.SeriesDescription = "Synthetic"
    image.ImageType, image.BurnedInAnnotation = ["ORIGINAL", "PRIMARY", "AXIAL"], "NO"
    return image

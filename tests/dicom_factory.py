"""Makes DICOM series of any orientation, order, scaling and transfer syntax for the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
)
from pydicom.valuerep import format_number_as_ds

__all__ = (
    "ORIENTATIONS",
    "Edit",
    "Recipe",
    "classic_files",
    "classic_instances",
    "enhanced_file",
    "numbered_volume",
    "to_bytes",
)

Pixels = NDArray[Any]
Edit = Callable[[Dataset, int], None]


def _cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def _sin(degrees: float) -> float:
    return math.sin(math.radians(degrees))


_S = 0.5**0.5
ORIENTATIONS: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial_feet_up": (1, 0, 0, 0, -1, 0),
    "axial_mirrored": (-1, 0, 0, 0, 1, 0),
    "axial_turned": (0, 1, 0, 1, 0, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "coronal_flipped": (1, 0, 0, 0, 0, 1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "sagittal_flipped": (0, -1, 0, 0, 0, -1),
    "oblique": (_S, _S, 0, -0.5, 0.5, -_S),
    "tilted_head": (
        _cos(5),
        _sin(5),
        0,
        -_sin(5) * _cos(10),
        _cos(5) * _cos(10),
        _sin(10),
    ),
}


def numbered_volume(slices: int, rows: int, columns: int) -> NDArray[np.int16]:
    """Every voxel has a value of its own, so that it can be followed."""
    return np.arange(slices * rows * columns, dtype=np.int16).reshape(slices, rows, columns)


@dataclass(frozen=True)
class Recipe:
    """What a series is to look like; slices are listed along the normal."""

    volume: Pixels
    orientation: Sequence[float] = ORIENTATIONS["axial"]
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    distance_mm: float = 2.0
    origin_mm: tuple[float, float, float] = (-20.0, 10.0, 35.5)
    modality: str = "MR"
    bits_stored: int = 16
    photometric: str = "MONOCHROME2"
    slope: float | None = None
    intercept: float | None = None
    order: Sequence[int] | None = None
    syntax: str = ExplicitVRLittleEndian
    series: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def directions(self) -> tuple[Pixels, Pixels, Pixels]:
        """Unit vectors across, down and normal."""
        across, down = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return across, down, np.cross(across, down)

    def position(self, index: int) -> Pixels:
        """Image Position (Patient) of a slice."""
        return np.array(self.origin_mm) + index * self.distance_mm * self.directions[2]

    def patient_mm(self, index: Pixels) -> Pixels:
        """Patient coordinates of (slice, row, column) indices [..., 3] of ``volume``."""
        across, down, normal = self.directions
        return (
            np.array(self.origin_mm)
            + index[..., :1] * self.distance_mm * normal
            + index[..., 1:2] * self.spacing_mm[0] * down
            + index[..., 2:] * self.spacing_mm[1] * across
        )


def classic_instances(recipe: Recipe, edit: Edit | None = None) -> list[Dataset]:
    """One dataset per slice, in the recipe's order with shuffled instance numbers."""
    order = recipe.order if recipe.order is not None else range(len(recipe.volume))
    instances = []
    for place, index in enumerate(order):
        instance = _common(recipe, recipe.volume[index])
        instance.SOPClassUID = CTImageStorage if recipe.modality == "CT" else MRImageStorage
        instance.SOPInstanceUID = f"1.2.826.0.1.77.{recipe.series}.{index + 1}"
        instance.InstanceNumber = place + 1
        instance.ImagePositionPatient = _decimal(recipe.position(index))
        instance.ImageOrientationPatient = _decimal(recipe.orientation)
        instance.PixelSpacing = _decimal(recipe.spacing_mm)
        instance.SliceThickness = _decimal([recipe.distance_mm])
        if recipe.slope is not None:
            instance.RescaleSlope = format_number_as_ds(float(recipe.slope))
            instance.RescaleIntercept = format_number_as_ds(float(recipe.intercept or 0))
        for keyword, value in recipe.attributes.items():
            setattr(instance, keyword, value)
        if edit is not None:
            edit(instance, index)
        instances.append(instance)
    return instances


def classic_files(recipe: Recipe, edit: Edit | None = None) -> list[tuple[str, bytes]]:
    """The same as named files."""
    return [
        (f"{place}.dcm", to_bytes(instance, recipe.syntax))
        for place, instance in enumerate(classic_instances(recipe, edit))
    ]


def enhanced_file(recipe: Recipe, edit: Edit | None = None) -> list[tuple[str, bytes]]:
    """One Enhanced MR instance (PS3.3 A.36.2); ``edit`` gets each frame's group and its index."""
    order = list(recipe.order if recipe.order is not None else range(len(recipe.volume)))
    instance = _common(recipe, recipe.volume[order])
    instance.SOPClassUID = EnhancedMRImageStorage
    instance.SOPInstanceUID = f"1.2.826.0.1.77.{recipe.series}.9999"
    instance.NumberOfFrames = len(order)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = _decimal(recipe.orientation)
    measures.PixelSpacing = _decimal(recipe.spacing_mm)
    measures.SliceThickness = _decimal([recipe.distance_mm])
    shared = Dataset()
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    instance.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in order:
        group, position, content, scaling = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = _decimal(recipe.position(index))
        content.StackID, content.InStackPositionNumber = "1", index + 1
        group.PlanePositionSequence = [position]
        group.FrameContentSequence = [content]
        if recipe.slope is not None:
            scaling.RescaleSlope = format_number_as_ds(float(recipe.slope))
            scaling.RescaleIntercept = format_number_as_ds(float(recipe.intercept or 0))
            group.PixelValueTransformationSequence = [scaling]
        if edit is not None:
            edit(group, index)
        groups.append(group)
    instance.PerFrameFunctionalGroupsSequence = groups
    for keyword, value in recipe.attributes.items():
        setattr(instance, keyword, value)
    return [("enhanced.dcm", to_bytes(instance, recipe.syntax))]


def to_bytes(instance: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Writes a dataset as a Part 10 file; encapsulated syntaxes are compressed losslessly."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = instance.SOPClassUID
    meta.MediaStorageSOPInstanceUID = instance.get("SOPInstanceUID", "1.2.3")
    instance.file_meta = meta
    if syntax == ExplicitVRBigEndian and "PixelData" in instance:
        swapped = np.frombuffer(instance.PixelData, dtype="<u2").byteswap()
        instance.PixelData = swapped.tobytes()
    meta.TransferSyntaxUID = UID(syntax)
    if meta.TransferSyntaxUID.is_encapsulated:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        instance.compress(syntax, generate_instance_uid=False)
    stream = BytesIO()
    instance.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _common(recipe: Recipe, pixels: Pixels) -> Dataset:
    instance = Dataset()
    instance.PatientName, instance.PatientID = "Factory^Made", "F-1"
    instance.PatientBirthDate, instance.PatientSex = "19700101", "O"
    instance.StudyInstanceUID = "1.2.826.0.1.77"
    instance.SeriesInstanceUID = f"1.2.826.0.1.77.{recipe.series}"
    instance.FrameOfReferenceUID = "1.2.826.0.1.77.0"
    instance.StudyDate, instance.StudyTime, instance.StudyID = "20260102", "101112", "7"
    instance.AccessionNumber, instance.ReferringPhysicianName = "A1", ""
    instance.Modality, instance.SeriesNumber = recipe.modality, 3
    instance.ImageType = ["ORIGINAL", "PRIMARY"]
    instance.Rows, instance.Columns = pixels.shape[-2:]
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, recipe.photometric
    instance.BitsAllocated = 8 * pixels.dtype.itemsize
    instance.BitsStored = min(recipe.bits_stored, instance.BitsAllocated)
    instance.HighBit = instance.BitsStored - 1
    instance.PixelRepresentation = int(pixels.dtype.kind == "i")
    instance.PixelData = pixels.tobytes()
    instance["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return instance


def _decimal(values: Any) -> list[str]:
    """Rounded, as pydicom writes 17 characters for 9.999999999999996."""
    return [format_number_as_ds(round(float(value), 9)) for value in values]

r"""Write the sample study: Colin27 NIfTI ▶ classic MR DICOM series and its reference masks.

python -m training.make_sample --nifti ch2.nii.gz --brain ch2bet.nii.gz --aal aal.nii.gz \
    --out samples/colin27_mr
"""

# mypy: disallow-untyped-calls=False
# nibabel's constructors carry no types.

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, JPEG2000Lossless, MRImageStorage

from training.reference import brain_from_stripped, classes_from_aal
from training.volumes import Volume, load_nifti

__all__ = ("main", "sample_uid", "slice_dataset", "write_labels", "write_series")


def sample_uid(*parts: str) -> UID:
    """Return a UID under 2.25 that depends on the parts only (DICOM PS3.5 B.2)."""
    digest = hashlib.sha256("/".join(("hounsfield-sample", *parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def slice_dataset(volume: Volume, number: int) -> FileDataset:
    """Return the MR Image object (PS3.3 A.4) of one axial slice, compressed without loss.

    Args:
        volume: An axial series: rows to posterior, columns to left.
        number: The slice, from 0, inferior to superior.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = sample_uid("colin27", "instance", str(number))
    ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    _describe_study(ds)
    _describe_acquisition(ds)
    ds.InstanceNumber = number + 1
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [float(x) for x in volume.position_mm(number)]
    ds.PixelSpacing = [float(volume.spacing_mm[1]), float(volume.spacing_mm[2])]
    ds.SliceThickness = ds.SpacingBetweenSlices = float(volume.spacing_mm[0])
    _set_pixels(ds, volume.voxels[number].astype(np.uint16))
    return ds


def _describe_study(ds: FileDataset) -> None:
    ds.PatientName, ds.PatientID = "Colin27^Sample", "COLIN27"
    ds.PatientBirthDate, ds.PatientSex = "", "M"
    ds.StudyInstanceUID = sample_uid("colin27", "study")
    ds.SeriesInstanceUID = sample_uid("colin27", "series")
    ds.FrameOfReferenceUID = sample_uid("colin27", "frame of reference")
    ds.StudyDate, ds.StudyTime = "19980301", "120000"
    ds.SeriesDate, ds.SeriesTime = ds.StudyDate, ds.StudyTime
    ds.ContentDate, ds.ContentTime = ds.StudyDate, ds.StudyTime
    ds.ReferringPhysicianName, ds.AccessionNumber, ds.StudyID = "", "", "1"
    ds.StudyDescription, ds.SeriesDescription = "Sample head MR", "T1 axial Colin27"
    ds.Modality, ds.SeriesNumber, ds.BodyPartExamined = "MR", 1, "HEAD"
    ds.PatientPosition, ds.PositionReferenceIndicator = "HFS", ""
    ds.Manufacturer = ""


def _describe_acquisition(ds: FileDataset) -> None:
    """State what Holmes et al. 1998 state: spoiled gradient echo, TR 18 ms, TE 10 ms."""
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", "SP", ""
    ds.MRAcquisitionType, ds.EchoTrainLength = "3D", 1
    ds.RepetitionTime, ds.EchoTime, ds.FlipAngle = 18, 10, 30
    ds.AcquisitionNumber = 1
    ds.DerivationDescription = "Average of 27 T1 scans of one man, aligned to MNI space"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"


def _set_pixels(ds: FileDataset, pixels: NDArray[np.uint16]) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 90, 180
    ds.compress(JPEG2000Lossless, pixels, encoding_plugin="pylibjpeg", generate_instance_uid=False)


def write_series(volume: Volume, folder: Path) -> None:
    """Write one file a slice into the folder, numbered from inferior to superior."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(volume.voxels)):
        slice_dataset(volume, number).save_as(
            folder / f"slice_{number + 1:03d}.dcm", enforce_file_format=True
        )


def write_labels(classes: NDArray[np.uint8], volume: Volume, path: Path) -> None:
    """Write classes on the grid of an axial series as NIfTI, which any tool lays over it.

    Args:
        classes: One class a voxel, of the shape of the series.
        volume: The series.
        path: The file, `.nii.gz`.
    """
    x, y, z = volume.position_mm(0)
    slices, rows, columns = volume.spacing_mm
    affine = np.diag([-columns, -rows, slices, 1.0])  # NIfTI's axes are RAS, the series' LPS
    affine[:3, 3] = -x, -y, z
    image = nib.Nifti1Image(np.ascontiguousarray(classes.transpose(2, 1, 0)), affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    nib.save(image, path)


def main() -> None:
    """Write the series, its reference masks (`reference.npz`) and `labels.nii.gz`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nifti", type=Path, required=True)
    parser.add_argument("--brain", type=Path, required=True)
    parser.add_argument("--aal", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    volume = load_nifti(args.nifti, "axial")
    write_series(volume, args.out)
    brain = brain_from_stripped(load_nifti(args.brain, "axial").voxels)
    structures = classes_from_aal(load_nifti(args.aal, "axial").voxels)
    np.savez_compressed(args.out / "reference.npz", brain=brain, structures=structures)
    write_labels(structures, volume, args.out / "labels.nii.gz")


if __name__ == "__main__":
    main()

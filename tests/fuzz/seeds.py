"""The healthy and the known-bad files that fuzzing starts from: tests/fuzz/corpus and pydicom's.

`python -m tests.fuzz.seeds` writes the synthetic ones anew, always the same bytes.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path
from struct import pack

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from client.dicom.quiet import quiet
from tests.dicom_factory import (
    ORIENTATIONS,
    Recipe,
    classic_files,
    classic_instances,
    enhanced_file,
    to_bytes,
)

__all__ = ("CORPUS", "CRASHES", "dicom_seeds", "known_crashes", "write_seeds")

CORPUS = Path(__file__).parent / "corpus"
CRASHES = CORPUS / "crashes"
"""Inputs that once broke something: seeds and regression tests for ever."""
_MAX_BYTES = 45_000
_FOREIGN = (
    "693_J2KI.dcm",
    "CT_small.dcm",
    "JPEG-lossy.dcm",
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "JPGExtended.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_truncated.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_rle_2frame.dcm",
    "UN_sequence.dcm",
    "badVR.dcm",
    "empty_charset_LEI.dcm",
    "image_dfl.dcm",
    "nested_priv_SQ.dcm",
    "no_meta_group_length.dcm",
    "priv_SQ.dcm",
    "reportsi.dcm",
    "rtdose_rle.dcm",
    "rtplan.dcm",
    "test-SR.dcm",
    "zipMR.gz",
)
"""Names in the folder test_files of the wheel pydicom; those with pixels get a geometry."""


def dicom_seeds() -> list[bytes]:
    """Every seed of the DICOM reader, crashes of the past among them."""
    kept = [path.read_bytes() for path in sorted((CORPUS / "dicom").iterdir())]
    return [*kept, *_foreign(), *known_crashes("dicom").values()]


def known_crashes(kind: str) -> dict[str, bytes]:
    """Inputs that once broke something, by name: "dicom" or "messages"."""
    folder = CRASHES / kind
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.bin"))}


def write_seeds(folder: Path = CORPUS / "dicom") -> None:
    """Write the synthetic seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _synthetic().items():
        (folder / f"{name}.dcm").write_bytes(content)


def _synthetic() -> dict[str, bytes]:
    ramp = (np.arange(2 * 32 * 32) % 251).astype(np.int16).reshape(2, 32, 32)
    recipe = Recipe(ramp, slope=1.0, intercept=-10.0)
    eight = replace(recipe, volume=ramp.astype(np.uint8), bits_stored=8)
    found = {
        "explicit": _first(recipe),
        "implicit": _first(replace(recipe, syntax=ImplicitVRLittleEndian)),
        "big-endian": _first(replace(recipe, syntax=ExplicitVRBigEndian)),
        "deflated": _first(replace(recipe, syntax=DeflatedExplicitVRLittleEndian)),
        "rle": _first(replace(recipe, syntax=RLELossless)),
        "jpeg-ls": _first(replace(recipe, syntax=JPEGLSLossless)),
        "jpeg-2000": _first(replace(recipe, syntax=JPEG2000Lossless)),
        "bytes": _first(replace(eight, photometric="MONOCHROME1")),
        "bytes-rle": _first(replace(eight, syntax=RLELossless)),
        "bytes-jpeg-ls": _first(replace(eight, syntax=JPEGLSLossless)),
        "bytes-jpeg-2000": _first(replace(eight, syntax=JPEG2000Lossless)),
        "unsigned": _first(replace(recipe, volume=ramp.astype(np.uint16), bits_stored=12)),
        "coronal-ct": _first(replace(recipe, modality="CT", orientation=ORIENTATIONS["coronal"])),
        "enhanced": enhanced_file(recipe)[0][1],
        "enhanced-rle": enhanced_file(replace(recipe, syntax=RLELossless))[0][1],
        "enhanced-jpeg-2000": enhanced_file(replace(recipe, syntax=JPEG2000Lossless))[0][1],
        "jpeg": _encoded(eight, JPEGBaseline8Bit, _jpeg(eight.volume[0])),
        "jpeg-lossless": _encoded(recipe, JPEGLosslessSV1, _jpeg_lossless(recipe.volume[0])),
        "jpeg-2000-lossy": _encoded(eight, JPEG2000, _jpeg2000(eight.volume[0])),
        "private": classic_files(recipe, _private)[0][1],
        "lookup-table": classic_files(replace(recipe, slope=None), _lookup_table)[0][1],
        "palette": classic_files(eight, _palette)[0][1],
    }
    return found | _orthanc_classes(found["explicit"], found["palette"])


def _orthanc_classes(plain: bytes, palette: bytes) -> dict[str, bytes]:
    """What CVE-2026-5437 to 5445 were about, as files of ours."""
    meta_end = 144 + int.from_bytes(plain[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(plain[meta_end:] + bytes(1 << 25)) + packer.flush()
    deflated = _first(Recipe(np.ones((1, 4, 4), np.int16), syntax=DeflatedExplicitVRLittleEndian))
    deflated_end = 144 + int.from_bytes(deflated[140:144], "little")
    size = plain.index(b"\x28\x00\x10\x00US")
    huge = bytearray(plain)
    huge[size + 8 : size + 10] = huge[size + 18 : size + 20] = b"\xff\xff"
    frames = b"\x28\x00\x08\x00IS\x0a\x004294967297"[:-1] + b"7"
    beyond = bytearray(palette)
    descriptor = palette.index(b"\x28\x00\x01\x11US")
    beyond[descriptor + 8 : descriptor + 14] = pack("<3H", 65535, 65535, 16)
    return {
        "orthanc-meta-length-beyond-the-end": plain[:140] + pack("<L", 0xFFFFFFF0) + plain[144:],
        "orthanc-meta-cut-in-its-header": plain[:150],
        "orthanc-deflated-bomb": deflated[:deflated_end] + bomb,
        "orthanc-sizes-overflow": bytes(huge),
        "orthanc-frames-overflow": plain[:size] + frames[: 8 + 10] + plain[size:],
        "orthanc-palette-beyond-its-table": bytes(beyond),
        "orthanc-element-beyond-the-end": plain[:meta_end] + b"\x08\x00\x60\x00CS\xfe\xffMR",
        "orthanc-undefined-length-without-end": plain + b"\x52\x00\x29\x92SQ\0\0\xff\xff\xff\xff",
    }


def _foreign() -> list[bytes]:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    found = []
    for name in _FOREIGN:
        content = (folder / name).read_bytes()
        found.append(content)
        if name.endswith(".dcm") and b"MONOCHROME" in content:
            with quiet():
                found.append(_placed(content))
    return [content for content in found if len(content) <= _MAX_BYTES]


def _placed(content: bytes) -> bytes:
    """The same image with a position, so that it gets as far as its pixels."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    dataset.ImagePositionPatient = [0, 0, 0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 1
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, dataset.get(keyword) or "1.2.3")
    dataset.FrameOfReferenceUID = "1.2.3"
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def _first(recipe: Recipe) -> bytes:
    return classic_files(recipe)[0][1]


def _encoded(recipe: Recipe, syntax: UID, frame: bytes) -> bytes:
    instance = classic_instances(recipe)[0]
    plain = to_bytes(instance)
    dataset = pydicom.dcmread(io.BytesIO(plain))
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def _jpeg2000(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(
        stream, "JPEG2000", irreversible=True, no_jp2=True, quality_layers=[4]
    )
    return stream.getvalue()


def _jpeg_lossless(pixels: NDArray[np.int16]) -> bytes:
    """Process 14, selection value 1 (ITU-T T.81 H): 17 categories with codes of five bits each."""
    rows, columns = pixels.shape
    values = pixels.astype(np.int64) & 0xFFFF
    bits = ""
    for (row, column), value in np.ndenumerate(values):
        above = values[row - 1, 0] if row else 1 << 15
        predicted = values[row, column - 1] if column else above
        difference = (int(value) - int(predicted) + (1 << 15)) % (1 << 16) - (1 << 15)
        size = abs(difference).bit_length()
        bits += f"{size:05b}"
        if 0 < size < 16:
            low = difference if difference > 0 else difference + (1 << size) - 1
            bits += f"{low:0{size}b}"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = b"\xff\xc3" + pack(">HBHHB3B", 11, 16, rows, columns, 1, 1, 0x11, 0)
    counts = bytes([0, 0, 0, 0, 17, *[0] * 11])
    table = b"\xff\xc4" + pack(">HB", 19 + 17, 0) + counts + bytes(range(17))
    header = b"\xff\xda" + pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + frame + table + header + scan + b"\xff\xd9"


def _private(instance: Dataset, _: int) -> None:
    block = instance.private_block(0x0029, "FACTORY", create=True)
    inner = Dataset()
    inner.CodeMeaning = "inner"
    block.add_new(0x10, "SQ", [inner])
    block.add_new(0x11, "OB", b"\x01\x02\x03\x04")
    block.add_new(0x12, "UN", b"unknown ")


def _lookup_table(instance: Dataset, _: int) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table["LUTDescriptor"].VR = "US"
    table.ModalityLUTType = "HU"
    table.LUTData = np.arange(256, dtype="<u2").tobytes()
    table["LUTData"].VR = "OW"
    instance.ModalityLUTSequence = [table]


def _palette(instance: Dataset, _: int) -> None:
    instance.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(instance, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        instance[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(instance, f"{colour}PaletteColorLookupTableData", bytes(512))


if __name__ == "__main__":
    write_seeds()

"""Decodes the pixel data of one checked instance to its stored values.

Instance ──check (kind, size, decoder, length)──▶ decode ──▶ [frames, rows, columns]
   └──frames that are alike──▶ decode one by itself ──▶ [1, rows, columns], the same pixels
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import _get_jpg_parameters, get_j2k_parameters
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from client.dicom.attributes import Attributes, integer, invalid, number, text, value
from client.dicom.codestreams import FrameSize, jpeg2000_size, jpeg_size, rle_capacity_bytes
from client.dicom.parsing import Instance
from client.dicom.plain import once
from client.errors import RefusalCode, Rejected
from client.limits import ReadLimits

__all__ = ("PixelLayout", "alike_frames", "check_pixels", "decode_frame", "decode_pixels")

_OPTIONS = {
    "samples_per_pixel": "SamplesPerPixel",
    "photometric_interpretation": "PhotometricInterpretation",
    "planar_configuration": "PlanarConfiguration",
    "number_of_frames": "NumberOfFrames",
    "rows": "Rows",
    "columns": "Columns",
    "bits_allocated": "BitsAllocated",
    "bits_stored": "BitsStored",
    "pixel_representation": "PixelRepresentation",
}
"""What the decoders ask for, and the attribute that says it (PS3.3 C.7.6.3)."""
_INTEGERS = tuple(word for word in _OPTIONS.values() if word != "PhotometricInterpretation")
GREYSCALE_KEYWORDS = ("PhotometricInterpretation", "SamplesPerPixel", "PixelPresentation")
LAYOUT_KEYWORDS = (*_OPTIONS.values(), "HighBit")
"""All that a layout depends on."""

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
NATIVE_SYNTAXES = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
END_OF_CODESTREAM = b"\xff\xd9"
"""JPEG and JPEG-LS End of Image, JPEG 2000 End of Codestream: the same two bytes."""
JPEG2000_SYNTAXES = frozenset(
    {
        *JPEG2000TransferSyntaxes,
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.4.203",
    }
)


@dataclass(frozen=True)
class PixelLayout:
    """Image Pixel module (PS3.3 C.7.6.3) of one instance, checked.

    Attributes:
        frames: Number of frames, 1 for single-frame instances.
        allocated_bytes: Bytes per pixel, 1 or 2.
        unused_bits: High bits of each pixel that hold no part of the value.
        signed: Whether pixels are signed.
        inverted: MONOCHROME1.
    """

    frames: int
    rows: int
    columns: int
    allocated_bytes: int
    unused_bits: int
    signed: bool
    inverted: bool

    @property
    def used_bits(self) -> int:
        """Bits Stored."""
        return 8 * self.allocated_bytes - self.unused_bits

    @property
    def decoded_bytes(self) -> int:
        """Size of the decoded pixel data."""
        return self.frames * self.rows * self.columns * self.allocated_bytes


def check_pixels(instance: Instance, limits: ReadLimits) -> PixelLayout:
    """Checks that the pixel data is greyscale, within limits and decodable, without decoding it.

    Raises:
        Rejected: ``COLOUR``, ``INVALID_ATTRIBUTE``, ``TOO_LARGE``, ``UNDECODABLE`` (no decoder) or
            ``TRUNCATED_PIXELS`` (a cut file, or uncompressed data shorter than the image).
    """
    dataset = instance.dataset
    once(dataset, GREYSCALE_KEYWORDS, _check_greyscale)
    if instance.cut_short:
        raise _truncated("the end of the pixel data", "the end of the file")
    pixels = instance.pixels
    if pixels is None:
        raise invalid("PixelData", "integer pixel data (floating point images are not supported)")
    layout = once(dataset, LAYOUT_KEYWORDS, _layout)
    _check_size(layout, limits)
    _decoder(instance.transfer_syntax)
    if not UID(instance.transfer_syntax).is_encapsulated and len(pixels) < layout.decoded_bytes:
        raise _truncated(f"{layout.decoded_bytes} bytes of pixel data", f"{len(pixels)}")
    return layout


def decode_pixels(instance: Instance, layout: PixelLayout) -> NDArray[Any]:
    """Decodes every frame; sign and unused high bits (overlays, padding) are corrected.

    Returns:
        8- or 16-bit integers [frames, rows, columns], signed if Pixel Representation says so.

    Raises:
        Rejected: ``TRUNCATED_PIXELS``: fewer frames than declared, or a codestream without its
            end; ``UNDECODABLE``: every decoder failed.
    """
    native = _native(instance, layout)
    if native is not None:
        return native
    syntax = UID(instance.transfer_syntax)
    if syntax.is_encapsulated:
        _check_codestreams(instance, layout)
    try:
        with suppress(Exception):  # all the decoders follow
            return _decoded(instance, layout, _first_choice(instance))
        return _decoded(instance, layout, "")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # decoders raise errors of their own; Rust's panics are none
        raise Rejected(
            RefusalCode.UNDECODABLE,
            f"Pixel data in transfer syntax {syntax.name} was expected to decode to "
            f"{layout.frames} x {layout.rows} x {layout.columns} pixels, but no decoder could read "
            "it; send the instance uncompressed (Explicit VR Little Endian).",
        ) from error


def alike_frames(instance: Instance, layout: PixelLayout) -> list[bytes]:
    """Splits compressed pixel data into frames that ``decode_frame`` decodes like all together.

    Of damaged or odd pixel data there are none: ``decode_pixels`` says what is wrong.

    Returns:
        The codestream of each frame.
    """
    try:
        frames = _check_codestreams(instance, layout)
        stated = [_stated(frame, instance.transfer_syntax) for frame in frames]
    except Exception:  # parsers of codestreams raise whatever they stumble over
        return []
    return frames if all(one == stated[0] for one in stated) else []


def decode_frame(codestream: bytes, instance: Instance, layout: PixelLayout) -> NDArray[Any]:
    """Decodes one of ``alike_frames`` with the decoder that comes first.

    Returns:
        [1, rows, columns], what ``decode_pixels`` has in its place if the first decoder can read
        every frame.

    Raises:
        Exception: The decoder could not read it; others might.
    """
    options = {**_options(instance.dataset), "number_of_frames": 1}
    plugin, decoder = _first_choice(instance), _decoder(instance.transfer_syntax)
    source = encapsulate([codestream])
    pixels, _ = decoder.as_array(source, raw=True, decoding_plugin=plugin, **options)
    return np.asarray(pixels).reshape(1, layout.rows, layout.columns)


def _first_choice(instance: Instance) -> str:
    """Which of pydicom's plugins is tried first: CharLS takes a third of libjpeg's time."""
    return "pyjpegls" if instance.transfer_syntax in JPEGLSTransferSyntaxes else "pylibjpeg"


def _decoded(instance: Instance, layout: PixelLayout, plugin: str) -> NDArray[Any]:
    decoder = _decoder(instance.transfer_syntax)
    if isinstance(instance.dataset, Dataset):
        pixels, _ = decoder.as_array(instance.dataset, raw=True, decoding_plugin=plugin)
    else:
        source, options = bytes(instance.pixels or b""), _options(instance.dataset)
        pixels, _ = decoder.as_array(source, raw=True, decoding_plugin=plugin, **options)
    return np.asarray(pixels).reshape(layout.frames, layout.rows, layout.columns)


def _stated(frame: bytes, syntax: str) -> dict[str, Any]:
    """What pydicom takes from a codestream; for several frames, from the last of them."""
    found: dict[str, Any]
    found = get_j2k_parameters(frame) if syntax in JPEG2000_SYNTAXES else _get_jpg_parameters(frame)
    return found


def _native(instance: Instance, layout: PixelLayout) -> NDArray[Any] | None:
    """Uncompressed little endian pixels, with the answer that pydicom's decoder would give.

    Returns:
        [frames, rows, columns], a view of the file unless there are unused bits; None where
        another decoder, or a refusal, is due.
    """
    pixels, dataset = instance.pixels, instance.dataset
    if instance.transfer_syntax not in NATIVE_SYNTAXES or pixels is None:
        return None
    if isinstance(dataset, Dataset) or not once(dataset, LAYOUT_KEYWORDS, _well_typed):
        return None
    if len(pixels) >= layout.decoded_bytes * (layout.frames + 1) // layout.frames:
        return None
    dtype = np.dtype(f"<{'ui'[layout.signed]}{layout.allocated_bytes}")
    found = np.frombuffer(pixels, dtype, layout.decoded_bytes // layout.allocated_bytes)
    found = found.reshape(layout.frames, layout.rows, layout.columns)
    if not layout.unused_bits:
        return found
    if layout.signed:
        shifted: NDArray[Any] = np.left_shift(found, layout.unused_bits)
        np.right_shift(shifted, layout.unused_bits, out=shifted)
        return shifted
    masked: NDArray[Any] = np.bitwise_and(found, dtype.type((1 << layout.used_bits) - 1))
    return masked.view(f"<i{layout.allocated_bytes}")  # values that any sign can hold


def _well_typed(dataset: Attributes) -> bool:
    """Whether pydicom's own checks of the image pixel module would pass on values checked here."""
    return dataset.get("PhotometricInterpretation") in MONOCHROME and all(
        isinstance(dataset.get(keyword), int | None) for keyword in _INTEGERS
    )


def _options(dataset: Attributes) -> dict[str, Any]:
    """What pydicom's runner would take from a dataset with these attributes."""
    found = {name: dataset.get(keyword) for name, keyword in _OPTIONS.items()}
    present = {name: content for name, content in found.items() if content is not None}
    return {"number_of_frames": 1, "pixel_keyword": "PixelData", **present}


def _photometric(dataset: Attributes) -> str:
    return text(dataset, "PhotometricInterpretation").upper()


def _check_greyscale(dataset: Attributes) -> bool:
    photometric = _photometric(dataset)
    samples = number(dataset, "SamplesPerPixel")
    colour = text(dataset, "PixelPresentation").upper() in ("COLOR", "MIXED")
    if photometric not in MONOCHROME or samples not in (None, 1.0) or colour:
        raise Rejected(
            RefusalCode.COLOUR,
            "Greyscale pixels were expected (Photometric Interpretation MONOCHROME1 or MONOCHROME2,"
            " one sample per pixel, no supplemental palette), but these are colour, palette or "
            "unspecified; send the original greyscale images.",
        )
    return True


def _layout(dataset: Attributes) -> PixelLayout:
    allocated = integer(dataset, "BitsAllocated", 1, 64)
    if allocated not in (8, 16):
        raise invalid("BitsAllocated", "8 or 16 bits per pixel")
    stored = integer(dataset, "BitsStored", 1, allocated)
    if value(dataset, "HighBit") is not None:
        integer(dataset, "HighBit", stored - 1, stored - 1)
    signed = integer(dataset, "PixelRepresentation", 0, 1)
    if value(dataset, "SamplesPerPixel") is None:
        raise invalid("SamplesPerPixel", "1")
    return PixelLayout(
        frames=1
        if value(dataset, "NumberOfFrames") is None
        else integer(dataset, "NumberOfFrames", 1, 2**31),
        rows=integer(dataset, "Rows", 1, 65535),
        columns=integer(dataset, "Columns", 1, 65535),
        allocated_bytes=allocated // 8,
        unused_bits=allocated - stored,
        signed=bool(signed),
        inverted=_photometric(dataset) == "MONOCHROME1",
    )


def _check_size(layout: PixelLayout, limits: ReadLimits) -> None:
    side = max(layout.rows, layout.columns)
    if side > limits.max_side or layout.frames > limits.max_frames:
        raise Rejected(
            RefusalCode.TOO_LARGE,
            f"At most {limits.max_side} rows and columns and {limits.max_frames} frames were "
            f"expected, and {layout.rows} x {layout.columns} x {layout.frames} came; send a "
            "smaller reconstruction or raise the limit.",
        )


@lru_cache(maxsize=64)
def _decoder(transfer_syntax: str) -> Decoder:
    syntax = UID(transfer_syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        name = syntax.name if syntax.is_valid else "with an invalid UID"
        raise Rejected(
            RefusalCode.UNDECODABLE,
            f"A transfer syntax with an installed decoder was expected, but {name} has none; send "
            "the instances uncompressed (Explicit VR Little Endian).",
        )
    return decoder


def _check_codestreams(instance: Instance, layout: PixelLayout) -> list[bytes]:
    """Some decoders fill what is missing of a cut codestream with grey, so look for its end."""
    try:
        pixels = bytes(instance.pixels or b"")
        frames = list(generate_frames(pixels, number_of_frames=layout.frames))
    except Exception as error:  # damaged encapsulation
        raise _truncated(f"{layout.frames} encapsulated frames", "fewer or damaged ones") from error
    if len(frames) < layout.frames:
        raise _truncated(f"{layout.frames} encapsulated frames", f"{len(frames)}")
    if len(frames) > layout.frames:
        raise invalid("NumberOfFrames", "as many frames as the pixel data holds")
    for place, frame in enumerate(frames, start=1):
        _check_codestream(frame, place, instance.transfer_syntax, layout)
    return frames


def _check_codestream(frame: bytes, place: int, syntax: str, layout: PixelLayout) -> None:
    """Decoders give memory to what a codestream says of itself: it must be what the header says."""
    if syntax == RLELossless:
        if rle_capacity_bytes(frame) < layout.decoded_bytes // layout.frames:
            raise _truncated("a whole run-length encoded image", f"too few bytes in frame {place}")
        return
    if not frame.rstrip(b"\x00\xff").endswith(END_OF_CODESTREAM):
        raise _truncated("the end mark of every codestream", f"none in frame {place}")
    size = jpeg2000_size(frame) if syntax in JPEG2000_SYNTAXES else jpeg_size(frame)
    if size != FrameSize(layout.rows, layout.columns, 1):
        raise Rejected(
            RefusalCode.UNDECODABLE,
            f"A codestream of {layout.rows} x {layout.columns} grey pixels was expected in frame "
            f"{place}, as the header says, but it states another size or none; send the instance "
            "uncompressed (Explicit VR Little Endian).",
        )


def _truncated(expected: str, came: str) -> Rejected:
    return Rejected(
        RefusalCode.TRUNCATED_PIXELS,
        f"Expected {expected}, and {came} came; the file was cut short: send it again.",
    )

"""Every transfer syntax with a decoder reads to the same stored values."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from client.dicom.reader import read_study
from client.dicom.series import Series
from client.limits import ReadLimits
from tests.dicom_factory import (
    Recipe,
    classic_files,
    classic_instances,
    enhanced_file,
    to_bytes,
)

pytestmark = pytest.mark.unit

WRITABLE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
)
LOSSLESS_ELSEWHERE = {
    "1.2.840.10008.1.2.4.57": 12,
    "1.2.840.10008.1.2.4.70": 12,
    "1.2.840.10008.1.2.4.201": 16,
    "1.2.840.10008.1.2.4.202": 16,
}
LOSSY_ELSEWHERE = {
    "1.2.840.10008.1.2.4.50": (8, 2),
    "1.2.840.10008.1.2.4.51": (12, 3),
    "1.2.840.10008.1.2.4.203": (16, 40),
}
"""Bits stored, and the largest error that its quality allows."""


def read_one(files: list[tuple[str, bytes]]) -> Series:
    content = read_study(files, ReadLimits())
    assert content.refusals == ()
    return content.series[0]


def noise(kind: str, low: int, high: int) -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(low, high, (3, 47, 61)).astype(kind)


@pytest.mark.parametrize("syntax", WRITABLE)
@pytest.mark.parametrize(
    ("kind", "bits", "low", "high"),
    [("<u2", 12, 0, 4096), ("<i2", 16, -30000, 30000), ("<i2", 12, -2048, 2048)],
)
def test_single_frames(syntax: str, kind: str, bits: int, low: int, high: int) -> None:
    volume = noise(kind, low, high)
    series = read_one(classic_files(Recipe(volume, bits_stored=bits, syntax=syntax)))
    np.testing.assert_array_equal(series.stored, volume)


@pytest.mark.parametrize("syntax", WRITABLE)
def test_multi_frame(syntax: str) -> None:
    volume = noise("<u2", 0, 4096)
    series = read_one(enhanced_file(Recipe(volume, bits_stored=12, syntax=syntax, order=[2, 0, 1])))
    np.testing.assert_array_equal(series.stored, volume)


@pytest.mark.parametrize("syntax", [*LOSSLESS_ELSEWHERE, *LOSSY_ELSEWHERE])
def test_syntaxes_that_we_can_only_read(syntax: str) -> None:
    with np.load(Path(__file__).parents[1] / "data" / "codestreams.npz") as pictures:
        codestream = pictures[syntax].tobytes()
        bits, error = LOSSY_ELSEWHERE.get(syntax) or (LOSSLESS_ELSEWHERE[syntax], 0)
        image = pictures["image_8bit" if bits == 8 else "image_12bit"]
    name, data = classic_files(Recipe(image[None], bits_stored=bits))[0]
    instance = dcmread(BytesIO(data))
    instance.PixelData = encapsulate([codestream])
    instance["PixelData"].VR = "OB"
    instance["PixelData"].is_undefined_length = True
    instance.file_meta.TransferSyntaxUID = UID(syntax)
    stream = BytesIO()
    instance.save_as(stream)
    stored = read_one([(name, stream.getvalue())]).stored[0].astype(int)
    assert np.abs(stored - image).max() <= error


@pytest.mark.parametrize("error", [0, 1, 7])
@pytest.mark.parametrize(
    ("kind", "bits", "low", "high"),
    [
        ("<u1", 8, 0, 256),
        ("<u2", 8, 0, 256),
        ("<u2", 12, 0, 4096),
        ("<u2", 16, 0, 65536),
        ("<i2", 12, -2048, 2048),
        ("<i2", 16, -30000, 30000),
    ],
)
def test_the_quick_jpeg_ls_decoder_gives_what_the_slow_one_does(
    kind: str, bits: int, low: int, high: int, error: int
) -> None:
    """The standard leaves decoders no choice, of near-lossless images neither (T.87 A.5)."""
    image = np.linspace(low, high - 1, 47 * 61).reshape(1, 47, 61).astype(kind)
    image ^= (noise("<u1", 0, 8)[:1]).astype(kind)
    instance = dcmread(BytesIO(classic_files(Recipe(image, bits_stored=bits))[0][1]))
    if error and image.dtype.kind == "i":
        pytest.skip("the encoder has no near-lossless coding of signed values")
    syntax = JPEGLSNearLossless if error else JPEGLSLossless
    instance.compress(syntax, jls_error=error or None)
    quick, slow = (
        get_decoder(syntax).as_array(instance, raw=True, decoding_plugin=plugin)[0]
        for plugin in ("pyjpegls", "pylibjpeg")
    )
    assert quick.dtype == slow.dtype
    np.testing.assert_array_equal(quick, slow)
    assert np.abs(quick.astype(int) - image[0]).max() <= error


def test_implicit_data_declared_explicit() -> None:
    """A known fault of old writers: the declared syntax and the data set's own disagree."""
    volume = noise("<u2", 0, 4096)
    files = []
    for instance in classic_instances(Recipe(volume, bits_stored=12)):
        implicit = BytesIO()
        instance.save_as(implicit, implicit_vr=True, little_endian=True)
        explicit = to_bytes(instance)
        meta_bytes = 132 + 12 + int.from_bytes(explicit[140:144], "little")
        files.append(("x", explicit[:meta_bytes] + implicit.getvalue()))
    np.testing.assert_array_equal(read_one(files).stored, volume)

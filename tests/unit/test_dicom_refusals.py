"""What can't be processed is refused with its code, a helpful sentence and no patient data."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from client.dicom.reader import read_study
from client.dicom.series import SeriesRefusal
from client.errors import RefusalCode, Rejected
from client.limits import ReadLimits
from tests.dicom_factory import (
    ORIENTATIONS,
    Recipe,
    classic_files,
    classic_instances,
    enhanced_file,
    numbered_volume,
    to_bytes,
)

pytestmark = pytest.mark.unit

LIMITS = ReadLimits()
RECIPE = Recipe(numbered_volume(6, 4, 5))
Files = list[tuple[str, bytes]]


def refused(files: Files, limits: ReadLimits = LIMITS) -> SeriesRefusal:
    content = read_study(files, limits)
    assert content.series == ()
    assert len(content.refusals) == 1
    refusal = content.refusals[0]
    assert 40 < len(refusal.reason) < 600
    for secret in ("Factory", "F-1", "1.2.826", "19700101"):
        assert secret not in refusal.reason
    return refusal


def code_of(edit: Callable[[Dataset, int], None], recipe: Recipe = RECIPE) -> RefusalCode:
    return refused(classic_files(recipe, edit)).code


def setting(keyword: str, value: Any, only: int | None = None) -> Callable[[Dataset, int], None]:
    def edit(instance: Dataset, index: int) -> None:
        if only is None or index == only:
            if value is None:
                delattr(instance, keyword)
            else:
                setattr(instance, keyword, value)

    return edit


def patched(old: bytes, new: bytes, files: Files) -> Files:
    """Values that can't be set in a dataset are set in the bytes."""
    assert len(old) == len(new)
    assert all(old in data for _, data in files)
    return [(name, data.replace(old, new)) for name, data in files]


def moved(by: Callable[[int], float], along: int) -> Callable[[Dataset, int], None]:
    """Shifts slices of an axial series along one patient axis."""

    def edit(instance: Dataset, index: int) -> None:
        position = [float(value) for value in instance.ImagePositionPatient]
        position[along] += by(index)
        instance.ImagePositionPatient = [f"{value:.6f}" for value in position]

    return edit


def test_gaps() -> None:
    files = classic_files(RECIPE)
    assert refused(files[:2] + files[3:]).code == "MISSING_SLICE"
    assert "2 are missing in 1 gaps" in refused(files[:2] + files[4:]).reason
    assert "every 2.00 mm, but 1 are missing" in refused(files[:1] + files[2:4]).reason


def test_uneven_distances() -> None:
    assert code_of(moved(lambda i: 0.5 * (i == 3), along=2)) == "MIXED_SPACING"
    assert code_of(moved(lambda i: 0.2 * i * i, along=2)) == "MIXED_SPACING"


def test_positions_rounded_in_the_header_are_even() -> None:
    rounded = moved(lambda i: round(1.25 * i, 1) - 1.25 * i, along=2)
    files = classic_files(replace(RECIPE, distance_mm=1.25), rounded)
    assert read_study(files, LIMITS).series[0].slice_distance_mm == pytest.approx(1.25, abs=0.02)


def test_two_slices_at_one_place() -> None:
    instances = classic_instances(RECIPE)
    instances[5].ImagePositionPatient = instances[4].ImagePositionPatient
    assert refused([(str(i), to_bytes(x)) for i, x in enumerate(instances)]).code == (
        "DUPLICATE_SLICE"
    )


def test_same_pixels_under_another_uid_are_a_duplicate() -> None:
    again = classic_files(RECIPE, setting("SOPInstanceUID", "1.2.3", only=2))[2]
    assert refused([*classic_files(RECIPE), again]).code == "DUPLICATE_SLICE"


def test_one_uid_with_two_contents() -> None:
    other = classic_files(RECIPE, setting("InstanceNumber", 77))
    assert refused([*classic_files(RECIPE), other[0]]).code == "DUPLICATE_SLICE"


def test_several_volumes_in_one_series_name_what_differs() -> None:
    def second(instance: Dataset, index: int) -> None:
        instance.SOPInstanceUID = f"1.2.3.{index}"
        instance.EchoTime = "80"

    files = classic_files(RECIPE, setting("EchoTime", "20")) + classic_files(RECIPE, second)
    refusal = refused(files)
    assert refusal.code == "MULTIPLE_VOLUMES"
    assert "Echo Time (0018,0081)" in refusal.reason
    assert refusal.instances == 12


def test_several_stacks_or_echoes_in_one_enhanced_instance() -> None:
    def stacks(group: Dataset, index: int) -> None:
        group.FrameContentSequence[0].StackID = str(index // 3)

    def echoes(group: Dataset, index: int) -> None:
        echo = Dataset()
        echo.EffectiveEchoTime = 20.0 * (1 + index % 2)
        group.MREchoSequence = Items([echo])
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2 * (index // 2)]

    assert "Stack ID" in refused(enhanced_file(RECIPE, stacks)).reason
    refusal = refused(enhanced_file(RECIPE, echoes))
    assert refusal.code == "MULTIPLE_VOLUMES"
    assert "Effective Echo Time" in refusal.reason


def test_two_enhanced_instances_in_one_series() -> None:
    other = enhanced_file(replace(RECIPE, attributes={"SOPInstanceUID": "1.2.3"}))
    assert refused(enhanced_file(RECIPE) + other).code == "MULTIPLE_VOLUMES"


def test_localizer_of_three_orientations() -> None:
    def turn(instance: Dataset, index: int) -> None:
        name = ("axial", "coronal", "sagittal")[index % 3]
        instance.ImageOrientationPatient = list(ORIENTATIONS[name])

    assert code_of(turn) == "MIXED_ORIENTATION"


def test_tilted_gantry_and_shifted_slices() -> None:
    assert code_of(moved(lambda i: 2.0 * i * np.tan(np.radians(15)), along=1)) == "GANTRY_TILT"
    assert code_of(moved(lambda i: 3.0 * (i == 2), along=0)) == "GANTRY_TILT"


def test_mixed_grids() -> None:
    assert code_of(setting("PixelSpacing", ["1.2", "1"], only=4)) == "MIXED_SPACING"
    small = classic_instances(replace(RECIPE, volume=numbered_volume(6, 4, 4)))[5]
    files = [*classic_files(RECIPE)[:5], ("small", to_bytes(small))]
    assert refused(files).code == "MIXED_SPACING"


@pytest.mark.parametrize(
    "keyword",
    ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"],
)
def test_missing_geometry(keyword: str) -> None:
    assert code_of(setting(keyword, None)) == "NO_GEOMETRY"
    refusal = refused(classic_files(RECIPE, setting(keyword, "")))
    assert refusal.code == "NO_GEOMETRY"
    assert "Frame of Reference UID" in refusal.reason


def test_mosaics_hold_many_slices_in_one_picture() -> None:
    mosaic = setting("ImageType", ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "MOSAIC"])
    refusal = refused(classic_files(RECIPE, mosaic))
    assert refusal.code == "NO_GEOMETRY"
    assert "mosaics" in refusal.reason


def test_cine_without_positions() -> None:
    def as_cine(instance: Dataset, _: int) -> None:
        instance.NumberOfFrames, instance.Rows = 2, 2

    assert code_of(as_cine) == "NO_GEOMETRY"


def test_one_slice_of_unknown_thickness() -> None:
    files = classic_files(replace(RECIPE, order=[0]), setting("SliceThickness", None))
    assert refused(files).code == "NO_GEOMETRY"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", ["0", "1"]),
        ("PixelSpacing", ["-1", "1"]),
        ("PixelSpacing", ["1e9", "1"]),
        ("PixelSpacing", ["1", "1", "1"]),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "2", "0"]),
        ("ImageOrientationPatient", ["1", "0", "0", "0.5", "0.8660254", "0"]),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
        ("ImagePositionPatient", ["1", "2"]),
        ("RescaleSlope", "0"),
        ("BitsStored", 17),
        ("HighBit", 3),
        ("PixelRepresentation", 2),
        ("SamplesPerPixel", None),
        ("NumberOfFrames", "0"),
        ("Rows", None),
        ("StudyInstanceUID", None),
        ("SOPInstanceUID", None),
    ],
)
def test_impossible_attributes(keyword: str, value: Any) -> None:
    refusal = refused(classic_files(RECIPE, setting(keyword, value)))
    assert refusal.code == "INVALID_ATTRIBUTE"


@pytest.mark.parametrize("word", [b"nan", b"inf", b"1e9", b"abc", b"1.x"])
def test_spacing_that_is_no_number(word: bytes) -> None:
    files = classic_files(replace(RECIPE, spacing_mm=(1.5, 1.5)))
    assert refused(patched(b"1.5\\1.5", word + b"\\1.5", files)).code == "INVALID_ATTRIBUTE"


def test_disagreement_within_a_series() -> None:
    for keyword, value in (
        ("Modality", "CT"),
        ("PhotometricInterpretation", "MONOCHROME1"),
        ("FrameOfReferenceUID", "1.2.9"),
        ("StudyInstanceUID", "1.2.9"),
    ):
        assert code_of(setting(keyword, value, only=2)) == "INVALID_ATTRIBUTE"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PhotometricInterpretation", "RGB"),
        ("PhotometricInterpretation", "PALETTE COLOR"),
        ("PhotometricInterpretation", "YBR_FULL_422"),
        ("PhotometricInterpretation", None),
        ("SamplesPerPixel", 3),
        ("PixelPresentation", "COLOR"),
    ],
)
def test_colour(keyword: str, value: Any) -> None:
    assert code_of(setting(keyword, value)) == "COLOUR"


def test_no_pixels() -> None:
    assert code_of(setting("PixelData", None)) == "NO_PIXELS"
    assert code_of(setting("PixelData", b"", only=1)) == "NO_PIXELS"
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = "1.2.840.10008.1.3.10", "1.2.3"
    refusal = refused([("DICOMDIR", to_bytes(directory))])
    assert refusal.code == "NO_PIXELS"
    assert "a DICOMDIR" in refusal.reason


def test_floating_point_pixels() -> None:
    def as_floats(instance: Dataset, _: int) -> None:
        del instance.PixelData
        instance.FloatPixelData = np.zeros((4, 5), "<f4").tobytes()

    assert code_of(as_floats) == "INVALID_ATTRIBUTE"


def test_truncated_native_pixels() -> None:
    name, data = classic_files(RECIPE)[0]
    assert refused([(name, data[:-6])]).code == "TRUNCATED_PIXELS"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_truncated_codestreams(syntax: str) -> None:
    noise = np.random.default_rng(5).integers(0, 4000, (1, 64, 64)).astype("<u2")
    name, data = classic_files(Recipe(noise, bits_stored=12, syntax=syntax))[0]
    assert refused([(name, data[: len(data) // 2])]).code == "TRUNCATED_PIXELS"
    instance = dcmread(BytesIO(data))
    start = data.index(instance.PixelData[16:])
    broken = bytearray(data)
    broken[start + 40 : start + 400] = bytes(360)
    content = read_study([(name, bytes(broken))], LIMITS)
    assert len(content.series) + len(content.refusals) == 1


def test_fewer_frames_than_declared() -> None:
    name, data = enhanced_file(replace(RECIPE, syntax=RLELossless))[0]
    instance = dcmread(BytesIO(data))
    instance.NumberOfFrames = 7
    instance.PerFrameFunctionalGroupsSequence.append(instance.PerFrameFunctionalGroupsSequence[0])
    stream = BytesIO()
    instance.save_as(stream)
    assert refused([(name, stream.getvalue())]).code in {"TRUNCATED_PIXELS", "DUPLICATE_SLICE"}


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.52", "1.2.3.4"])
def test_syntax_without_decoder(syntax: str) -> None:
    instance = dcmread(BytesIO(classic_files(replace(RECIPE, syntax=RLELossless))[0][1]))
    instance.file_meta.TransferSyntaxUID = UID(syntax)
    stream = BytesIO()
    instance.save_as(stream, implicit_vr=False, little_endian=True)
    assert refused([("video", stream.getvalue())]).code == "UNDECODABLE"


def test_not_dicom() -> None:
    whole = classic_files(RECIPE)[0][1]
    for data in (b"", b"GIF89a", bytes(4000), whole[:132], whole[128:]):
        assert refused([("x", data)]).code == "NOT_DICOM"


@pytest.mark.parametrize("make", [classic_files, enhanced_file])
def test_a_file_cut_anywhere_is_refused(make: Any) -> None:
    whole = make(RECIPE)[0][1]
    for cut in range(133, len(whole), 37):
        refused([("x", whole[:cut])])


def test_a_deflated_bomb_is_not_inflated() -> None:
    instance = classic_instances(RECIPE)[0]
    plain = to_bytes(instance, DeflatedExplicitVRLittleEndian)
    start = plain.index(DeflatedExplicitVRLittleEndian.encode())
    assert read_study([("ok", plain)], LIMITS).series[0].stored.shape == (1, 4, 5)
    meta_end = 132 + 12 + int.from_bytes(plain[140:144], "little")
    assert start < meta_end
    packer = zlib.compressobj(9, wbits=-15)
    bomb = plain[:meta_end] + packer.compress(bytes(50_000_000)) + packer.flush()
    assert len(bomb) < 60_000
    limits = replace(LIMITS, max_file_bytes=1_000_000)
    assert refused([("bomb", bomb)], limits).code == "TOO_LARGE"
    assert refused([("cut", plain[:-20])]).code == "NOT_DICOM"


def test_deep_nesting_does_not_overflow_the_stack() -> None:
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    sequence = b"\x00\x52\x29\x92SQ\x00\x00\xff\xff\xff\xff"
    files = classic_files(RECIPE)
    unknown = sequence.replace(b"SQ", b"UN")
    private = sequence.replace(b"\x00\x52\x29\x92", b"\x29\x00\x10\x10")
    for kind in (sequence, unknown, private):
        nested = files[0][1] + (kind + item) * 5000
        assert refused([("deep", nested)]).code == "TOO_LARGE"


@pytest.mark.parametrize(
    "limits",
    [
        replace(LIMITS, max_side=4),
        replace(LIMITS, max_frames=5),
        replace(LIMITS, max_pixel_bytes=6 * 4 * 5 * 2 - 1),
        replace(LIMITS, max_file_bytes=600),
    ],
)
def test_limits(limits: ReadLimits) -> None:
    assert refused(classic_files(RECIPE), limits).code == "TOO_LARGE"
    assert refused(enhanced_file(RECIPE), limits).code == "TOO_LARGE"


def test_declared_size_takes_no_memory() -> None:
    def huge(instance: Dataset, _: int) -> None:
        instance.Rows = instance.Columns = 60000

    assert code_of(huge) == "TOO_LARGE"
    assert code_of(setting("NumberOfFrames", "2000000000")) == "TOO_LARGE"


def test_limits_of_the_whole_study() -> None:
    with pytest.raises(Rejected) as caught:
        read_study(classic_files(RECIPE), replace(LIMITS, max_files=5))
    assert caught.value.code is RefusalCode.TOO_LARGE
    with pytest.raises(Rejected) as caught:
        read_study([], LIMITS)
    assert caught.value.code is RefusalCode.NO_IMAGES
    both = classic_files(RECIPE) + classic_files(replace(RECIPE, series=2))
    content = read_study(both, replace(LIMITS, max_pixel_bytes=6 * 4 * 5 * 2))
    assert (len(content.series), content.refusals[0].code) == (1, "TOO_LARGE")


def test_bytes_changed_at_random_never_crash() -> None:
    rng = np.random.default_rng(11)
    whole = np.frombuffer(enhanced_file(RECIPE)[0][1], np.uint8)
    for _ in range(150):
        broken = whole.copy()
        places = rng.integers(132, len(broken), 4)
        broken[places] = rng.integers(0, 256, 4)
        content = read_study([("x", broken.tobytes())], replace(LIMITS, max_pixel_bytes=1 << 20))
        assert len(content.series) + len(content.refusals) == 1

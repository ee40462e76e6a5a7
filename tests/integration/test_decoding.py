"""Frames decoded on several cores: the same pixels, refusals and ends as one after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from client.errors import RefusalCode, Rejected
from client.worker.isolation import Isolation, preload
from tests.dicom_factory import Recipe, classic_files, enhanced_file
from tests.integration import decoding_functions as functions
from tests.integration.decoding_functions import Outcome

pytestmark = pytest.mark.integration

GIB = 1 << 30
RECOVERED = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57"}
RECOVERED |= {"1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203"}
MODES = [("<u2", 12, 0, 4096), ("<i2", 16, -30000, 30000), ("<i2", 12, -2048, 2048)]
MODES += [("<u1", 8, 0, 256)]


@pytest.fixture(scope="module", autouse=True)
def _known_modules() -> None:
    """Import them once, unless another test has started the server process of the children."""
    preload(["client.worker.forerunner", functions.__name__])


@pytest.fixture
def isolation() -> Isolation:
    return Isolation(timeout_s=20.0, memory_bytes=4 * GIB)


def recipe(
    syntax: str, mode: tuple[str, int, int, int] = MODES[0], slices: int = 12, side: int = 61
) -> Recipe:
    kind, bits, low, high = mode
    volume = np.random.default_rng(5).integers(low, high, (slices, side, side + 3)).astype(kind)
    return Recipe(volume, bits_stored=bits, syntax=syntax)


def contents(files: list[tuple[str, bytes]]) -> list[bytes]:
    return [data for _, data in files]


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert found[1] == expected[1]
    assert len(found[0]) == len(expected[0])
    for ours, plain in zip(found[0], expected[0], strict=True):
        assert ours.dtype == plain.dtype
        np.testing.assert_array_equal(ours, plain)


def with_frames(template: bytes, frames: list[bytes], syntax: str) -> bytes:
    """The same instance with other pixel data."""
    instance = dcmread(BytesIO(template))
    instance.PixelData = encapsulate(frames)
    instance["PixelData"].VR = "OB"
    instance["PixelData"].is_undefined_length = True
    instance.file_meta.TransferSyntaxUID = UID(syntax)
    stream = BytesIO()
    instance.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode[0][1:]}-{mode[1]}")
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("make", [classic_files, enhanced_file])
async def test_pixels_are_the_same(
    isolation: Isolation,
    syntax: str,
    mode: tuple[str, int, int, int],
    make: Callable[[Recipe], list[tuple[str, bytes]]],
) -> None:
    series = recipe(syntax, mode)
    files = contents(make(series))
    found, helpers = await isolation.run((), functions.decoded, files, 3)
    assert helpers == [3]
    assert_same(found, await isolation.run((), functions.decoded_alone, files))
    np.testing.assert_array_equal(np.concatenate(found[0]), series.volume)


@pytest.mark.parametrize("syntax", sorted(RECOVERED))
@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
async def test_pixels_of_other_syntaxes_are_the_same(
    isolation: Isolation, syntax: str, multi: bool
) -> None:
    with np.load(Path(__file__).parents[1] / "data" / "codestreams.npz") as pictures:
        codestream = pictures[syntax].tobytes()
        eight = syntax.endswith(".50")
        image = pictures["image_8bit" if eight else "image_12bit"]
    bits = 16 if syntax.endswith((".201", ".203")) else 8 if eight else 12
    templates = (enhanced_file if multi else classic_files)(
        Recipe(np.stack([image] * 7), bits_stored=bits)
    )
    frames = [codestream] * (7 if multi else 1)
    files = [with_frames(data, frames, syntax) for _, data in templates]
    found, helpers = await isolation.run((), functions.decoded, files, 2)
    assert helpers == [2]
    assert not found[1]
    assert_same(found, await isolation.run((), functions.decoded_alone, files))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
async def test_what_decodes_at_once_has_no_helpers(isolation: Isolation, syntax: str) -> None:
    files = contents(classic_files(recipe(syntax)))
    found, helpers = await isolation.run((), functions.decoded, files, 3)
    assert helpers == []
    assert_same(found, await isolation.run((), functions.decoded_alone, files))


async def test_series_of_several_syntaxes(isolation: Isolation) -> None:
    files = [
        contents(classic_files(recipe(syntax)))[number]
        for number, syntax in enumerate([JPEG2000Lossless, RLELossless, ExplicitVRLittleEndian] * 4)
    ]
    found, helpers = await isolation.run((), functions.decoded, files, 3)
    assert helpers == [3]
    assert_same(found, await isolation.run((), functions.decoded_alone, files))


async def test_frames_that_state_different_things_are_decoded_together(
    isolation: Isolation,
) -> None:
    """Of several frames pydicom corrects all signs by the last one."""
    frames = [
        next(generate_frames(dcmread(BytesIO(data)).PixelData, number_of_frames=1))
        for mode in (MODES[0], MODES[2])
        for data in contents(classic_files(recipe(JPEG2000Lossless, mode, slices=3)))
    ]
    template = enhanced_file(recipe(ExplicitVRLittleEndian, MODES[2], slices=6))[0][1]
    files = [with_frames(template, frames, JPEG2000Lossless)]
    found, helpers = await isolation.run((), functions.decoded, files, 3)
    assert helpers == []
    assert not found[1]
    assert_same(found, await isolation.run((), functions.decoded_alone, files))


@pytest.mark.parametrize("order", [(3, 9), (9, 3)])
async def test_the_first_instance_that_is_refused_says_why(
    isolation: Isolation, order: tuple[int, int]
) -> None:
    """Whichever frame fails first in time."""
    files = contents(classic_files(recipe(JPEG2000Lossless)))
    cut, broken = order
    files[cut] = files[cut].replace(b"\xff\xd9", b"\x00\x00")
    at = files[broken].index(b"\xff\x52")
    files[broken] = files[broken][:at] + bytes(14) + files[broken][at + 14 :]
    found = await isolation.run((), functions.outcome, files, 3)
    assert_same(found, await isolation.run((), functions.decoded_alone, files))
    assert len(found[0]) == 3
    assert found[1].startswith("TRUNCATED_PIXELS" if cut == 3 else "UNDECODABLE")


@cache
def _healthy(syntax: str, multi: bool) -> list[bytes]:
    make = enhanced_file if multi else classic_files
    return contents(make(recipe(syntax, side=40)))


@given(
    damage=st.lists(
        st.tuples(st.integers(0, 11), st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
    syntax=st.sampled_from([JPEG2000Lossless, JPEGLSLossless]),
    multi=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_damaged_series_end_the_same(
    damage: list[tuple[int, float, int]], syntax: str, multi: bool
) -> None:
    healthy = _healthy(syntax, multi)
    files = [bytearray(data) for data in healthy]
    mark = b"\xff\x4f\xff\x51" if syntax == JPEG2000Lossless else b"\xff\xd8\xff"
    for number, place, byte in damage:
        data = files[number % len(files)]
        start = healthy[number % len(files)].index(mark)
        data[start + int(place * (len(data) - start))] = byte
    given_files = [bytes(data) for data in files]

    async def both() -> tuple[Outcome | str, Outcome | str]:
        isolation = Isolation(timeout_s=20.0, memory_bytes=4 * GIB)
        return (
            await _or_refusal(isolation.run((), functions.outcome, given_files, 3)),
            await _or_refusal(isolation.run((), functions.decoded_alone, given_files)),
        )

    ours, plain = asyncio.run(both())
    if isinstance(ours, str) or isinstance(plain, str):
        assert ours == plain
    else:
        assert_same(ours, plain)


async def _or_refusal(call: Awaitable[Outcome]) -> Outcome | str:
    try:
        return await call
    except Rejected as refusal:
        return f"{refusal.code}: {refusal.reason}"


@pytest.mark.parametrize("fault", ["crash", "eat"])
async def test_a_helper_that_dies_is_not_missed(
    isolation: Isolation, tmp_path: Path, fault: str
) -> None:
    files = contents(classic_files(recipe(JPEG2000Lossless)))
    found, helpers = await isolation.run(
        (), functions.decoded_with_fault, files, fault, False, str(tmp_path / "helpers")
    )
    assert helpers == [3]
    assert_same(found, await isolation.run((), functions.decoded_alone, files))
    _assert_ended(tmp_path / "helpers")


@pytest.mark.parametrize("allowed", [0, 1])
async def test_helpers_that_cannot_be_started_are_not_missed(
    isolation: Isolation, allowed: int
) -> None:
    files = contents(classic_files(recipe(JPEG2000Lossless)))
    found = await isolation.run((), functions.decoded_with_few_processes, files, allowed)
    assert_same(found, await isolation.run((), functions.decoded_alone, files))


async def test_a_decoder_that_crashes_ends_the_reader(isolation: Isolation, tmp_path: Path) -> None:
    files = contents(classic_files(recipe(JPEG2000Lossless)))
    with pytest.raises(Rejected) as caught:
        await isolation.run(
            (), functions.decoded_with_fault, files, "crash", True, str(tmp_path / "helpers")
        )
    assert caught.value.code is RefusalCode.DECODER_CRASHED
    _assert_ended(tmp_path / "helpers")


async def test_a_decoder_that_hangs_is_stopped_in_time(tmp_path: Path) -> None:
    files = contents(classic_files(recipe(JPEG2000Lossless)))
    began = time.monotonic()
    with pytest.raises(Rejected) as caught:
        await Isolation(timeout_s=2.0, memory_bytes=4 * GIB).run(
            (), functions.decoded_with_fault, files, "hang", True, str(tmp_path / "helpers")
        )
    assert caught.value.code is RefusalCode.TIMED_OUT
    assert time.monotonic() - began < 10
    _assert_ended(tmp_path / "helpers")


def _assert_ended(notes: Path) -> None:
    pids = {int(line) for line in notes.read_text(encoding="ascii").split()}
    assert pids
    deadline = time.monotonic() + 5
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(psutil.pid_exists, pids))


async def test_only_a_few_frames_lie_ahead(isolation: Isolation, tmp_path: Path) -> None:
    files = contents(classic_files(recipe(JPEG2000Lossless, slices=16)))
    counts = await isolation.run(
        (), functions.frames_decoded_ahead, files, str(tmp_path / "notes"), 2
    )
    assert counts == [min(16, taken + 5) for taken in range(16)]


@pytest.mark.parametrize(("processes", "expected"), [(1, []), (2, [2]), (64, [4])])
async def test_helpers_follow_cores_and_work(
    isolation: Isolation, processes: int, expected: list[int]
) -> None:
    files = contents(classic_files(recipe(JPEG2000Lossless, slices=8, side=800)))
    assert await isolation.run((), functions.helpers, files, processes) == expected


async def test_helpers_share_the_memory_of_one_process(tmp_path: Path) -> None:
    """Else a study could have the allowed memory as many times as there are cores."""
    files = contents(classic_files(recipe(JPEG2000Lossless, slices=16, side=400)))
    notes = str(tmp_path / "notes")
    counts = []
    for memory_bytes in (GIB // 2, GIB, 2 * GIB):
        tight = Isolation(timeout_s=20.0, memory_bytes=memory_bytes)
        room, rooms = await tight.run((), functions.rooms_of_helpers, files, notes, 64)
        counts.append(len(rooms))
        # The room is looked up a moment later, and half of what was mapped meanwhile is missing.
        assert sum(rooms) <= room + (4 << 20)
        assert room < memory_bytes // 2
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1]

"""Bundles: what goes in comes out, the same every time, and nothing else is taken."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.errors import ConfigurationError, RefusalCode, Rejected
from client.ingest.bundle import read_bundle, result_bundle, study_bundle
from client.limits import BundleLimits

pytestmark = pytest.mark.unit

LIMITS = BundleLimits()


def packed(files: list[bytes]) -> bytes:
    return b"".join(study_bundle(files).chunks())


def refusal(bundle: bytes, limits: BundleLimits = LIMITS) -> RefusalCode:
    with pytest.raises(Rejected) as caught:
        list(read_bundle(bundle, limits))
    return caught.value.code


FILES = st.lists(st.binary(max_size=2000), min_size=1, max_size=6)


@given(FILES)
def test_round_trip(files: list[bytes]) -> None:
    got = list(read_bundle(packed(files), LIMITS))
    assert [content for _, content in got] == files
    assert [name for name, _ in got] == [f"{n:06d}.dcm" for n in range(1, len(files) + 1)]


@given(FILES)
def test_any_tar_program_reads_it(files: list[bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(files)), mode="r:") as archive:
        members = archive.getmembers()
        contents = [archive.extractfile(m).read() for m in members]  # type: ignore[union-attr]
    assert contents == files
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


@given(FILES)
def test_length_and_digest_are_known_beforehand(files: list[bytes]) -> None:
    bundle = study_bundle(files)
    whole = b"".join(bundle.chunks())
    assert bundle.length == len(whole) == bundle.digest().length
    assert whole == b"".join(bundle.chunks())


@settings(max_examples=300)
@given(FILES, st.data())
def test_no_cut_is_taken_for_a_whole(files: list[bytes], data: st.DataObject) -> None:
    whole = packed(files)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert refusal(whole[:cut]) is RefusalCode.BAD_BUNDLE


@settings(max_examples=300)
@given(st.binary(max_size=3000))
def test_arbitrary_bytes_are_refused_with_a_code(junk: bytes) -> None:
    assert refusal(junk) is RefusalCode.BAD_BUNDLE


@settings(max_examples=200)
@given(FILES, st.data())
def test_a_damaged_header_is_refused(files: list[bytes], data: st.DataObject) -> None:
    damaged = bytearray(packed(files))
    damaged[data.draw(st.integers(0, 147))] ^= 1 << data.draw(st.integers(0, 7))
    assert refusal(bytes(damaged)) is RefusalCode.BAD_BUNDLE


def archive(fill: Callable[[tarfile.TarFile], None], form: int = tarfile.USTAR_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as made:
        fill(made)
    return target.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    def fill(made: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        made.addfile(info)

    return archive(fill)


def twice(made: tarfile.TarFile) -> None:
    for _ in range(2):
        made.addfile(tarfile.TarInfo("a.dcm"))


@pytest.mark.parametrize(
    "bundle",
    [
        member("/etc/passwd"),
        member("../up.dcm"),
        member("a/b.dcm"),
        member("./a.dcm"),
        member(".hidden"),
        member("a b.dcm"),
        member("DOE^JANE.dcm"),
        member("a.dcm", tarfile.SYMTYPE, "/etc/passwd"),
        member("a.dcm", tarfile.LNKTYPE, "b.dcm"),
        member("a", tarfile.DIRTYPE),
        member("a", tarfile.FIFOTYPE),
        member("a", tarfile.CHRTYPE),
        member("a", tarfile.CONTTYPE),
        archive(lambda a: a.addfile(tarfile.TarInfo("ä.dcm"))),
        archive(lambda a: a.addfile(tarfile.TarInfo("a" * 101)), tarfile.GNU_FORMAT),
        archive(lambda a: a.addfile(tarfile.TarInfo("a" * 101)), tarfile.PAX_FORMAT),
        archive(twice),
        bytes(10240),
        b"",
    ],
)
def test_only_regular_files_with_plain_names(bundle: bytes) -> None:
    assert refusal(bundle) is RefusalCode.BAD_BUNDLE


def test_a_standard_writers_padding_is_taken() -> None:
    def fill(made: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("1.dcm")
        info.size = 5
        made.addfile(info, io.BytesIO(b"hello"))

    bundle = archive(fill)
    assert len(bundle) == 10240
    assert [(name, bytes(part)) for name, part in read_bundle(bundle, LIMITS)] == [
        ("1.dcm", b"hello")
    ]
    assert refusal(bundle[:-1] + b"x") is RefusalCode.BAD_BUNDLE
    assert refusal(bundle + bytes(1 << 20)) is RefusalCode.BAD_BUNDLE


def test_limits_hold_exactly() -> None:
    whole = packed([b"x" * 100] * 3)
    for limits in (
        BundleLimits(max_files=2),
        BundleLimits(max_file_bytes=99),
        BundleLimits(max_bytes=len(whole) - 1),
    ):
        assert refusal(whole, limits) is RefusalCode.TOO_LARGE
    exact = BundleLimits(max_files=3, max_file_bytes=100, max_bytes=len(whole))
    assert len(list(read_bundle(whole, exact))) == 3


def test_refusals_never_repeat_a_name() -> None:
    with pytest.raises(Rejected) as caught:
        list(read_bundle(member("DOE^JANE.dcm"), LIMITS))
    assert "JANE" not in str(caught.value)


def test_files_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "DOE^JANE.dcm"
    path.write_bytes(b"x" * 700)
    bundle = study_bundle([path])
    assert b"JANE" not in b"".join(bundle.chunks())
    path.write_bytes(b"x" * 701)
    with pytest.raises(ConfigurationError, match="File 1 changed"):
        bundle.digest()
    path.write_bytes(b"x" * 699)
    with pytest.raises(ConfigurationError, match="File 1 changed"):
        bundle.digest()
    path.unlink()
    with pytest.raises(ConfigurationError, match="File 1 cannot be read"):
        bundle.digest()
    with pytest.raises(ConfigurationError, match="regular file"):
        study_bundle([tmp_path])
    with pytest.raises(ConfigurationError, match="at least one"):
        study_bundle([])


def test_result_bundles_keep_plain_names_only() -> None:
    files = {"segmentation-1.dcm": b"SEG", "measurements.json": b"{}"}
    assert dict(read_bundle(b"".join(result_bundle(files).chunks()), LIMITS)) == files
    with pytest.raises(ConfigurationError, match="plain"):
        result_bundle({"a/b": b""})


def test_files_are_read_only_views_of_the_bundle() -> None:
    bundle = bytearray(packed([b"hello"]))
    ((_, content),) = read_bundle(bundle, LIMITS)
    assert content.readonly
    bundle[512:517] = b"HELLO"
    assert bytes(content) == b"HELLO"

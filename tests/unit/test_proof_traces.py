"""The search behind the canary proof finds what it says it finds, and nothing else."""

from __future__ import annotations

import base64
import random
import string
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.proof.traces import ENCODINGS, Searcher, Secret, encodings

pytestmark = pytest.mark.unit

RNG = random.Random(5)
TEXT = "".join(RNG.choices(string.ascii_uppercase, k=14))
RAW = bytes([250, 255, 254, 251]) + RNG.randbytes(20)


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    others = ("".join(RNG.choices(string.ascii_uppercase, k=14)) for _ in range(500))
    secrets = [Secret(n, "name", value) for n, value in enumerate(others, start=2)]
    return Searcher([Secret(0, "name", TEXT), Secret(1, "pixels", RAW), *secrets])


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("case", [str, str.lower, str.upper])
def test_text_is_found_in_every_encoding_at_every_offset(
    searcher: Searcher, case: type[str], before: int
) -> None:
    inside = "~" * before + case(TEXT) + "~" * 3
    written = {
        "utf-8": inside.encode(),
        "utf-16-le": inside.encode("utf-16-le"),
        "utf-16-be": inside.encode("utf-16-be"),
        "base64": base64.b64encode(inside.encode()),
        "hex": inside.encode().hex().encode(),
        "url": "".join(f"%{byte:02X}" for byte in inside.encode()).encode(),
        "reversed": inside.encode()[::-1],
    }
    assert set(written) == set(ENCODINGS)
    for encoding, content in written.items():
        traces = searcher.in_bytes(RNG.randbytes(99) + content + RNG.randbytes(99), "here")
        assert (0, encoding) in {(trace.secret.owner, trace.encoding) for trace in traces}


def test_raw_bytes_are_found_too(searcher: Searcher) -> None:
    for before in range(3):
        inside = bytes(before) + RAW + b"x"
        for content in (
            inside,
            inside[::-1],
            base64.b64encode(inside),
            base64.urlsafe_b64encode(inside),
            inside.hex().encode(),
            inside.hex().upper().encode(),
            quote(inside).encode(),
        ):
            assert {trace.secret.owner for trace in searcher.in_bytes(content, "here")} == {1}


def test_nothing_is_found_in_noise(searcher: Searcher, tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(RNG.randbytes(1 << 20) + base64.b64encode(RNG.randbytes(1 << 20)))
    assert searcher.in_file(noise, "here") == set()
    (tmp_path / "empty").touch()
    assert searcher.in_file(tmp_path / "empty", "here") == set()


def test_a_name_of_a_file_counts(searcher: Searcher, tmp_path: Path) -> None:
    path = tmp_path / f"{TEXT.lower()}.dcm"
    path.write_bytes(b"nothing")
    assert [t.place for t in searcher.in_file(path, "here")] == ["here (name)"]


def test_secrets_that_chance_could_write_are_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        encodings("DOE")

"""The envelope gives back exactly what was sealed, or nothing."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.crypto.digest import Digest
from client.crypto.envelope import CHUNK_BYTES, DataKey, ciphertext_length
from client.crypto.keyring import Keyring
from client.errors import ConfigurationError, NotFound, RefusalCode, Rejected

pytestmark = pytest.mark.unit

SEGMENT = 1024 * 1024
FIRST = SEGMENT - 56
BINDING = b"the ids of one study"


def sealed(key: DataKey, plaintext: bytes, binding: bytes = BINDING) -> bytes:
    return b"".join(key.seal([plaintext], binding, Digest.of([plaintext])))


def collect(pieces: Iterator[bytes], got: bytearray) -> None:
    for piece in pieces:
        got += piece


def opened(
    key: DataKey, ciphertext: bytes, plaintext: bytes, binding: bytes = BINDING
) -> memoryview:
    return key.open(io.BytesIO(ciphertext), binding, Digest.of([plaintext]))


@pytest.mark.parametrize(
    "length", [1, 511, FIRST - 1, FIRST, FIRST + 1, FIRST + SEGMENT - 16, FIRST + SEGMENT - 15]
)
def test_round_trip_and_exact_length(length: int) -> None:
    plaintext = random.Random(length).randbytes(length)
    key = DataKey.new()
    ciphertext = sealed(key, plaintext)
    assert len(ciphertext) == ciphertext_length(length)
    assert opened(key, ciphertext, plaintext) == plaintext


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=8).filter(any))
def test_the_way_the_plaintext_is_cut_does_not_matter(chunks: list[bytes]) -> None:
    key, whole = DataKey.new(), b"".join(chunks)
    ciphertext = b"".join(key.seal(chunks, BINDING, Digest.of(chunks)))
    assert opened(key, ciphertext, whole) == whole


def test_pieces_are_bounded_even_when_the_plaintext_is_one_piece() -> None:
    plaintext = bytes(5 * SEGMENT)
    pieces = list(DataKey.new().seal([plaintext], BINDING, Digest.of([plaintext])))
    assert max(map(len, pieces)) <= CHUNK_BYTES


def test_two_seals_of_one_plaintext_share_no_block() -> None:
    key, plaintext = DataKey.new(), bytes(4096)
    one, two = sealed(key, plaintext), sealed(key, plaintext)
    blocks = {one[i : i + 16] for i in range(len(one) - 16)}
    assert not any(two[i : i + 16] in blocks for i in range(1, len(two) - 16))


def tampered(ciphertext: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield damaged copies of a ciphertext of three segments."""
    dice = random.Random(7)
    for bit in [*range(40 * 8), *(dice.randrange(len(ciphertext) * 8) for _ in range(40))]:
        copy = bytearray(ciphertext)
        copy[bit // 8] ^= 1 << (bit % 8)
        yield f"bit {bit}", bytes(copy)
    edges = (SEGMENT, 2 * SEGMENT, len(ciphertext))
    cuts = {max(0, edge + offset) for edge in edges for offset in (-17, -16, -1, 0, 1)}
    for cut in sorted((cuts | {0, 1, 39, 40, 41, 56}) - {len(ciphertext)}):
        if cut < len(ciphertext):
            yield f"cut at {cut}", ciphertext[:cut]
    one, two, three = (
        ciphertext[:SEGMENT],
        ciphertext[SEGMENT : 2 * SEGMENT],
        ciphertext[2 * SEGMENT :],
    )
    yield "segments swapped", one + three + two
    yield "segment dropped", one + three
    yield "segment doubled", one + two + two + three
    yield "byte appended", ciphertext + b"\0"
    yield "segment appended", ciphertext + two


def test_no_damage_is_accepted() -> None:
    plaintext = random.Random(1).randbytes(FIRST + SEGMENT + 1000)
    key = DataKey.new()
    ciphertext = sealed(key, plaintext)
    for what, damaged in tampered(ciphertext):
        with pytest.raises(Rejected) as caught:
            opened(key, damaged, plaintext)
        assert caught.value.code is RefusalCode.BAD_ENVELOPE, what


def test_another_binding_or_key_is_refused() -> None:
    key, plaintext = DataKey.new(), b"pixels"
    ciphertext = sealed(key, plaintext)
    for other, binding in ((key, b"another study"), (key, b""), (DataKey.new(), BINDING)):
        with pytest.raises(Rejected, match="BAD_ENVELOPE"):
            opened(other, ciphertext, plaintext, binding)


@pytest.mark.parametrize("announced", [b"pixel", b"pixels!", b"pixelz", b""])
def test_a_whole_ciphertext_of_other_data_is_refused(announced: bytes) -> None:
    key = DataKey.new()
    with pytest.raises(Rejected, match="BAD_ENVELOPE"):
        opened(key, sealed(key, b"pixels"), announced)


def test_a_broken_source_never_yields_an_openable_stream() -> None:
    """Tink finalises a stream that an exception closes: 2 of 3 MB would decrypt without error."""
    plaintext = bytes(3 * SEGMENT)
    key, digest, got = DataKey.new(), Digest.of([plaintext]), bytearray()

    def breaking() -> Iterator[bytes]:
        yield plaintext[: 2 * SEGMENT]
        raise ConnectionError("the disk went away")

    with pytest.raises(ConnectionError):
        collect(key.seal(breaking(), BINDING, digest), got)
    for announced in (digest, Digest.of([plaintext[: 2 * SEGMENT]])):
        with pytest.raises(Rejected):
            key.open(io.BytesIO(bytes(got)), BINDING, announced)


def test_a_source_that_changed_is_not_finalised() -> None:
    key, got = DataKey.new(), bytearray()
    pieces = key.seal([b"other pixels"], BINDING, Digest.of([b"some pixels!"]))
    with pytest.raises(ConfigurationError, match="changed while it was read"):
        collect(pieces, got)
    with pytest.raises(Rejected):
        opened(key, bytes(got), b"other pixels")


def test_data_keys_open_only_with_the_right_ring_id_and_binding(tmp_path: Path) -> None:
    ring, other = Keyring(tmp_path / "a"), Keyring(tmp_path / "b")
    recipient, stranger = ring.create(), other.create()
    key = DataKey.new()
    wrapped = key.wrap(recipient, BINDING)
    ciphertext = sealed(key, b"pixels")
    again = DataKey.unwrap(ring, recipient.key_id, wrapped, BINDING)
    assert bytes(opened(again, ciphertext, b"pixels")) == b"pixels"
    with pytest.raises(NotFound):
        DataKey.unwrap(other, recipient.key_id, wrapped, BINDING)
    with pytest.raises(Rejected, match="BAD_ENVELOPE"):
        DataKey.unwrap(other, stranger.key_id, wrapped, BINDING)
    with pytest.raises(Rejected, match="BAD_ENVELOPE"):
        DataKey.unwrap(ring, recipient.key_id, wrapped, b"another study")
    for position in range(0, len(wrapped), 3):
        damaged = bytearray(wrapped)
        damaged[position] ^= 1
        with pytest.raises(Rejected, match="BAD_ENVELOPE"):
            DataKey.unwrap(ring, recipient.key_id, bytes(damaged), BINDING)


@pytest.mark.parametrize("secret", [b"", b"not a keyset", bytes(131)])
def test_a_wrapped_thing_that_is_no_data_key_is_refused(tmp_path: Path, secret: bytes) -> None:
    ring = Keyring(tmp_path)
    recipient = ring.create()
    with pytest.raises(Rejected, match="AES256_GCM_HKDF_1MB") as caught:
        DataKey.unwrap(ring, recipient.key_id, recipient.wrap(secret, BINDING), BINDING)
    assert caught.value.code is RefusalCode.BAD_ENVELOPE

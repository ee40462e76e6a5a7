"""Every way to damage or exchange what was sealed, as cases that an opener must refuse.

envelope ──bit flips, cuts, exchanged segments, foreign headers──▶ cases ──open──▶ refused
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from client.errors import NotFound, Rejected, Transient

__all__ = ("Case", "Envelope", "ciphertext_cases", "header_cases", "is_accepted")

SEGMENT = 1 << 20
STREAM_HEADER = 40
TAG = 16


@dataclass(frozen=True)
class Envelope:
    """Something sealed, and how its recipient opens it.

    Attributes:
        header: The message that was sent.
        ciphertext: The stream that was sent.
        bound: Everything in a header that must not be changed.
        open: What the recipient does.
        sibling: The same plaintext sealed once more; as near to ``ciphertext`` as can be.
        stranger: Another one's ciphertext of the same length.
        foreign: Values of other studies, tenants, keys and versions, by field of the header.
    """

    header: Any
    ciphertext: bytes
    bound: Callable[[Any], object]
    open: Callable[[Any, bytes], Awaitable[object]]
    sibling: bytes
    stranger: bytes
    foreign: dict[str, tuple[Any, ...]]


class Case(NamedTuple):
    """One attempt: what was done, and what the recipient gets."""

    kind: str
    header: bytes
    ciphertext: bytes


async def is_accepted(envelope: Envelope, case: Case) -> bool | None:
    """Say whether a case was opened; None when nothing that matters was changed."""
    header = type(envelope.header)()
    try:
        header.ParseFromString(case.header)
    except DecodeError:
        return False
    same = envelope.bound(header) == envelope.bound(envelope.header)
    if same and case.ciphertext == envelope.ciphertext:
        return None
    try:
        await envelope.open(header, case.ciphertext)
    except (Rejected, Transient, NotFound):
        return False
    return True


def header_cases(envelope: Envelope, step: int = 1) -> Iterator[Case]:
    """Yield every single-bit flip of the serialised header, and every foreign value.

    Args:
        envelope: What is tampered with.
        step: 1 for every bit; more for a sample.
    """
    raw = envelope.header.SerializeToString(deterministic=True)
    for bit in range(0, len(raw) * 8, step):
        yield Case("header bit flipped", flipped(raw, bit), envelope.ciphertext)
    for length in range(0, len(raw), step):
        yield Case("header cut", raw[:length], envelope.ciphertext)
    for field, values in envelope.foreign.items():
        for value in values:
            header = type(envelope.header)()
            header.CopyFrom(envelope.header)
            setattr(header, field, value)
            yield Case(f"foreign {field}", header.SerializeToString(), envelope.ciphertext)


def ciphertext_cases(envelope: Envelope, flips: int, seed: int = 1) -> Iterator[Case]:
    """Yield damaged ciphertexts.

    Args:
        envelope: What is tampered with; several segments long.
        flips: Bits to flip at random.
        seed: Of the random choices.
    """
    whole = envelope.ciphertext
    header = envelope.header.SerializeToString(deterministic=True)
    dice = random.Random(seed)
    for bit in range(STREAM_HEADER * 8):
        yield Case("stream header bit flipped", header, flipped(whole, bit))
    for _ in range(flips):
        yield Case("random bit flipped", header, flipped(whole, dice.randrange(len(whole) * 8)))
    for length in sorted(_cuts(len(whole))):
        yield Case("cut", header, whole[:length])
    for donor in (envelope.sibling, envelope.stranger):
        for kind, pieces in _exchanged(_segments(whole), _segments(donor)):
            yield Case(kind, header, b"".join(pieces))
    for more in (b"\0", bytes(TAG), whole[-TAG:], whole[SEGMENT : 2 * SEGMENT], whole):
        yield Case("bytes appended", header, whole + more)
        yield Case("bytes put before", header, more + whole)
    yield Case("another ciphertext", header, envelope.stranger)
    yield Case("nothing", header, b"")


def flipped(content: bytes, bit: int) -> bytes:
    """Return a copy with one bit turned."""
    copy = bytearray(content)
    copy[bit // 8] ^= 1 << bit % 8
    return bytes(copy)


def _segments(whole: bytes) -> list[bytes]:
    return [whole[start : start + SEGMENT] for start in range(0, len(whole), SEGMENT)]


def _cuts(length: int) -> set[int]:
    edges = [0, STREAM_HEADER, STREAM_HEADER + TAG, *range(SEGMENT, length, SEGMENT), length]
    near = {edge + offset for edge in edges for offset in (-TAG - 1, -TAG, -1, 0, 1)}
    return {cut for cut in near if 0 <= cut < length}


def _exchanged(mine: list[bytes], other: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    for first, second in combinations(range(len(mine)), 2):
        swapped = list(mine)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        yield "segments swapped", swapped
    for place, segment in enumerate(mine):
        yield "segment dropped", mine[:place] + mine[place + 1 :]
        yield "segment of another stream", [*mine[:place], other[place], *mine[place + 1 :]]
        for target in range(len(mine) + 1):
            yield "segment doubled", [*mine[:target], segment, *mine[target:]]
    for place in range(1, len(mine)):
        yield "two streams joined", mine[:place] + other[place:]

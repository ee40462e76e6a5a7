"""Finds secrets in raw bytes, in every encoding that software commonly writes text and bytes in.

secrets ──encodings──▶ one automaton (Aho-Corasick) ──every file, one pass──▶ Trace
"""

from __future__ import annotations

import base64
import itertools
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ahocorasick_rs import BytesAhoCorasick, Implementation

__all__ = ("ENCODINGS", "Searcher", "Secret", "Trace", "encodings")

_SHORTEST_PATTERN_BYTES = 11
"""Shorter ones would be found by chance."""
_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Secret:
    """Something that must not be found.

    Attributes:
        owner: Number of the study it is from.
        kind: What it is, such as "patient name".
        value: Text, or raw bytes of pixels.
    """

    owner: int
    kind: str
    value: str | bytes


@dataclass(frozen=True, slots=True)
class Trace:
    """One secret found."""

    place: str
    secret: Secret
    encoding: str


ENCODINGS = (
    "utf-8",
    "utf-16-le",
    "utf-16-be",
    "base64",
    "hex",
    "url",
    "reversed",
)


def encodings(value: str | bytes) -> Mapping[str, frozenset[bytes]]:
    """Return every pattern that a value may be written as, by encoding.

    Text in lower and upper case too. Base64 at all three alignments, standard and URL-safe, without
    the characters that depend on the neighbours. Raw bytes count as "utf-8".
    """
    forms = _forms(value)
    patterns: dict[str, Iterable[bytes]] = {
        "utf-8": forms,
        "base64": itertools.chain.from_iterable(map(_base64, forms)),
        "hex": (
            coded for form in forms for coded in (form.hex().encode(), form.hex().upper().encode())
        ),
        "url": set(itertools.chain.from_iterable(map(_percent, forms))).difference(forms),
        "reversed": (form[::-1] for form in forms),
    }
    if isinstance(value, str):
        texts = [form.decode() for form in forms]
        patterns["utf-16-le"] = (text.encode("utf-16-le") for text in texts)
        patterns["utf-16-be"] = (text.encode("utf-16-be") for text in texts)
    found = {name: frozenset(patterns[name]) for name in ENCODINGS if name in patterns}
    short = [p for some in found.values() for p in some if len(p) < _SHORTEST_PATTERN_BYTES]
    if short:
        raise ValueError(f"{value!r} is too short to be told from chance")
    return found


def _forms(value: str | bytes) -> tuple[bytes, ...]:
    if isinstance(value, bytes):
        return (value,)
    return tuple(text.encode() for text in dict.fromkeys((value, value.lower(), value.upper())))


def _base64(raw: bytes) -> Iterator[bytes]:
    for before in range(3):
        coded = base64.b64encode(bytes(before) + raw)
        first = -(-8 * before // 6)
        whole = coded[first : 8 * (before + len(raw)) // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))


def _percent(raw: bytes) -> Iterator[bytes]:
    for template in ("%{:02x}", "%{:02X}"):
        yield "".join(map(template.format, raw)).encode()
    yield urllib.parse.quote_from_bytes(raw).encode()


class Searcher:
    """Looks for all secrets at once.

    Args:
        secrets: What must not be found.
    """

    def __init__(self, secrets: Iterable[Secret]) -> None:
        meanings: dict[bytes, tuple[Secret, str]] = {}
        for secret in secrets:
            for encoding, patterns in encodings(secret.value).items():
                for pattern in patterns:
                    meanings.setdefault(pattern, (secret, encoding))
        self._meanings = list(meanings.values())
        self._longest = max(map(len, meanings))
        self._automaton = BytesAhoCorasick(
            list(meanings), implementation=Implementation.ContiguousNFA
        )

    def __len__(self) -> int:
        """Return the number of different patterns."""
        return len(self._meanings)

    def in_bytes(self, content: bytes, place: str) -> set[Trace]:
        """Return what is found in a piece of memory."""
        hits = self._automaton.find_matches_as_indexes(content, overlapping=True)
        return {Trace(place, *self._meanings[index]) for index, _, _ in hits}

    def in_file(self, path: Path, place: str) -> set[Trace]:
        """Return what is found in a file, and in its name."""
        found = self.in_bytes(str(path).encode(), f"{place} (name)")
        with path.open("rb") as handle:
            before = b""
            while piece := handle.read(_PIECE_BYTES):
                found |= self.in_bytes(before + piece, place)
                before = piece[-self._longest :]
        return found

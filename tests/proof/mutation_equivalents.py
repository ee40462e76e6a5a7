"""Mutants that no test can kill, each looked at by hand: the change, and why nothing differs."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("EQUIVALENT",)

_NO_CASE = "Valkey reads names and words of its settings without regard to case"
_BIG = "big is Python's own default of byteorder"
_SETTINGS = (
    ("port", "0"),
    ("unixsocketperm", "700"),
    ("dir", ""),
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
    ("daemonize", "no"),
    ("logfile", ""),
)


def _upper_case_settings() -> dict[str, str]:
    found = {}
    for name, value in _SETTINGS:
        written = "str(directory)" if name == "dir" else f'"{value}"'
        before = f'"{name}": {written},'
        found[f'{before} ▶ "{name.upper()}": {written},'] = _NO_CASE
        if value.isalpha():
            found[f'{before} ▶ "{name}": "{value.upper()}",'] = _NO_CASE
    return found


EQUIVALENT: Mapping[str, Mapping[str, str]] = {
    "client/crypto/binding.py": {
        'encoded += len(raw).to_bytes(4, "big") + raw ▶ encoded += len(raw).to_bytes(4, ) + raw': (
            _BIG
        ),
        'return field.to_bytes(8, "big") ▶ return field.to_bytes(8, )': _BIG,
    },
    "client/crypto/keydirectory.py": {
        "write_private(directory / _AUDIT_KEY, secrets.token_bytes(32)) ▶ "
        "write_private(directory / _AUDIT_KEY, secrets.token_bytes(None))": (
            "32 bytes are the library's own default"
        ),
    },
    "client/crypto/privatefiles.py": {
        "directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY) ▶ "
        "directory = os.open(path, os.O_RDONLY & os.O_DIRECTORY)": (
            "the flag only refuses what is no directory, and this one has just been written to"
        ),
    },
    "client/crypto/pseudonyms.py": {
        "key = cls(secrets.token_bytes(_KEY_BYTES)) ▶ key = cls(secrets.token_bytes(None))": (
            "32 bytes are the library's own default"
        ),
    },
    "client/jobqueue/embedded.py": _upper_case_settings(),
    "client/jobqueue/memory.py": {
        "self._numbers = itertools.count(1) ▶ self._numbers = itertools.count(2)": (
            "the numbers only tell receipts apart"
        ),
    },
    "client/jobqueue/streams.py": {
        'page = await self._redis.xrange(stream, start, "+", count=SCAN_PAGE) ▶ '
        "page = await self._redis.xrange(stream, start, count=SCAN_PAGE)": (
            '"+" is the end that redis-py asks for by itself'
        ),
    },
}
"""By module: the mutated line "before ▶ after", and the reason."""

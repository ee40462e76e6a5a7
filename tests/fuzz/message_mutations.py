"""Breaks messages: fields of any value, wire types and lengths that lie, tar headers, ciphertext.

input = one byte that says which parser, then what it is given (see ``targets``)
"""

from __future__ import annotations

from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message

from client.proto import ingest_pb2

__all__ = ("MESSAGES", "join", "mutate_message", "split")

MESSAGES: tuple[type[Message], ...] = (
    ingest_pb2.SubmitStudyRequest,
    ingest_pb2.ListRecipientKeysRequest,
    ingest_pb2.GetJobRequest,
    ingest_pb2.ListJobsRequest,
    ingest_pb2.WatchJobRequest,
    ingest_pb2.FetchResultRequest,
    ingest_pb2.CancelJobRequest,
    ingest_pb2.RetryJobRequest,
    ingest_pb2.ErasePatientRequest,
    ingest_pb2.ListEventsRequest,
    ingest_pb2.JobStatus,
    ingest_pb2.StudyHeader,
    ingest_pb2.ResultHeader,
)
_NUMBERS = (0, 1, 2, 3, 63, 64, 255, 500, 501, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    "",
    "a",
    "../../etc/passwd",
    "radiology",
    "11111111-2222-4333-8444-555555555555",
    "0" * 32,
    "f" * 64,
    "é" * 40,
    "\u0000",
    "'; DROP TABLE jobs; --",
    "x" * 129,
    "x" * 5000,
)


def split(payload: bytes) -> tuple[bytes, bytes]:
    """A header and what follows it: two bytes of length, the header, the rest."""
    end = 2 + int.from_bytes(payload[:2], "big")
    return payload[2:end], payload[end:]


def join(header: bytes, rest: bytes) -> bytes:
    """The other way round."""
    return len(header).to_bytes(2, "big") + header + rest


def mutate_message(data: bytes, rng: Random) -> bytes:
    """Return an input with one to three faults."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, payload = data[:1], data[1:]
        attack = rng.choice((_fields, _fields, _wire, _noise, _noise, _cut, _tar, _repeat, _kind))
        data = attack(kind, payload, rng)
    return data


def _fields(kind: bytes, payload: bytes, rng: Random) -> bytes:
    """A message whose fields hold anything, or hold what they had and one more."""
    number = kind[0] if kind else 0
    sealed = number in (len(MESSAGES), len(MESSAGES) + 1)
    made = MESSAGES[number - 2 if sealed else number % len(MESSAGES)]()
    header, rest = split(payload) if sealed else (payload, b"")
    try:
        made.ParseFromString(header)
    except DecodeError:
        made.Clear()
    for _ in range(rng.choice((1, 1, 2, 5))):
        _set_any(made, rng)
    try:
        raw = made.SerializeToString()
    except EncodeError:
        return kind + payload
    return kind + (join(raw[:65_535], rest) if sealed else raw)


def _set_any(message: Message, rng: Random, depth: int = 0) -> None:
    fields: list[FieldDescriptor] = list(message.DESCRIPTOR.fields)  # type: ignore[arg-type]
    if not fields:
        return
    field = rng.choice(fields)
    if rng.random() < 0.1:
        message.ClearField(field.name)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        if depth < 3 and not field.is_repeated:
            _set_any(getattr(message, field.name), rng, depth + 1)
    else:
        value = _any_value(field.cpp_type, getattr(message, field.name), rng)
        try:
            setattr(message, field.name, value)
        except (ValueError, TypeError):
            message.ClearField(field.name)


def _any_value(kind: int, old: Any, rng: Random) -> Any:
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if isinstance(old, bytes):
            sizes = (0, 1, 31, 32, 33, 64, 2048, 2049, 4097)
            return rng.choice((old[:-1], old + b"\0", rng.randbytes(rng.choice(sizes))))
        return rng.choice((*_TEXTS, old + "x", old[:-1], old.upper()))
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return rng.choice((0.0, -1.0, 1e308, float("nan"), float("inf")))
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not old
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 9, 100, -1))
    return rng.choice((*_NUMBERS, max(0, old - 1), old + 1))


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes((value & 127 | 128,))
        value >>= 7
    return found + bytes((value,))


def _wire(kind: bytes, payload: bytes, rng: Random) -> bytes:
    """A field of any number and wire type; lengths that lie; groups; messages in messages."""
    tag = _varint(rng.choice((1, 2, 3, 12, 15, 16, 536_870_911)) << 3 | rng.randrange(8))
    body = rng.choice(
        (
            _varint(rng.choice(_NUMBERS)),
            _varint(len(payload)) + payload,
            b"\xff" * 11,
            _varint(2**31 - 1) + b"x",
            (b"\x0a\x80\x01" * 150),
            b"\x0b" * 200,
            rng.randbytes(8),
        )
    )
    at = rng.choice((0, len(payload), rng.randrange(len(payload) + 1)))
    return kind + payload[:at] + tag + body + payload[at:]


def _noise(kind: bytes, payload: bytes, rng: Random) -> bytes:
    broken = bytearray(payload)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if broken:
            broken[rng.randrange(len(broken))] ^= rng.choice((1, 2, 128, 255, rng.randrange(256)))
    return kind + bytes(broken)


def _cut(kind: bytes, payload: bytes, rng: Random) -> bytes:
    size = len(payload)
    edges = [
        edge for edge in (16, 40, 512, 1024, size - 512, size - 16, size - 1) if 0 < edge < size
    ]
    return kind + payload[: rng.choice([*edges, rng.randrange(size + 1)])]


def _repeat(kind: bytes, payload: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(payload) + 1)
    piece = payload[start : start + rng.choice((1, 16, 512, 1024))]
    at = rng.randrange(len(payload) + 1)
    return kind + payload[:at] + piece * rng.choice((1, 2, 8)) + payload[at:]


def _kind(kind: bytes, payload: bytes, rng: Random) -> bytes:
    return bytes((rng.randrange(256),)) + payload


def _tar(kind: bytes, payload: bytes, rng: Random) -> bytes:
    """A field of a tar header, with a sum that fits."""
    blocks = len(payload) // 512
    if not blocks:
        return _noise(kind, payload, rng)
    start = 512 * rng.randrange(blocks)
    block = bytearray(payload[start : start + 512])
    place, new = rng.choice(
        (
            (0, rng.choice((b"../x", b"/etc/x", b"a" * 100, b"", b"\xff\xfe", b"000001.dcm"))),
            (
                124,
                rng.choice(
                    (b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"\xff" * 12)
                ),
            ),
            (124, b"%011o\0" % rng.choice((0, 1, 511, 512, 513, 2**31, 2**32))),
            (156, bytes((rng.randrange(256),))),
            (257, rng.choice((b"ustar\0", b"ustar ", b"\0" * 8))),
            (345, b"prefix"),
        )
    )
    block[place : place + len(new)] = new
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return kind + payload[:start] + bytes(block) + payload[start + 512 :]

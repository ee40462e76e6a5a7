"""Reads what DALI serialised, without DALI: protobuf by the field numbers of dali.proto."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ("Operator", "read_operators")

Fields = dict[int, list[Any]]


@dataclass(frozen=True)
class Operator:
    """One operator of a pipeline (``dali_proto.OpDef``).

    Attributes:
        kind: What it is, as ``Resize``.
        name: Its instance's name.
        inputs: Name and device of every input, argument inputs with their argument's name.
        outputs: Name and device of every output.
        arguments: Its arguments.
    """

    kind: str
    name: str
    inputs: tuple[tuple[str, str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    arguments: dict[str, Any]


def read_operators(serialised: bytes) -> tuple[Operator, ...]:
    """The operators of a serialised pipeline, in its order."""
    return tuple(_operator(_fields(op)) for op in _fields(serialised)[5])


def _operator(fields: Fields) -> Operator:
    inputs = [_fields(one) for one in fields.get(2, [])]
    outputs = [_fields(one) for one in fields.get(3, [])]
    return Operator(
        kind=fields[1][0].decode(),
        name=fields[5][0].decode(),
        inputs=tuple((_text(i, 1), _text(i, 2), _text(i, 4)) for i in inputs),
        outputs=tuple((_text(o, 1), _text(o, 2)) for o in outputs),
        arguments=dict(_argument(_fields(one)) for one in fields.get(4, [])),
    )


def _argument(fields: Fields) -> tuple[str, Any]:
    """Name and values, nested ones for vectors."""
    values = [fields[number] for number in (3, 4, 5, 6) if number in fields]
    nested = [_argument(_fields(one)) for one in fields.get(7, [])]
    return _text(fields, 1), (values, nested)


def _text(fields: Fields, number: int) -> str:
    return str(fields.get(number, [b""])[0].decode())


def _fields(message: bytes) -> Fields:
    found: Fields = {}
    for number, value in _walk(message):
        found.setdefault(number, []).append(value)
    return found


def _walk(message: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
        elif kind == 2:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        else:
            size, form = (4, "<f") if kind == 5 else (8, "<d")
            yield number, struct.unpack_from(form, message, at)[0]
            at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at

"""Strict conversion of parsed YAML to frozen dataclasses: nothing unknown, nothing missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from preprocess.errors import SpecError

__all__ = ("build", "require")

T = TypeVar("T")


def build(cls: type[T], data: object, where: str) -> T:
    """Makes a dataclass from a mapping, following its type hints.

    Contract:
        - Every key must be a field; every field without a default must be a key.
        - Types are not coerced, except that an int is accepted for a float.
        - Sequences become tuples, strings become enum members, mappings nested dataclasses.
        - ``dict`` takes any mapping with text keys as it is.
        - A union of dataclasses is told apart by the ``kind`` key, which each of them fixes.

    Args:
        cls: The dataclass to make.
        data: What the YAML parser returned.
        where: Name of this place in the file, for messages.

    Raises:
        SpecError: The data does not fit; the message names the key, what was expected, what came.
    """
    return cast("T", _convert(cls, data, where))


def require(condition: bool, message: str) -> None:
    """Refuses a value that has the right type but makes no sense.

    Raises:
        SpecError: The condition does not hold.
    """
    if not condition:
        raise SpecError(message)


def _convert(hint: Any, value: object, where: str) -> object:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _convert(_choose(get_args(hint), value, where), value, where)
    if origin is Literal:
        return _convert_literal(get_args(hint)[0], value, where)
    if origin is dict:
        return _convert_free(value, where)
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if is_dataclass(hint):
        return _convert_mapping(cast("type", hint), value, where)
    if hint is NoneType and value is None:
        return None
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _convert_enum(hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise SpecError(f"{where}: expected {hint.__name__}, got {_show(value)}")
    return value


def _choose(options: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and NoneType in options:
        return NoneType
    candidates = [option for option in options if option is not NoneType]
    if len(candidates) == 1:
        return candidates[0]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    kinds = {get_args(get_type_hints(option)["kind"])[0]: option for option in candidates}
    if kind not in kinds:
        raise SpecError(f"{where}.kind: expected one of {[*map(str, kinds)]}, got {_show(kind)}")
    return kinds[kind]


def _convert_tuple(items: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise SpecError(f"{where}: expected a list, got {_show(value)}")
    hints = items[:1] * len(value) if items[-1] is Ellipsis else items
    if len(hints) != len(value):
        raise SpecError(f"{where}: expected {len(hints)} items, got {len(value)}")
    return tuple(
        _convert(hint, item, f"{where}[{index}]")
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _convert_mapping(cls: type, value: object, where: str) -> object:
    if not isinstance(value, Mapping):
        raise SpecError(f"{where}: expected a mapping, got {_show(value)}")
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}
    for key in value:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r}; known are {sorted(known)}")
    for name, field in known.items():
        if name not in value and field.default is MISSING:
            raise SpecError(f"{where}: key {name!r} is missing")
    given = {key: _convert(hints[key], value[key], f"{where}.{key}") for key in value}
    return cls(**given)


def _convert_free(value: object, where: str) -> dict[str, object]:
    """A mapping whose keys are not ours to know."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SpecError(f"{where}: expected a mapping with text keys, got {_show(value)}")
    return dict(value)


def _convert_literal(expected: object, value: object, where: str) -> object:
    if value != expected:
        raise SpecError(f"{where}: expected {expected!r}, got {_show(value)}")
    return expected


def _convert_enum(hint: type[StrEnum], value: object, where: str) -> StrEnum:
    try:
        return hint(cast("str", value))
    except ValueError:
        known = [member.value for member in hint]
        raise SpecError(f"{where}: expected one of {known}, got {_show(value)}") from None


def _show(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:80]

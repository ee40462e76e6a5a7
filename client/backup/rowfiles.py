"""Rows of a table as JSON lines, the same for every database.

row ◀──types of the table's columns──▶ {"id": "…", "header": "base64", "created_at": "ISO 8601"}
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, Table

from client.errors import ConfigurationError
from client.sql.moments import UtcDateTime

__all__ = ("decode_row", "encode_row", "lines_of")

_LONGEST_LINE_BYTES = 16 << 20


def encode_row(table: Table, row: Mapping[str, Any]) -> bytes:
    """Return one line with every column of the table, binary ones in base64."""
    values = {column.name: _to_json(row[column.name]) for column in table.columns}
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode_row(table: Table, line: bytes) -> dict[str, Any]:
    """Return the columns that a line holds.

    Raises:
        ConfigurationError: It is not a line of this table.
    """
    try:
        values = json.loads(line)
        if set(values) != set(table.columns.keys()):
            raise ValueError("columns")
        return {
            column.name: _from_json(_kind(column), values[column.name]) for column in table.columns
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"A row of the table {table.name} is not one that this version writes: restore with "
            "the version that made the backup."
        ) from error


def _kind(column: Column[Any]) -> type:
    # SQLAlchemy does not know what a type of our own returns.
    return datetime if isinstance(column.type, UtcDateTime) else column.type.python_type


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value


def _from_json(kind: type, value: Any) -> Any:
    if value is None:
        return None
    if kind is bytes:
        return base64.b64decode(value, validate=True)
    if kind is datetime:
        return datetime.fromisoformat(value)
    return kind(value)


async def lines_of(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a file that comes in pieces, without their ends.

    Raises:
        ConfigurationError: A line has no end, or is longer than any that we write.
    """
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        *lines, last = rest.split(b"\n")
        for line in lines:
            yield bytes(line)
        rest = bytearray(last)
        if len(rest) > _LONGEST_LINE_BYTES:
            raise ConfigurationError("A file of the backup holds a line without an end.")
    if rest:
        raise ConfigurationError("A file of the backup ends in the middle of a line.")

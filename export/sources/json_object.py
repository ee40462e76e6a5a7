"""Reads a JSON file that a library wrote beside its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.errors import SourceError

__all__ = ("read_json_object",)


def read_json_object(path: Path, expected: str) -> dict[str, Any]:
    """Reads the object.

    Args:
        path: The file.
        expected: What its folder should be, as "a MONAI bundle folder".

    Raises:
        SourceError: Not there, not JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{path}: expected {expected}: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content

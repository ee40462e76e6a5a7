"""The configuration of a MONAI bundle as plain data: references followed, no code run.

inference.json ─▶ MONAI's ConfigParser ─▶ "@id" replaced │ "$expression" left as text
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from export.errors import MissingPart, SourceError

__all__ = ("BundleConfig", "is_expression", "read_config", "refuse_expressions")


class BundleConfig:
    """A configuration file of a bundle.

    Args:
        parser: MONAI's ``ConfigParser`` with the file's content.
        path: The file.
    """

    def __init__(self, parser: Any, path: Path) -> None:
        self._parser = parser
        self.path = path

    def item(self, name: str) -> Any:
        """One item with its references replaced; None where the file has no such item.

        What MONAI would make an object is a mapping with ``_target_``, what it would evaluate is
        text that starts with ``$``.

        Raises:
            SourceError: A reference leads nowhere or in a circle.
        """
        if name not in self._parser:
            return None
        try:
            found = self._parser.get_parsed_content(name, instantiate=False, eval_expr=False)
        except (KeyError, ValueError, RecursionError) as error:
            raise SourceError(f"{self.path}: {name}: {error}") from error
        return _plain(found)


def read_config(path: Path) -> BundleConfig:
    """Reads a JSON or YAML configuration.

    Raises:
        SourceError: Not there, not JSON or YAML, or takes parts from other files.
        MissingPart: MONAI is not installed.
    """
    try:
        from monai.bundle.config_parser import ConfigParser
    except ImportError as error:
        raise MissingPart("a MONAI bundle needs: pip install monai") from error
    try:
        content = ConfigParser.load_config_file(path)
    except OSError as error:
        raise SourceError(
            f"{path}: expected a bundle's configuration: {error.strerror}; `config` in MODEL.yaml "
            "names the file"
        ) from error
    except (ValueError, yaml.YAMLError) as error:
        raise SourceError(f"{path}: not JSON or YAML: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: expected a mapping, got a {type(content).__name__}")
    for name, text in _texts(content):
        if text.startswith("%") and ConfigParser.split_path_id(text[1:])[0]:
            raise SourceError(
                f"{path}: {name} takes {text!r} from another file; write it into this one"
            )
    return BundleConfig(ConfigParser(content, globals=False), path)


def is_expression(value: Any) -> bool:
    """Whether MONAI would evaluate a value as Python."""
    return isinstance(value, str) and value.startswith("$")


def refuse_expressions(value: Any, name: str, path: Path) -> None:
    """Raises ``SourceError`` where Python code stands in an item."""
    for key, text in _texts(value, name):
        if is_expression(text):
            raise SourceError(
                f"{path}: {key} is the expression {text!r}, and a bundle may not run code here; "
                "write its value in its place"
            )


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested data with its id, as ``network_def::act``."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{name}::{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{name}::{index}")


def _plain(value: Any) -> Any:
    from monai.bundle.config_item import ConfigItem

    if isinstance(value, ConfigItem):
        return _plain(value.config)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value

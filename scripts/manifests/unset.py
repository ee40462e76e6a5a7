"""What an operator still has to fill in: digests of zeros, names and networks that are nobody's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from scripts.manifests.objects import UNSET_DIGEST, Rendered, kind_of

__all__ = ("unset_values",)

_NOBODYS = re.compile(
    r"\S*("
    rf"{UNSET_DIGEST}|"
    r"\bexample\b|"  # names: RFC 2606
    r"\b000000000000\b|"  # a cloud's account
    r"\b(192\.0\.2|198\.51\.100|203\.0\.113)\."  # networks: RFC 5737
    r")\S*"
)
_TEXTS = ("PrometheusRule",)


def unset_values(rendered: Rendered) -> set[str]:
    """Return the values of an overlay that stand for an operator's own.

    Args:
        rendered: The overlay; its alert rules are passed over, they only tell of addresses.
    """
    return {
        match[0].removesuffix(f"@{UNSET_DIGEST}")
        for made in rendered.objects
        if kind_of(made) not in _TEXTS
        for value in _values(made)
        for match in _NOBODYS.finditer(value)
    }


def _values(made: Any) -> Iterator[str]:
    if isinstance(made, str):
        yield made
    for part in made.values() if isinstance(made, dict) else made if isinstance(made, list) else ():
        yield from _values(part)

"""The environment of a Python program of this project that is started as a child."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("child_environment",)

_ROOT = Path(__file__).parents[1]


def child_environment() -> dict[str, str]:
    """This process's environment, in which the project's packages can be imported."""
    paths = filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

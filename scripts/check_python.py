"""Say in one sentence what this Python lacks before anything is installed with it."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import sysconfig
from pathlib import Path

__all__ = ()

_OWN_LIBRARY = (3, 13)  # Triton's wheel brings the library for this version itself


def main() -> int:
    """Return 0 when this interpreter can hold the project, else print why and return 1."""
    version = sys.version_info[:2]
    name = ".".join(map(str, version))
    if not (3, 11) <= version <= (3, 13):
        print(
            f"Hounsfield's server parts need Python 3.11, 3.12 or 3.13; this is {name}. "
            "Name another one: make demo PYTHON=python3.12",
            file=sys.stderr,
        )
        return 1
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            print(
                f"This Python has no module {module!r}, so no environment can be made. "
                f"On Debian or Ubuntu: apt install python{name}-venv",
                file=sys.stderr,
            )
            return 1
    if version != _OWN_LIBRARY and not _has_library(f"libpython{name}.so.1.0"):
        print(
            f"Triton's Python backend needs libpython{name}.so.1.0, which this Python came "
            f"without. On Debian or Ubuntu: apt install libpython{name}",
            file=sys.stderr,
        )
        return 1
    return 0


def _has_library(name: str) -> bool:
    if (Path(str(sysconfig.get_config_var("LIBDIR"))) / name).exists():
        return True
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

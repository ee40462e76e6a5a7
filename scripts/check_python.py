"""Say in one sentence what this Python lacks before anything is installed with it."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ()


def main() -> int:
    """Return 0 when this interpreter can hold the project, else print why and return 1."""
    if sys.version_info < (3, 11):
        came = ".".join(map(str, sys.version_info[:3]))
        print(
            f"Hounsfield needs Python 3.11 or newer; this is {came}. "
            "Try: make demo PYTHON=python3.12",
            file=sys.stderr,
        )
        return 1
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            print(
                f"This Python has no module {module!r}, so no environment can be made. "
                "On Debian or Ubuntu: apt install python3-venv libpython3-dev",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write constraints.txt: the versions that a fresh environment gets from pyproject.toml today.

Run it to move to newer versions; the tests then decide whether they stay.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

__all__ = ()

_ROOT = Path(__file__).parent.parent
_HEADER = """\
# The versions that were tested together; pip takes them with -c. Written by `make lock`.
# torch is left out: only the export extra needs it, and it is pinned there.
"""
_LEFT_OUT = ("hounsfield", "nvidia-pytriton", "pip", "setuptools", "torch", "-e", "#")


def main() -> int:
    """Install everything into a scratch environment and freeze it."""
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        pip = [f"{scratch}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "install", "--quiet", "-e", ".[server,loadtest,export,dev]"],
            cwd=_ROOT,
            check=True,
        )
        frozen = subprocess.run(
            [*pip, "freeze"], cwd=_ROOT, check=True, capture_output=True, text=True
        ).stdout
    lines = [line for line in frozen.splitlines() if not line.lower().startswith(_LEFT_OUT)]
    (_ROOT / "constraints.txt").write_text(_HEADER + "\n".join(lines) + "\n")
    print(f"constraints.txt: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

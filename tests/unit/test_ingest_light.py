"""A sender needs nothing of the server: no database, no store, no queue, no model runtime."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

HEAVY = (
    "sqlalchemy",
    "obstore",
    "redis",
    "nvidia",
    "openvino",
    "torch",
    "highdicom",
    "tritonclient",
)


def test_the_sender_imports_no_server_part() -> None:
    program = (
        "import sys, client.ingest.sender, client.crypto.keydirectory; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"

"""Becomes Triton in NVIDIA's image, with the arguments that an init container has prepared.

    arguments.json (client.triton.container prepare) ─▶ exec tritonserver

The image's own Python runs it, whose version is NVIDIA's choice: the standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

__all__ = ("command",)

SERVER = "/opt/tritonserver/bin/tritonserver"


def command(arguments: Path) -> list[str]:
    """Return the server's whole command line; the image knows where its backends lie."""
    return [SERVER, *json.loads(arguments.read_bytes())]


if __name__ == "__main__":
    # A core dump would hold the studies that are in memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    argv = command(Path(sys.argv[1]))
    os.execv(argv[0], argv)  # noqa: S606  # the command is ours, no shell is wanted

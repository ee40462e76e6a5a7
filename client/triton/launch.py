"""Becomes the Triton server: tidies up after a killed one, ties its life to the parent's, execs.

    python -m client.triton.launch TRITONSERVER ARGUMENT…

The process id stays the same, so whoever started this supervises the server itself.
"""

from __future__ import annotations

import os
import sys

from client.discretion import forbid_core_dumps
from client.errors import ConfigurationError
from client.process import die_with_parent
from client.triton.installation import (
    clear_shared_memory,
    find_installation,
    link_stub,
    shared_memory_prefix,
)

__all__ = ("main",)


EX_CONFIG = 78


def main(argv: list[str]) -> None:
    """Prepares and execs; exits with status 78 (EX_CONFIG) if it cannot."""
    die_with_parent()
    forbid_core_dumps()
    try:
        link_stub(find_installation())
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EX_CONFIG)
    clear_shared_memory()
    prefix = shared_memory_prefix(os.getpid())
    command = [*argv, f"--backend-config=python,shm-region-prefix-name={prefix}"]
    os.execv(command[0], command)  # noqa: S606  # the command is ours, no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])

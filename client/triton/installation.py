"""The Triton server that the nvidia-pytriton wheel ships: where it lies and what it needs.

Only the server binary of that wheel is used, never its Python package.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigurationError

__all__ = (
    "INSTALL_COMMAND",
    "Installation",
    "clear_shared_memory",
    "find_installation",
    "link_stub",
    "shared_memory_prefix",
)

INSTALL_COMMAND = "pip install --no-deps nvidia-pytriton==0.7.0"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Triton's Python backend keeps its regions
SHARED_MEMORY_PREFIX = "hounsfield_triton_"
KEPT_BUFFER_BYTES = 32 << 20
"""Largest freed memory that a process of the server keeps for its next slice (mallopt(3))."""


@dataclass(frozen=True)
class Installation:
    """Where the parts of the server lie.

    Attributes:
        root: The folder ``tritonserver`` of the wheel.
        interpreter: The Python whose packages the models use.
    """

    root: Path
    interpreter: Path

    @property
    def server(self) -> Path:
        """The server binary."""
        return self.root / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """The backend directory."""
        return self.root / "backends"

    def arguments(self) -> tuple[str, ...]:
        """What tells the server where its own parts lie."""
        return (
            f"--backend-directory={self.backends}",
            f"--cache-directory={self.root / 'caches'}",
        )

    def environment(self) -> dict[str, str]:
        """The whole environment of the server.

        The first ``python3`` on PATH is the interpreter that the models get, bash starts them, and
        their stub needs this interpreter's libpython.
        """
        library = sysconfig.get_config_var("LIBDIR")
        return {
            "PATH": f"{self.interpreter.parent}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": str(library or ""),
            "HOME": str(Path.home()),
            "LANG": "C.UTF-8",
            # Buffers of pixels come and go with every slice. As glibc would have it, each is mapped
            # anew and its pages are zeroed one fault at a time, which costs more than its contents.
            "MALLOC_MMAP_THRESHOLD_": str(KEPT_BUFFER_BYTES),
            "MALLOC_TRIM_THRESHOLD_": str(4 * KEPT_BUFFER_BYTES),
            # One slice, one thread: the models' arrays are too small to be shared out.
            "OPENBLAS_NUM_THREADS": "1",
        }


def find_installation() -> Installation:
    """Looks for the server beside this interpreter.

    Raises:
        ConfigurationError: The wheel is not installed, or no ``python3`` lies beside this
            interpreter.
    """
    found = importlib.util.find_spec("pytriton")
    locations = found.submodule_search_locations if found else None
    if not locations:
        raise ConfigurationError(
            f"The Triton server was not found. Install it with `{INSTALL_COMMAND}`."
        )
    interpreter = Path(sys.executable)
    if not (interpreter.parent / "python3").exists():
        raise ConfigurationError(
            f"Expected a python3 in {interpreter.parent}, which Triton's models run with; "
            "use a virtual environment."
        )
    installation = Installation(Path(locations[0]) / "tritonserver", interpreter)
    if not installation.server.exists():
        raise ConfigurationError(
            f"nvidia-pytriton is installed without its server; run `{INSTALL_COMMAND}` again."
        )
    return installation


def link_stub(installation: Installation) -> None:
    """Makes the wheel's stub for this Python version the Python backend's own.

    Safe to repeat and safe for two processes at once.

    Raises:
        ConfigurationError: The wheel has no stub for this version, or its folder is read-only.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = installation.root / "python_backend_stubs" / version / "triton_python_backend_stub"
    link = installation.backends / "python" / stub.name
    if not stub.exists():
        raise ConfigurationError(f"Triton's wheel has no stub for Python {version}; use 3.11-3.13.")
    if link.exists() and link.samefile(stub):
        return
    fresh = link.with_name(f"{link.name}.{os.getpid()}")
    try:
        fresh.symlink_to(stub)
        fresh.replace(link)
    except OSError as error:
        raise ConfigurationError(
            f"Expected to link {link.name} in {link.parent}: {error.strerror}."
        ) from error


def shared_memory_prefix(pid: int) -> str:
    """What the names of a server's shared memory regions begin with."""
    return f"{SHARED_MEMORY_PREFIX}{pid}_"


def clear_shared_memory() -> int:
    """Removes the regions of embedded servers that do not live any more.

    Returns:
        How many were removed.
    """
    removed = 0
    for region in SHARED_MEMORY.glob(f"{SHARED_MEMORY_PREFIX}*"):
        pid = region.name.removeprefix(SHARED_MEMORY_PREFIX).partition("_")[0]
        if not Path("/proc", pid).exists():
            region.unlink(missing_ok=True)
            removed += 1
    return removed

"""Says what machine and which versions a run was made with."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import psutil

from loadtest.report import Machine

__all__ = ("describe_machine",)

PACKAGES = ("openvino", "nvidia-dali-cuda130", "numpy", "tritonclient", "grpcio", "pydicom",
            "highdicom", "tink")  # fmt: skip


def describe_machine(server: str) -> Machine:
    """Describes this machine and the installed packages.

    Args:
        server: Name and version of the inference server.
    """
    versions = [f"{package} {metadata.version(package)}" for package in PACKAGES]
    return Machine(
        cpu=_cpu_model(),
        cores=psutil.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        versions=(f"Python {platform.python_version()}", server, *versions),
    )


def _cpu_model() -> str:
    """The name the kernel gives, which ``platform`` does not know on Linux."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

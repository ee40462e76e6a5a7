"""What machine and which versions a report was made with, as text for people."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import psutil

__all__ = ("machine_facts", "version_facts")

PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "monai", "numpy", "SimpleITK",
            "tensorrt", "tensorrt-rtx-cu13-bindings")  # fmt: skip


def machine_facts() -> dict[str, str]:
    """Processor, cores, memory, system."""
    return {
        "processor": _cpu_model(),
        "cores": str(psutil.cpu_count() or 1),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def version_facts() -> dict[str, str]:
    """Python and those packages that are installed and decide numbers."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    """The name the kernel gives, which ``platform`` does not know on Linux."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

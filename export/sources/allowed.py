"""Classes that a source may name: modules of neural networks from a few packages, nothing else."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from export.errors import SourceError

__all__ = ("module_class",)


def module_class(name: str, packages: tuple[str, ...], where: str) -> type[nn.Module]:
    """Finds a class by its full name, without ever touching what is not allowed.

    Args:
        name: As ``torch.nn.LeakyReLU``.
        packages: Packages that it must lie in, as ``torch.nn``.
        where: How the error names the place that names it.

    Raises:
        SourceError: Outside the packages, not there, or not a class of modules.
    """
    refused = f"{where}: names {name!r}; expected a torch.nn.Module class of {_either(packages)}"
    path, _, attribute = name.rpartition(".")
    if not _lies_in(path, packages):
        raise SourceError(refused)
    # Importing an architecture also imports what it is made with, which may be broken anyhow.
    try:
        found: Any = getattr(importlib.import_module(path), attribute)
    except Exception as error:
        raise SourceError(
            f"{refused}, and this one cannot be imported: {type(error).__name__}: {error}"
        ) from error
    # A package also holds what it imports itself, as `torch.nn.modules.module.torch`.
    is_module = isinstance(found, type) and issubclass(found, nn.Module)
    if not is_module or not _lies_in(found.__module__, packages):
        raise SourceError(refused)
    return found


def _lies_in(path: str, packages: tuple[str, ...]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def _either(packages: tuple[str, ...]) -> str:
    return " or ".join(f"{package}.*" for package in packages)

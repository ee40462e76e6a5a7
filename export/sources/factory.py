"""The factory source: an importable function or class that makes a module, and its state dict."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from export.errors import RecipeError, SourceError
from export.recipe import FactorySource, Recipe
from export.sources.described import read_described
from export.sources.network import SourceNetwork
from export.sources.probing import probe
from export.sources.state import fit_state, read_state

__all__ = ("files", "open_factory")

_CHANNELS = 1


def open_factory(recipe: Recipe, source: FactorySource) -> SourceNetwork:
    """Makes the network, loads its weights, and sends a zero image through it.

    The factory is code of whoever wrote MODEL.yaml, and runs.

    Raises:
        RecipeError: The factory is not spelled ``package.module:name``, or the description lacks
            what this source does not know.
        SourceError: The factory cannot be imported or called, makes no module, the weights do not
            fit, or the network answers something else than a score for each class.
    """
    described = read_described(recipe)
    factory = _import(recipe, source.factory)
    arguments = source.arguments or {}
    # A foreign factory raises anything.
    try:
        module = factory(**arguments)
    except Exception as error:
        raise SourceError(
            f"{source.factory}({_spell(arguments)}): {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise SourceError(
            f"{source.factory}: expected a torch.nn.Module, came a {type(module).__name__}"
        )
    weights = recipe.resolve(source.weights)
    module = module.cpu().float()
    fit_state(
        module, read_state(weights, key=source.key, strip_prefix=source.strip_prefix), weights
    )
    module = module.eval().requires_grad_(requires_grad=False)
    spatial = described.turn.size(described.size)
    probe(module, _CHANNELS, spatial, described.classes, source.factory)
    return SourceNetwork(
        module=module,
        onnx=None,
        channels=_CHANNELS,
        spatial=spatial,
        classes=described.classes,
        facts={"source": source.factory},
    )


def files(recipe: Recipe, source: FactorySource) -> tuple[Path, ...]:
    """The weights, and the Python file that holds the factory.

    Raises:
        RecipeError: See ``open_factory``.
        SourceError: The module cannot be found.
    """
    module_name, _ = _names(recipe, source.factory)
    with _working_directory():
        try:
            found = importlib.util.find_spec(module_name)
        except ImportError as error:
            raise SourceError(f"{source.factory}: cannot be imported: {error}") from error
    if found is None:
        raise SourceError(f"{source.factory}: no module {module_name!r} {_where()}")
    code = (Path(found.origin),) if found.has_location and found.origin else ()
    return (recipe.resolve(source.weights), *code)


def _import(recipe: Recipe, factory: str) -> Callable[..., Any]:
    module_name, name = _names(recipe, factory)
    # Importing a foreign module runs it, which raises anything.
    try:
        with _working_directory():
            made = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:
        raise SourceError(
            f"{factory}: cannot be imported {_where()}: {type(error).__name__}: {error}"
        ) from error
    if not callable(made):
        raise SourceError(
            f"{factory}: expected a function or class, {module_name} has "
            f"{'no ' + name if made is None else 'a ' + type(made).__name__}"
        )
    return made


def _names(recipe: Recipe, factory: str) -> tuple[str, str]:
    module_name, _, name = factory.partition(":")
    if not module_name or not name.isidentifier():
        raise RecipeError(
            f"{recipe.path}: source.factory {factory!r}: expected package.module:name"
        )
    return module_name, name


@contextmanager
def _working_directory() -> Iterator[None]:
    """Puts the working directory last on the import path, so that it shadows nothing."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _where() -> str:
    return f"from {Path.cwd()} or what is installed"


def _spell(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())

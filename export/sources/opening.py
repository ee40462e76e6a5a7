"""Opening: MODEL.yaml's source ▶ the network, by the module for its kind."""

from __future__ import annotations

from pathlib import Path

from export.errors import SourceError
from export.recipe import FactorySource, MonaiSource, NnunetSource, OnnxSource, Recipe
from export.sources.network import SourceNetwork

__all__ = ("open_source", "source_files")


def open_source(recipe: Recipe) -> SourceNetwork:
    """Makes the network that a recipe names.

    Raises:
        RecipeError: The recipe lacks what its source does not know.
        SourceError: A file is missing, damaged, unsafe, or does not fit.
        MissingPart: The library that the source needs is not installed.
    """
    source = recipe.export.source
    match source:
        case FactorySource():
            from export.sources.factory import open_factory

            return open_factory(recipe, source)
        case MonaiSource():
            from export.sources.monai_bundle import open_bundle

            return open_bundle(recipe, source)
        case NnunetSource():
            from export.sources.nnunet_folder import open_folder

            return open_folder(recipe, source)
        case OnnxSource():
            from export.sources.onnx_file import open_onnx

            return open_onnx(recipe, source)


def source_files(recipe: Recipe) -> tuple[Path, ...]:
    """Files whose content decides the network, the same for the same recipe.

    Raises:
        SourceError: One of them is missing.
    """
    found = _files(recipe)
    for path in found:
        if not path.is_file():
            raise SourceError(
                f"{path}: expected a file that {recipe.path.name} names, there is none"
            )
    return found


def _files(recipe: Recipe) -> tuple[Path, ...]:
    source = recipe.export.source
    match source:
        case FactorySource():
            from export.sources import factory

            return factory.files(recipe, source)
        case MonaiSource():
            from export.sources import monai_bundle

            return monai_bundle.files(recipe, source)
        case NnunetSource():
            from export.sources import nnunet_folder

            return nnunet_folder.files(recipe, source)
        case OnnxSource():
            from export.sources import onnx_file

            return onnx_file.files(recipe, source)

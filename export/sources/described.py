"""What the description says of a network whose source itself says nothing: canvas and classes."""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import RecipeError
from export.recipe import Recipe
from export.sources.orientation import Turn, plan_turn
from preprocess.errors import SpecError
from preprocess.parsing import build
from preprocess.spec import Plane

__all__ = ("Described", "read_described")


@dataclass(frozen=True)
class Described:
    """The parts of a description that shape the network.

    Attributes:
        size: Rows and columns of the canvas.
        planes: Planes of the series that the model takes.
        classes: Mask values, background included.
        turn: Between the canvas and the network's axes.
    """

    size: tuple[int, int]
    planes: tuple[Plane, ...]
    classes: int
    turn: Turn


@dataclass(frozen=True)
class _Shape:
    size: tuple[int, int]
    planes: tuple[Plane, ...]


def read_described(recipe: Recipe, axes: int = 2) -> Described:
    """Reads ``geometry.size``, ``route.planes``, ``segments`` and the orientation of a recipe.

    Args:
        recipe: The recipe.
        axes: Number of the network's spatial axes.

    Raises:
        RecipeError: A key is missing or wrong.
    """
    try:
        data = recipe.description
        values = {"size": data["geometry"]["size"], "planes": data["route"]["planes"]}
        shape = build(_Shape, values, "model")
        classes = len(data["segments"]) + 1
    except (KeyError, TypeError, SpecError) as error:
        raise RecipeError(
            f"{recipe.path}: a source of this kind does not say what it takes and answers; "
            f"expected geometry.size, route.planes and segments: {error}"
        ) from error
    turn = plan_turn(recipe.export.graph.orientation, shape.planes, axes)
    return Described(shape.size, shape.planes, classes, turn)

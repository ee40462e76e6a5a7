"""What a source says about its input and what MODEL.yaml states: equal, or refused.

source: value or reason ─┐
                         ├─▶ agree on orientation, geometry, intensity, classes
MODEL.yaml: value or none┘

What MODEL.yaml states must equal what the source says; where the source cannot say it in our
terms, MODEL.yaml must state it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from export.errors import RecipeError, SourceError
from export.recipe import Recipe
from export.sources.orientation import plan_turn
from preprocess.errors import SpecError
from preprocess.parsing import build
from preprocess.spec import GeometrySpec, IntensitySpec, Plane

__all__ = (
    "Unknown",
    "agree_classes",
    "agree_geometry",
    "agree_intensity",
    "agree_orientation",
)

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Unknown:
    """A source does not say something, or says it in terms that ours cannot express.

    Attributes:
        reason: Ends the sentence "the source does not say it: ".
    """

    reason: str


@dataclass(frozen=True)
class _StatedGeometry:
    spacing_mm: tuple[float, float] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Route:
    planes: tuple[Plane, ...]


@dataclass(frozen=True)
class _Stated:
    geometry: _StatedGeometry = _StatedGeometry()
    intensity: IntensitySpec | None = None


def agree_orientation(recipe: Recipe, found: str | Unknown, axes: int) -> str:
    """Directions in which the network's own axes grow.

    Args:
        recipe: Its ``export.graph.orientation`` counts where the source does not know.
        found: What the source says.
        axes: Number of the network's spatial axes.

    Raises:
        RecipeError: Stated and found differ, neither is there, or the number of letters is wrong.
    """
    stated = recipe.export.graph.orientation
    key = f"{recipe.path}: export.graph.orientation"
    if isinstance(found, Unknown):
        if stated is None:
            raise RecipeError(f"{key} is missing: {found.reason}")
        if len(stated) != axes:
            raise RecipeError(f"{key} {stated!r}: expected {axes} letters for {axes} axes")
        return stated
    if stated not in (None, found):
        raise RecipeError(f"{key} {stated!r}: the source says {found!r}; leave the key out")
    return found


def agree_geometry(
    recipe: Recipe,
    orientation: str,
    spacing_mm: Sequence[float] | Unknown,
    spatial: Sequence[int] | Unknown,
) -> tuple[GeometrySpec, tuple[int, ...]]:
    """The grid of the canvas, and the size of the network's own axes.

    Args:
        recipe: ``geometry`` of its description may hold both keys, one, or none. A stated spacing
            must be the source's; a stated size replaces the source's.
        orientation: Directions of the network's own axes.
        spacing_mm: Distances along the network's own axes.
        spatial: Size of the network's own axes.

    Raises:
        RecipeError: Something is stated otherwise, or neither stated nor known.
        SourceError: The source's numbers are no usable grid.
    """
    stated = _stated(recipe).geometry
    rows, columns = _canvas_axes(recipe, orientation)
    where = f"{recipe.path}: geometry"
    if isinstance(spacing_mm, Unknown):
        if stated.spacing_mm is None:
            raise RecipeError(f"{where}.spacing_mm is missing: {spacing_mm.reason}")
        distances = stated.spacing_mm
    else:
        found = (float(spacing_mm[rows]), float(spacing_mm[columns]))
        distances = stated.spacing_mm or found
        if not _near(distances, found):
            raise RecipeError(
                f"{where}.spacing_mm {list(distances)}: the source was trained at {list(found)}; "
                "state that, or leave the key out"
            )
    if isinstance(spatial, Unknown):
        if stated.size is None or len(orientation) != 2:
            raise RecipeError(f"{where}.size is missing: {spatial.reason}")
        spatial = (0, 0)
    own = [int(length) for length in spatial]
    if stated.size:
        own[rows], own[columns] = stated.size
    try:
        return GeometrySpec(distances, (own[rows], own[columns])), tuple(own)
    except SpecError as error:
        raise SourceError(f"{where}, as the source says it: {error}") from error


def agree_intensity(recipe: Recipe, found: IntensitySpec | Unknown) -> IntensitySpec:
    """The normalisation.

    Args:
        recipe: ``intensity`` of its description, if it is there, must equal what is found.
        found: What the source does.

    Raises:
        RecipeError: Stated and found differ.
        SourceError: Not stated, and the source's cannot be expressed.
    """
    stated = _stated(recipe).intensity
    if isinstance(found, Unknown):
        if stated is None:
            raise SourceError(
                f"{recipe.path}: intensity is not stated, and the source does not say it: "
                f"{found.reason}"
            )
        return stated
    if stated is None:
        return found
    if not _same(stated, found):
        raise RecipeError(
            f"{recipe.path}: intensity is stated as {_show(stated)}, but the source does "
            f"{_show(found)}; state that, or leave the key out"
        )
    return stated


def agree_classes(recipe: Recipe, labels: Sequence[str], where: str) -> None:
    """Holds the source's mask values, background included, against the description's segments.

    Raises:
        SourceError: There are more, or fewer.
    """
    segments = recipe.description.get("segments")
    if isinstance(segments, list) and len(segments) != len(labels) - 1:
        raise SourceError(
            f"{where}: has {len(labels) - 1} classes beside the background "
            f"({', '.join(labels[1:])}), but {recipe.path} states {len(segments)} segments"
        )


def _canvas_axes(recipe: Recipe, orientation: str) -> tuple[int, int]:
    """Which of the network's own axes are the rows and the columns of the canvas."""
    axes = len(orientation)
    turn = plan_turn(orientation, _planes(recipe), axes)
    return turn.axes.index(axes - 2), turn.axes.index(axes - 1)


def _planes(recipe: Recipe) -> tuple[Plane, ...]:
    """The planes that the model takes; a network that is not to be served is axial."""
    if "route" not in recipe.description:
        return (Plane.AXIAL,)
    try:
        return build(_Route, {"planes": recipe.description["route"]["planes"]}, "route").planes
    except (SpecError, KeyError, TypeError) as error:
        raise RecipeError(f"{recipe.path}: route.planes is missing or wrong: {error}") from error


def _stated(recipe: Recipe) -> _Stated:
    given = {k: recipe.description[k] for k in ("geometry", "intensity") if k in recipe.description}
    try:
        return build(_Stated, given, "model")
    except SpecError as error:
        raise RecipeError(f"{recipe.path}: {error}") from error


def _near(stated: Sequence[float], found: Sequence[float]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * 1e-3)
        for a, b in zip(stated, found, strict=True)
    )


def _same(stated: IntensitySpec, found: IntensitySpec) -> bool:
    if type(stated) is not type(found):
        return False
    theirs = asdict(found)
    # Where the low end becomes 0, both ways of padding are one.
    skipped = {"padding"} if theirs.get("low_value") == 0 else set()
    return all(
        _near([value], [theirs[name]]) if isinstance(value, float) else value == theirs[name]
        for name, value in asdict(stated).items()
        if name not in skipped
    )


def _show(spec: IntensitySpec) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(spec).items())

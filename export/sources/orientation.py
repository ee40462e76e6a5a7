"""Orientation: the transposition and flips between the canvas and a network's own axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from export.errors import RecipeError
from preprocess.spec import Plane

__all__ = ("Turn", "canvas_code", "plan_turn")

_PAIRS = ("RL", "AP", "IS")
# Slices grow along the normal of DICOM: the direction of a row crossed with that of a column.
_CANVAS = {Plane.AXIAL: "SPL", Plane.CORONAL: "PIL", Plane.SAGITTAL: "RIP"}


@dataclass(frozen=True)
class Turn:
    """How a canvas image is turned for the network, and an answer back.

    Attributes:
        axes: For each spatial axis of the network, the spatial axis of the canvas it is.
        flips: Spatial axes of the network that run against those of the canvas.
    """

    axes: tuple[int, ...]
    flips: tuple[int, ...]

    @property
    def is_identity(self) -> bool:
        """Whether the network sees the canvas as it is."""
        return not self.flips and self.axes == tuple(range(len(self.axes)))

    def size(self, canvas: Sequence[int]) -> tuple[int, ...]:
        """Size of the network's spatial axes for that of the canvas."""
        return tuple(canvas[axis] for axis in self.axes)

    def canvas_size(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Size of the canvas for that of the network's spatial axes."""
        return tuple(spatial[self.axes.index(axis)] for axis in range(len(self.axes)))

    def to_network(self, images: Tensor) -> Tensor:
        """Turns [N, channels, *canvas] to the network's axes."""
        turned = self._permute(images, self.axes)
        return self._flip(turned)

    def to_canvas(self, answers: Tensor) -> Tensor:
        """Turns [N, channels, *spatial] or [N, *spatial] back to the canvas."""
        back = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return self._permute(self._flip(answers), back)

    def _permute(self, tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
        lead = tensor.ndim - len(axes)
        if axes == tuple(range(len(axes))):
            return tensor
        return tensor.permute(*range(lead), *(lead + axis for axis in axes))

    def _flip(self, tensor: Tensor) -> Tensor:
        lead = tensor.ndim - len(self.axes)
        return tensor.flip([lead + axis for axis in self.flips]) if self.flips else tensor


def canvas_code(plane: Plane, axes: int = 2) -> str:
    """Directions in which the canvas of a plane grows: [slices,] rows, columns.

    Axial slices grow towards superior, coronal ones towards posterior, sagittal ones towards the
    right: the normal of the slice (DICOM PS3.3 C.7.6.2.1.1).
    """
    return _CANVAS[plane][-axes:]


def plan_turn(code: str | None, planes: Sequence[Plane], axes: int = 2) -> Turn:
    """Finds the turn between the canvas of a model and its network.

    Args:
        code: Directions of the network's spatial axes; None means those of the canvas.
        planes: Planes of the series that the model takes.
        axes: Number of the network's spatial axes, 2 or 3.

    Raises:
        RecipeError: The code does not name the directions of the canvas, or the model takes
            planes with different canvases.
    """
    same = Turn(tuple(range(axes)), ())
    if code is None or all(code == canvas_code(plane, axes) for plane in planes):
        return same
    if len(planes) > 1:
        raise RecipeError(
            f"graph.orientation {code!r}: a model of several planes ({', '.join(planes)}) must "
            "take the canvas as it is; make one model for each plane, or leave the key out"
        )
    canvas = canvas_code(planes[0], axes)
    if sorted(map(_pair, code)) != sorted(map(_pair, canvas)):
        raise RecipeError(
            f"graph.orientation {code!r}: expected the directions of an {planes[0]} canvas, "
            f"{canvas!r}, in any order, each as it is or opposite"
        )
    order = tuple(next(i for i, c in enumerate(canvas) if _pair(c) == _pair(d)) for d in code)
    flips = tuple(j for j, i in enumerate(order) if canvas[i] != code[j])
    return Turn(order, flips)


def _pair(direction: str) -> int:
    return next(i for i, pair in enumerate(_PAIRS) if direction in pair)

"""First step of a model on the CPU, inside Triton's Python backend.

image, region, size, intensity ─▶ network
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.cpu import prepare_slice
from preprocess.serving.deadlock import end_when_stuck
from preprocess.serving.regions import close_regions
from preprocess.serving.tensors import invalid, quiet_capsules, read, respond
from preprocess.spec import load_model_spec

__all__ = ("PreparingModel", "complaint")


class PreparingModel:
    """Serves ``<model>_prep`` by the description in the folder ``<model>`` beside it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the description."""
        close_regions()
        quiet_capsules()
        folder = Path(args["model_repository"])
        name = args["model_name"].removesuffix("_prep")
        self._spec = load_model_spec(folder.parent / name / "model.yaml")
        end_when_stuck()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Preprocesses the slices of all requests; wrong requests fail alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        names, canvas = self._spec.tensors, self._spec.geometry.size
        keys = (names.image, names.region, names.size, names.intensity)
        tensors = {key: read(request, key) for key in keys}
        wrong = complaint(*tensors.values(), canvas=canvas)
        if wrong:
            return invalid(wrong)
        ready = np.empty((len(tensors[names.image]), 1, *canvas), dtype=np.float32)
        for index, place in enumerate(ready):
            one = {key: tensor[index] for key, tensor in tensors.items()}
            prepare_slice(self._spec, one, place[0])
        return respond({names.network: ready})


def complaint(
    image: NDArray[Any],
    region: NDArray[Any],
    size: NDArray[Any],
    intensity: NDArray[Any],
    *,
    canvas: tuple[int, int],
) -> str:
    """What is wrong with one request's tensors, or "" if they can be processed."""
    if 0 in image.shape:
        return f"image: expected at least one pixel, got shape {image.shape}"
    if not np.isfinite(intensity).all():
        return "intensity: expected four finite numbers"
    rows, columns = image.shape[1:]
    for y0, x0, y1, x1 in region.tolist():
        # A number that is none compares as False.
        if not (0 <= y0 <= rows and 0 <= y1 <= rows and 0 <= x0 <= columns and 0 <= x1 <= columns):
            return f"region: expected edges within {(rows, columns)}"
        if y0 == y1 or x0 == x1:
            return "region: expected a start other than its end"
    for height, width in size.tolist():
        if not (1 <= height <= canvas[0] and 1 <= width <= canvas[1]):
            return f"size: expected 1 x 1 to {canvas[0]} x {canvas[1]}"
    return ""

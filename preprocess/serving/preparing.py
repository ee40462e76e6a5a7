"""First step of a model on the CPU: the DALI pipeline inside Triton's Python backend.

image, region, size, intensity ─▶ network
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.pipeline import build_pipeline
from preprocess.serving.deadlock import end_when_stuck
from preprocess.serving.regions import close_regions
from preprocess.serving.tensors import invalid, quiet_capsules, read, respond
from preprocess.spec import load_model_spec

__all__ = ("PreparingModel", "complaint")


class PreparingModel:
    """Serves ``<model>_prep`` by the description in the folder ``<model>`` beside it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Builds the pipeline for as many slices as the configuration allows in one batch."""
        close_regions()
        quiet_capsules()
        folder = Path(args["model_repository"])
        name = args["model_name"].removesuffix("_prep")
        self._spec = load_model_spec(folder.parent / name / "model.yaml")
        config = json.loads(args["model_config"])
        self._pipeline = build_pipeline(
            self._spec, device="cpu", max_batch_size=int(config["max_batch_size"])
        )
        self._pipeline.build()
        end_when_stuck()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Preprocesses the slices of all requests in one run; wrong requests fail alone."""
        names = self._spec.tensors
        keys = (names.image, names.region, names.size, names.intensity)
        responses: list[Any] = [None] * len(requests)
        slices: dict[str, list[NDArray[Any]]] = {key: [] for key in keys}
        counts: dict[int, int] = {}
        for index, request in enumerate(requests):
            tensors = {key: read(request, key) for key in keys}
            wrong = complaint(*(tensors[key] for key in keys), canvas=self._spec.geometry.size)
            if wrong:
                responses[index] = invalid(wrong)
                continue
            counts[index] = len(tensors[names.image])
            for key in keys:
                slices[key].extend(tensors[key])
        if counts:
            ready = np.array(self._pipeline.run(**slices)[0].as_tensor())
            parts = np.split(ready, np.cumsum([*counts.values()])[:-1])
            for index, part in zip(counts, parts, strict=True):
                responses[index] = respond({names.network: part})
        return responses


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
    sides = np.array(image.shape[1:])
    start, end = region[:, :2], region[:, 2:]
    if not ((region >= 0).all() and (start <= sides).all() and (end <= sides).all()):
        return f"region: expected edges within {tuple(map(int, sides))}"
    if not (np.abs(end - start) > 0).all():
        return "region: expected a start other than its end"
    if not ((size >= 1).all() and (size <= np.array(canvas)).all()):
        return f"size: expected 1 x 1 to {canvas[0]} x {canvas[1]}"
    return ""

"""The reference: the network itself in float32, against which every engine is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.graph.heads import ExportedNetwork
from export.graph.planning import LOGITS, plan_graph
from export.recipe import GraphOptions
from export.sources.network import SourceNetwork
from preprocess.spec import ModelSpec

__all__ = ("EagerNetwork",)

_BATCH = 8


class EagerNetwork:
    """Runs the source's network as it was before any export; every head, and the logits.

    Raises:
        RecipeError: See ``plan_graph``.
        GraphError: See ``plan_graph``.
    """

    def __init__(
        self, network: SourceNetwork, spec: ModelSpec | None, options: GraphOptions
    ) -> None:
        plan = plan_graph(network, spec, options)
        self.name = "torch-f32"
        self._outputs = (*(name for name in plan.outputs if name != LOGITS), LOGITS)
        self._module = ExportedNetwork(network.module, plan, network.decision).eval()

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Answers for canvas images.

        Args:
            images: [N, channels, *canvas], any N.
        """
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                chunk = np.ascontiguousarray(images[start : start + _BATCH])
                parts.append(self._module(torch.from_numpy(chunk)))
        answers = zip(*parts, strict=True)
        return {
            name: torch.cat(answer).numpy()
            for name, answer in zip(self._outputs, answers, strict=True)
        }

"""The reference: the network itself in float32, against which every engine is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graph.heads import ExportedNetwork, Heads
from export.graph.joining import open_session
from export.graph.planning import LOGITS, plan_graph
from export.recipe import GraphOptions
from export.sources.network import SourceNetwork
from preprocess.spec import ModelSpec

__all__ = ("EagerNetwork",)

_BATCH = 8


class EagerNetwork:
    """Runs the source's network as it was before any export; every head, and the logits.

    A module runs in torch; the network of an ONNX source runs in ONNX Runtime without graph
    optimisation, at its own opset, and the heads on it in torch.

    Raises:
        RecipeError: See ``plan_graph``.
        GraphError: See ``plan_graph``.
        SourceError: An ONNX source's file cannot be read.
    """

    def __init__(
        self, network: SourceNetwork, spec: ModelSpec | None, options: GraphOptions
    ) -> None:
        plan = plan_graph(network, spec, options)
        self.name = "torch-f32"
        self._outputs = (*(name for name in plan.outputs if name != LOGITS), LOGITS)
        self._answer: Callable[[Tensor], tuple[Tensor, ...]]
        if network.onnx is None:
            self._answer = ExportedNetwork(network.module, plan, network.decision).eval()
            return
        self.name = "source-onnx"
        session, heads = open_session(network, network.onnx, plan), Heads(plan, network.decision)

        def answer(images: Tensor) -> tuple[Tensor, ...]:
            turned = plan.turn.to_network(images).contiguous()
            results: tuple[Tensor, ...] = heads(*map(torch.from_numpy, session.run(turned.numpy())))
            return results

        self._answer = answer

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Answers for canvas images.

        Args:
            images: [N, channels, *canvas], any N above 0.
        """
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                chunk = np.ascontiguousarray(images[start : start + _BATCH])
                parts.append(self._answer(torch.from_numpy(chunk)))
        return {
            name: torch.cat(answers).numpy()
            for name, answers in zip(self._outputs, zip(*parts, strict=True), strict=True)
        }

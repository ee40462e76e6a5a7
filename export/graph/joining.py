"""Joining: turn ▶ a source's ONNX graph ▶ heads, as one ONNX graph."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np
import onnx
from onnx import compose
from torch import Tensor, nn

from export.errors import RecipeError
from export.graph.heads import Heads
from export.graph.planning import IMAGE, GraphPlan, score_channels
from export.graph.tracing import OPSET, trace
from export.sources.network import SourceNetwork
from export.sources.onnx_model import ModelSession, as_network, at_opset, read_model, tensor_names

__all__ = ("join", "open_session")

_TURNED = "turned"
_INPUTS = ("scores", "features")


class _Entrance(nn.Module):
    """Canvas image ▶ image in the network's axes; a copy where they are the same."""

    def __init__(self, plan: GraphPlan) -> None:
        super().__init__()
        self.turn = plan.turn

    def forward(self, image: Tensor) -> Tensor:
        return self.turn.to_network(image).clone()


def join(
    network: SourceNetwork, path: Path, plan: GraphPlan, names: tuple[str, ...]
) -> onnx.ModelProto:
    """Puts the entrance before a source's graph, and the heads behind it.

    Args:
        network: What the source says of the file.
        path: The ONNX file.
        plan: What is exported.
        names: Names of what ``Heads`` answers.

    Raises:
        RecipeError: The graph has no tensor of the embedding's name.
        SourceError: The file's operators cannot be converted to the pinned opset.
    """
    spatial = plan.turn.size(plan.canvas)
    axes = tuple(range(2, 2 + len(spatial))) if plan.dynamic_spatial else ()
    middle = at_opset(_cut(network, path, plan), OPSET, path)
    shapes = {_INPUTS[0]: (score_channels(network), *spatial)}
    if plan.embedding is not None:
        shapes[_INPUTS[1]] = _features_shape(network, path, plan)
    entrance = trace(
        _Entrance(plan).eval(), {IMAGE: (network.channels, *plan.canvas)}, [_TURNED], axes
    )
    heads = trace(Heads(plan, network.decision).eval(), shapes, names, axes)
    taken, *_ = (value.name for value in middle.graph.input)
    wanted = [value.name for value in middle.graph.output]
    entrance.ir_version = heads.ir_version = middle.ir_version
    joined = compose.merge_models(
        compose.add_prefix(entrance, "entrance.", rename_inputs=False),
        compose.add_prefix(middle, "source."),
        io_map=[(f"entrance.{_TURNED}", f"source.{taken}")],
    )
    pairs = zip(wanted, _INPUTS, strict=False)
    return compose.merge_models(
        joined, heads, io_map=[(f"source.{name}", given) for name, given in pairs]
    )


def open_session(network: SourceNetwork, path: Path, plan: GraphPlan) -> ModelSession:
    """Opens a source's graph by itself: images in its axes ▶ scores, and features if asked."""
    return ModelSession(_cut(network, path, plan), path)


def _cut(network: SourceNetwork, path: Path, plan: GraphPlan) -> onnx.ModelProto:
    model = read_model(path)
    outputs = [network.scores]
    if plan.embedding is not None:
        computed = tensor_names(model)
        if plan.embedding not in computed:
            near = get_close_matches(plan.embedding, computed, n=4, cutoff=0.3) or computed[:4]
            raise RecipeError(
                f"export.graph.embedding: no tensor {plan.embedding!r} in {path}; near it: "
                f"{', '.join(near)}"
            )
        outputs.append(plan.embedding)
    spatial = None if plan.dynamic_spatial else plan.turn.size(plan.canvas)
    return as_network(model, path, outputs, spatial)


def _features_shape(network: SourceNetwork, path: Path, plan: GraphPlan) -> tuple[int, ...]:
    image = np.zeros((1, network.channels, *plan.turn.size(plan.canvas)), np.float32)
    _, features = open_session(network, path, plan).run(image)
    return features.shape[1:]

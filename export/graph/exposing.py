"""Exposing: the class scores of a graph, named ``logits``, become one of its outputs."""

from __future__ import annotations

import onnx

from export.errors import GraphError
from export.graph.planning import LOGITS

__all__ = ("with_logits",)


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a graph that also answers the class scores.

    Args:
        model: What ``export_graph`` wrote.

    Returns:
        A copy with the output ``logits``, or ``model`` itself where it has it.

    Raises:
        GraphError: The graph has no tensor of that name.
    """
    if any(output.name == LOGITS for output in model.graph.output):
        return model
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = next((info for info in exposed.graph.value_info if info.name == LOGITS), None)
    if known is None:
        raise GraphError(f"expected a tensor named {LOGITS!r} in the graph, there is none")
    exposed.graph.output.append(known)
    exposed.graph.value_info.remove(known)
    return exposed

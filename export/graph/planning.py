"""What the graph will be: canvas, turn and outputs, decided before anything is traced."""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import GraphError, RecipeError
from export.recipe import GraphOptions
from export.sources.network import DecisionKind, SourceNetwork
from export.sources.orientation import Turn, plan_turn
from preprocess.spec import Head, ModelSpec, Plane

__all__ = ("IMAGE", "LOGITS", "MASK", "GraphPlan", "plan_graph", "score_channels")

IMAGE = "image"
MASK = "mask"
LOGITS = str(Head.LOGITS)


@dataclass(frozen=True)
class GraphPlan:
    """What is exported.

    Attributes:
        turn: Between canvas and network.
        canvas: Size of the canvas: 2 (rows, columns) or 3 numbers (slices, rows, columns).
        heads: What the graph answers in addition to the mask, in the order of its outputs.
        embedding: Name of the module or tensor whose output becomes the embedding.
        dynamic_spatial: Whether the canvas may vary.
    """

    turn: Turn
    canvas: tuple[int, ...]
    heads: tuple[Head, ...]
    embedding: str | None
    dynamic_spatial: bool

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        return (MASK, *map(str, self.heads))


def plan_graph(network: SourceNetwork, spec: ModelSpec | None, options: GraphOptions) -> GraphPlan:
    """Decides what is exported.

    Args:
        network: As its source gives it.
        spec: The model's description; None for a network that is exported without being served:
            it has the mask alone, and an axial canvas of the size that the network was made for.
            The canvas of a volume (3 spatial axes) is the network's own size in either case.
        options: ``export.graph`` of MODEL.yaml.

    Raises:
        RecipeError: The orientation does not fit the planes, or heads and ``embedding`` disagree.
        GraphError: The network's classes are not those of the description.
    """
    planes = spec.route.planes if spec else (Plane.AXIAL,)
    axes = len(network.spatial)
    turn = plan_turn(options.orientation or network.orientation, planes, axes)
    heads = spec.heads if spec else ()
    if (Head.EMBEDDING in heads) != (options.embedding is not None):
        raise RecipeError(
            f"heads {[str(head) for head in heads]} and export.graph.embedding "
            f"{options.embedding!r} disagree: an embedding needs both, a model without one neither"
        )
    if spec and network.classes != len(spec.segments) + 1:
        raise GraphError(
            f"expected {len(spec.segments) + 1} classes ({len(spec.segments)} segments and the "
            f"background), the network has {network.classes}"
        )
    flat = spec is not None and axes == 2
    canvas = spec.geometry.size if spec and flat else turn.canvas_size(network.spatial)
    return GraphPlan(turn, canvas, heads, options.embedding, options.dynamic_spatial)


def score_channels(network: SourceNetwork) -> int:
    """Number of score channels: one for each class, or one for each region."""
    decision = network.decision
    return len(decision.values) if decision.kind is DecisionKind.REGIONS else network.classes

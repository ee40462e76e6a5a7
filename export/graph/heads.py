"""Heads: class scores ▶ mask, uncertainty, embedding, logits, all inside the exported graph."""

from __future__ import annotations

import math
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.errors import GraphError, RecipeError
from export.graph.planning import GraphPlan
from export.sources.network import Decision, DecisionKind
from export.sources.orientation import Turn
from preprocess.spec import Head

__all__ = ("ExportedNetwork", "Heads", "decide", "uncertainty")

_LEAST_PROBABILITY = 1e-5


def decide(scores: Tensor, decision: Decision) -> Tensor:
    """Makes the mask.

    Args:
        scores: float32 [N, channels, *spatial].
        decision: How.

    Returns:
        uint8 [N, *spatial].
    """
    if decision.kind is DecisionKind.ARGMAX:
        return scores.argmax(1).to(torch.uint8)
    mask = torch.zeros_like(scores[:, 0])
    for channel, value in enumerate(decision.values):
        mask = torch.where(scores[:, channel] > 0, float(value), mask)
    return mask.to(torch.uint8)


def uncertainty(scores: Tensor, decision: Decision) -> Tensor:
    """How undecided each pixel is: entropy over its greatest possible value, 0 to 255.

    Args:
        scores: float32 [N, channels, *spatial].
        decision: ``argmax``: the entropy of the softmax; ``regions``: the greatest of the
            channels' binary entropies.

    Returns:
        uint8 [N, *spatial], rounded to nearest.
    """
    if decision.kind is DecisionKind.ARGMAX:
        # One exp and one log for a class, half the time of log_softmax; less likely classes than
        # the least probability add nothing that can be seen in 255 steps, also in float16.
        probability = functional.softmax(scores, 1)
        nats = -(probability * probability.clamp(min=_LEAST_PROBABILITY).log()).sum(1)
        entropy = nats / math.log(scores.shape[1])
    else:
        # The entropy of sigmoid(x) is even in x; written for |x| it neither overflows nor cancels.
        size = scores.abs()
        nats = functional.softplus(-size) + size * torch.sigmoid(-size)
        entropy = nats.amax(1) / math.log(2)
    return (entropy * 255).round().clamp(0, 255).to(torch.uint8)


class Heads(nn.Module):
    """Scores in the network's axes ▶ outputs on the canvas, ``logits`` always the last."""

    def __init__(self, plan: GraphPlan, decision: Decision) -> None:
        super().__init__()
        self.turn: Turn = plan.turn
        self.decision = decision
        self.heads = plan.heads

    def forward(self, scores: Tensor, features: Tensor | None = None) -> tuple[Tensor, ...]:
        """Answers.

        Args:
            scores: float32 [N, channels, *spatial].
            features: Output of the module that embeds, [N, D, *any]; None without that head.

        Returns:
            The mask, then the plan's heads in their order without the logits, then the logits.
        """
        logits = self.turn.to_canvas(scores)
        answers = [decide(logits, self.decision)]
        for head in self.heads:
            if head is Head.UNCERTAINTY:
                answers.append(uncertainty(logits, self.decision))
            elif head is Head.EMBEDDING and features is not None:
                answers.append(_over_space(features))
        return (*answers, logits)


def _over_space(features: Tensor) -> Tensor:
    space = tuple(range(2, features.ndim))
    return features.mean(space) if space else features


class ExportedNetwork(nn.Module):
    """What is exported: canvas image [N, channels, *canvas] ▶ outputs of ``Heads``.

    Raises:
        RecipeError: The network has no module of the embedding's name.
    """

    def __init__(self, module: nn.Module, plan: GraphPlan, decision: Decision) -> None:
        super().__init__()
        self.module = module
        self.turn = plan.turn
        self.heads = Heads(plan, decision)
        self.embedding = plan.embedding
        if plan.embedding is not None:
            _require_module(module, plan.embedding)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Answers for images; see ``Heads.forward``.

        Raises:
            GraphError: The module that embeds did not answer one tensor with features.
        """
        turned = self.turn.to_network(image)
        if self.embedding is None:
            return self.heads(self.module(turned))
        kept: list[Tensor] = []
        hook = self.module.get_submodule(self.embedding).register_forward_hook(
            lambda _module, _inputs, output: kept.append(output)
        )
        try:
            scores = self.module(turned)
        finally:
            hook.remove()
        if len(kept) != 1 or not isinstance(kept[0], Tensor) or kept[0].ndim < 2:
            raise GraphError(
                f"export.graph.embedding {self.embedding!r}: expected one tensor [N, features, "
                f"...] for a forward pass, came {[type(value).__name__ for value in kept]}"
            )
        return self.heads(scores, kept[0])


def _require_module(module: nn.Module, name: str) -> None:
    names = [known for known, _ in module.named_modules() if known]
    if name not in names:
        near = get_close_matches(name, names, n=4, cutoff=0.3) or names[:4]
        raise RecipeError(f"export.graph.embedding: no module {name!r}; near it: {', '.join(near)}")

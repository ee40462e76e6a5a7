"""Heads: class scores ▶ mask, uncertainty, embedding, logits, all inside the exported graph."""

from __future__ import annotations

import math
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.errors import RecipeError
from export.graph.planning import GraphPlan
from export.sources.network import Decision, DecisionKind
from export.sources.orientation import Turn
from preprocess.spec import Head

__all__ = ("ExportedNetwork", "Heads", "decide", "uncertainty")


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
        log_p = functional.log_softmax(scores, 1)
        share = -(log_p.exp() * log_p).sum(1) / math.log(scores.shape[1])
    else:
        # The entropy of sigmoid(x) is even in x; written for |x| it neither overflows nor cancels.
        size = scores.abs()
        entropy = functional.softplus(-size) + size * torch.sigmoid(-size)
        share = entropy.amax(1) / math.log(2)
    return (share * 255).round().clamp(0, 255).to(torch.uint8)


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
                answers.append(features.flatten(2).mean(2) if features.ndim > 2 else features)
        return (*answers, logits)


class ExportedNetwork(nn.Module):
    """What is exported: canvas image [N, channels, *canvas] ▶ outputs of ``Heads``."""

    def __init__(self, module: nn.Module, plan: GraphPlan, decision: Decision) -> None:
        super().__init__()
        self.module = module
        self.turn = plan.turn
        self.heads = Heads(plan, decision)
        self._features: list[Tensor] = []
        if plan.embedding is not None:
            _named(module, plan.embedding).register_forward_hook(self._keep)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Answers for images; see ``Heads.forward``."""
        self._features.clear()
        scores = self.module(self.turn.to_network(image))
        features = self._features.pop() if self._features else None
        return self.heads(scores, features)

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._features.append(output)


def _named(module: nn.Module, name: str) -> nn.Module:
    modules = dict(module.named_modules())
    if name in modules and name:
        return modules[name]
    near = get_close_matches(name, modules, n=4, cutoff=0.3) or list(modules)[1:5]
    raise RecipeError(f"export.graph.embedding: no module {name!r}; near it: {', '.join(near)}")

"""One forward pass of a zero image: does a module answer scores of the shape it should?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.errors import SourceError

__all__ = ("probe",)


def probe(
    module: nn.Module, channels: int, spatial: tuple[int, ...], scores: int, name: str
) -> None:
    """Runs a zero image and checks what comes back.

    Args:
        module: In evaluation mode, on the CPU.
        channels: Input channels.
        spatial: Size of the spatial axes, as the network sees them.
        scores: Score channels that must come back.
        name: How the error names the network.

    Raises:
        SourceError: The forward pass failed, or its answer is no tensor of that shape.
    """
    image = torch.zeros(1, channels, *spatial)
    expected = [1, scores, *spatial]
    # A foreign forward pass raises anything.
    try:
        with torch.inference_mode():
            answer = module(image)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SourceError(
            f"{name}: the forward pass of an image {list(image.shape)} failed: "
            f"{type(error).__name__}: {reason}"
        ) from error
    if not isinstance(answer, Tensor):
        raise SourceError(f"{name}: expected scores {expected}, came a {type(answer).__name__}")
    if list(answer.shape) != expected or not answer.is_floating_point():
        raise SourceError(
            f"{name}: expected float scores {expected}, came {answer.dtype} {list(answer.shape)}"
        )

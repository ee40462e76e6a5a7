"""The 2D U-Net: image [N,1,H,W] ▶ class scores [N,12,H,W]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.label_maps import CLASS_NAMES

__all__ = ("CHANNELS", "UNet", "parameter_count")

CHANNELS = (16, 32, 64, 128, 256)


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (channels_in, channels_out):
        layers += [
            nn.Conv2d(c, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Five levels of two 3x3 convolutions; height and width must be multiples of 16.

    Batch normalisation, not instance normalisation: it folds into the convolutions.
    """

    def __init__(
        self, channels: tuple[int, ...] = CHANNELS, classes: int = len(CLASS_NAMES)
    ) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.encoder = nn.ModuleList(_block(a, b) for a, b in [(1, channels[0]), *pairs])
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.decoder = nn.ModuleList(_block(2 * a, a) for a, _ in pairs)
        self.head = nn.Conv2d(channels[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores [N, classes, H, W] of image [N, 1, H, W]."""
        skips: list[Tensor] = []
        x = image
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        for level in reversed(range(len(self.upsample))):
            x = self.upsample[level](x)
            x = self.decoder[level](torch.cat([x, skips[level]], 1))
        scores: Tensor = self.head(x)
        return scores


def parameter_count(module: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(p.numel() for p in module.parameters())
